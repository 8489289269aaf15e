"""How many registers the threads of a CUDA program need at least; the compiler adds addresses and what it keeps."""

from __future__ import annotations

from collections.abc import Sequence

from blockfuse.machine import (
    Accumulators,
    Depthwise,
    Engine,
    Epilogue,
    Gemm,
    Grouped,
    Level,
    Load,
    Mask,
    Node,
    Program,
    Residual,
    Tile,
    Zero,
    walk,
)
from blockfuse.program.check import WGMMA_STEPS

_CACHED = 40  # weights of DEPTHWISE that stay in registers
_MOST_WIDE = 8  # n8 tiles of a unit of GROUPED


def live_registers(program: Program) -> int:
    """Sums alive at the same time, fragments, addresses of pixels, operands that stay, what an instruction holds."""
    nodes = list(walk(program.body))
    used: dict[Accumulators, list[int]] = {}
    addresses: dict[tuple[Accumulators, Tile], int] = {}
    fragments = 0
    for at, node in enumerate(nodes):
        if isinstance(node, Zero) and isinstance(node.target, Accumulators):
            used.setdefault(node.target, []).append(at)
        if not isinstance(node, Gemm | Epilogue) or node.acc.tiling is None:
            continue
        used.setdefault(node.acc, []).append(at)
        together = WGMMA_STEPS if node.acc.tiling.engine is Engine.WGMMA else 1
        fragments = max(fragments, 4 * node.acc.tiling.mb * together + 4)
        if isinstance(node, Gemm):
            addresses[node.acc, node.source] = node.acc.tiling.mb
    sums = max((_alive(used, at) + fragments for times in used.values() for at in times), default=0)
    others = max((_alive(used, at) + _held(program, node) for at, node in enumerate(nodes)), default=0)
    return max(sums, others) + sum(addresses.values()) + _kept_pixels(nodes)


def _alive(used: dict[Accumulators, list[int]], at: int) -> int:
    """Sums that are in registers at a place, from their first use to their last."""
    return sum(acc.registers for acc, times in used.items() if times[0] <= at <= times[-1])


def _held(program: Program, node: Node) -> int:
    """What an instruction without sums of its own in the program keeps in registers."""
    lanes = program.lanes
    if isinstance(node, Depthwise):
        taps = node.window.taps * lanes
        return node.pixels * lanes + (taps if taps <= _CACHED else node.window.r * lanes) + 2 * lanes
    if isinstance(node, Grouped):
        return node.pixels * (min(_MOST_WIDE, -(-node.width // 8)) * 4 + 1) + 12
    if isinstance(node, Epilogue) and node.acc.tiling is not None and node.target.level is not Level.REGISTER:
        places = 1 + sum(isinstance(step, Residual | Mask) for step in node.steps)
        return 2 * node.acc.tiling.mb * places + 4
    return 0


def _kept_pixels(nodes: Sequence[Node]) -> int:
    """Registers for operands that stay there: a half per element of this thread, two to a register."""
    fills = {node.target: node for node in nodes if isinstance(node, Load | Epilogue)}
    kept: dict[Tile, int] = {}
    for gemm in nodes:
        if not isinstance(gemm, Gemm) or gemm.acc.tiling is None or gemm.source.level is not Level.REGISTER:
            continue
        fill, tiling = fills[gemm.source], gemm.acc.tiling
        rows = gemm.acc.region.rows.size.const * gemm.acc.region.cols.size.const
        tiles = fill.acc.tiling.mb if isinstance(fill, Epilogue) and fill.acc.tiling else -(-rows // 16 // tiling.wm)
        kept[gemm.source] = tiles * gemm.source.channels // 4
    return sum(kept.values())
