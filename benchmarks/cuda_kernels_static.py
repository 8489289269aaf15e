"""What generated CUDA kernels need and do, found without a GPU: by compiling them and by emulating them.

    python -m benchmarks.cuda_kernels_static                 a table of every case
    python -m benchmarks.cuda_kernels_static basic --json    cases whose name contains a word, as JSON
    python -m benchmarks.cuda_kernels_static --engine wgmma  with the other engine, for sm_90a

Registers and spills are those nvcc reports (rows are missing where it is not installed). Everything else
is counted by the emulator, per CTA: ``conflicts`` are passes through the shared-memory banks over passes without any
conflict. Products of wgmma count as the mma of m16n8k16 that do the same. Cycles per SM are a model, not a
measurement: mma / 0.62, or / 0.96 with wgmma; wavefronts + asynchronous bytes / 128 + what wgmma reads / 128; 32-byte
sectors * 32 / 28.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from blockfuse.block import Block
from blockfuse.machine import Engine, Gemm, Loop, Node, Pixels, Program, Region, Step
from blockfuse.report import table
from blockfuse.stages import Conv, Window
from tests.cuda_kernels import Built, Run, build, built_as, grid, rounded_weights, run
from tests.emulated.nvcc import compile_cubin, find_nvcc
from tests.residual_blocks import basic, bottleneck, convfirst, convnext, mbconv, same, single

ARCHS = {Engine.MMA: ("sm_80", "sm_90"), Engine.WGMMA: ("sm_90a",)}
_FLOP_SHARE = {Engine.MMA: 0.62, Engine.WGMMA: 0.96}  # of the tensor peak
_MMA_BYTES = 64  # of weights that wgmma reads for the work of one mma: 256 of them for four
_CORE = 16  # pixels or channels of an mma tile
_BANK_BYTES = 128  # of shared memory per cycle
_SECTOR, _L2_BYTES = 32, 28  # bytes; bytes of L2 per cycle and SM


@dataclass(frozen=True)
class Case:
    """A block and the tile to compile it at; the planner chooses where there is none.

    Plans are made for ``batch`` images, if that is given, whatever the block has; those of the block are emulated.
    """

    name: str
    block: Block
    tile: tuple[int, int] | None = None
    warps: int | None = None
    batch: int | None = None


CASES = [
    Case("basic 28x28x128, 7x14", basic(28, 28, 128), (7, 14), 8),
    Case("basic 28x28x128, planned", basic(28, 28, 128)),
    Case("mbconv 28x28 32-192-32, 7x14", mbconv(28, 28, 32, 192), (7, 14), 4),
    Case("mbconv 28x28 32-192-32, planned", mbconv(28, 28, 32, 192)),
    Case("basic 56x56 64-128 stride 2, 7x14", basic(56, 56, 64, 128, stride=2), (7, 14), 8),
    Case("mbconv 56x56 24-144-40 5x5 stride 2, 7x7", mbconv(56, 56, 24, 144, 40, r=5, stride=2), (7, 7), 4),
    Case("bottleneck 56x56 256-64, 8x14", bottleneck(56, 56, 256, 64), (8, 14), 8),
    Case("bottleneck 28x28 512-128, 14x14", bottleneck(28, 28, 512, 128), (14, 14), 8),
    Case("mbconv 28x28 48-240-48, 7x14", mbconv(28, 28, 48, 240), (7, 14), 4),
    Case("convnext 56x56 96, 8x8", convnext(56, 56, 96), (8, 8), 4),
    Case("convfirst 64x64 64, 16x16", convfirst(64, 64, 64), (16, 16), 8),
    Case("3x3 7x7 512-512, batch 4, planned", single(7, 7, 512, Conv("conv", (0,), 512, same(3)), 4)),
    Case("classifier 2048-1000, batch 16, planned", single(1, 1, 2048, Conv("fc", (0,), 1000, Window()), 16)),
]


def measure(case: Case, engine: Engine) -> dict[str, object]:
    """One row of figures."""
    wide = replace(case.block, batch=case.batch or case.block.batch)
    built = built_as(rounded_weights(case.block), build(wide, case.tile, case.warps, engine=engine).plan)
    return {
        "kernel": case.name,
        "engine": str(engine),
        "tile": f"{built.plan.tile_p}x{built.plan.tile_q}",
        "warps": built.plan.warps,
        "depth": built.plan.depth,
        "CTAs per SM": built.plan.resident,
        "CTAs": grid(built.program),
        "shared bytes": 2 * built.program.arena,
        **_compiled(built),
        **_executed(built, run(built, count=True)),
    }


def _compiled(built: Built) -> dict[str, object]:
    if find_nvcc() is None:
        return {}
    row: dict[str, object] = {}
    for arch in ARCHS[built.plan.engine]:
        stats = compile_cubin(built.source, arch, dynamic_shared_bytes=2 * built.program.arena)
        row[f"registers {arch}"] = stats.registers
        row[f"spilled bytes {arch}"] = stats.spill_load_bytes + stats.spill_store_bytes
        row[f"instructions {arch}"] = stats.instructions
    return row


def _executed(built: Built, result: Run) -> dict[str, object]:
    c, ctas = result.counters, grid(built.program)
    wavefronts = c.ldmatrix_wavefronts + c.shared_load_wavefronts + c.shared_store_wavefronts
    mma = c.mma + c.wgmma_shared_bytes // _MMA_BYTES
    return {
        "error of allowed": round(result.error, 3),
        "findings": len(result.findings),
        "wgmma": c.wgmma // ctas,
        "mma, or as many": mma // ctas,
        "ldmatrix": c.ldmatrix // ctas,
        "fragment loads": c.ldmatrix // ctas + weight_loads(built.program),
        "ldmatrix per mma": round(c.ldmatrix / max(mma, 1), 3),
        "shared loads": c.shared_loads // ctas,
        "shared stores": c.shared_stores // ctas,
        "ldmatrix conflicts": round(c.ldmatrix_wavefronts / max(c.ldmatrix_ideal, 1), 2),
        "load conflicts": round(c.shared_load_wavefronts / max(c.shared_load_ideal, 1), 2),
        "store conflicts": round(c.shared_store_wavefronts / max(c.shared_store_ideal, 1), 2),
        "barriers": c.barriers // ctas,
        "tensor cycles": round(mma / ctas / _FLOP_SHARE[built.plan.engine]),
        "shared cycles": round((wavefronts + (c.async_copy_bytes + c.wgmma_shared_bytes) / _BANK_BYTES) / ctas),
        "L2 cycles": round((c.global_load_sectors + c.global_store_sectors) * _SECTOR / _L2_BYTES / ctas),
    }


def weight_loads(program: Program) -> int:
    """Loads of 16 bytes per lane with which the warps of a CTA fetch weights for mma.sync."""
    return _weight_loads(program.body, 1)


def _weight_loads(nodes: Sequence[Node], times: int) -> int:
    total = 0
    for node in nodes:
        if isinstance(node, Loop):
            total += _weight_loads(node.body, times if node.kind.is_parallel else times * node.count)
        elif isinstance(node, Step):
            total += _weight_loads(node.body, times)
        elif isinstance(node, Pixels):
            total += _weight_loads(node.body, times * -(-_m16_tiles(node.region) // (node.pixels * _rows(node))))
        elif isinstance(node, Gemm) and node.acc.tiling is not None and node.acc.tiling.engine is Engine.MMA:
            weights, channels = node.weights, node.acc.region.channels.size.const
            depth = weights.taps.size.const * weights.inputs.size.const // _CORE
            total += times * node.acc.tiling.wm * depth * channels // _CORE
    return total


def _rows(pixels: Pixels) -> int:
    """Warps along the pixels of a loop over pieces."""
    return next(node.acc.tiling.wm for node in pixels.body if isinstance(node, Gemm) and node.acc.tiling is not None)


def _m16_tiles(region: Region) -> int:
    return -(-region.rows.size.const * region.cols.size.const // _CORE)


def main() -> None:
    """Print the figures of the chosen cases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="cases whose name contains one of these; all by default")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--engine", choices=[str(e) for e in Engine], default=str(Engine.MMA), help="what makes sums")
    options = parser.parse_args()
    chosen = [case for case in CASES if not options.words or any(word in case.name for word in options.words)]
    rows = [measure(case, Engine(options.engine)) for case in chosen]
    if options.json:
        print(json.dumps(rows, indent=2))
        return
    keys = list(dict.fromkeys(key for row in rows for key in row))
    print("\n".join(table([(key, *(str(row.get(key, "")) for row in rows)) for key in keys])))


if __name__ == "__main__":
    main()
