"""What must hold of a finished CUDA program, whatever plan it came from.

The float64 interpreter checks what a program computes; these checks are cheap and name the rule that is broken.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeGuard

from blockfuse.errors import InternalError
from blockfuse.integers import round_up
from blockfuse.machine import (
    WARPGROUP,
    Accumulators,
    Depthwise,
    Engine,
    Gemm,
    Grouped,
    Loop,
    LoopKind,
    Node,
    Pixels,
    Program,
    Reduce,
    Step,
    Tile,
    Zero,
    reads,
    walk,
    written,
)
from blockfuse.program.passes import ALIGNMENT
from blockfuse.stages import Window

WGMMA_STEPS = 4  # k16 steps of wgmma that may be under way: each has its operands in registers of its own
WGMMA_ALIGNMENT = 1024  # bytes: the pattern of swizzled weights repeats, and begins, at multiples of this
_VECTOR = 8  # outputs of weights in memory are a multiple of this
_WGMMA_TYPES = ("float16", "bfloat16")


def task(program: Program) -> list[Node]:
    """The nodes inside all parallel loops: what one CTA executes."""
    nodes = program.body
    while len(nodes) == 1 and isinstance(nodes[0], Loop) and nodes[0].kind.is_parallel:
        nodes = nodes[0].body
    return nodes


def executions(program: Program) -> Iterator[tuple[Node, dict[str, int]]]:
    """Every node that the first tile's CTAs execute, share by share of the channels, with the trips of its loops."""
    nodes = task(program)
    for parallel in _shares(program):
        yield from _executions(nodes, parallel)


def _shares(program: Program) -> list[dict[str, int]]:
    """The parallel loops' trips in the CTAs of the first tile: one CTA for every share of the result's channels."""
    loops = [node for node in program.walk() if isinstance(node, Loop) and node.kind.is_parallel]
    first = {loop.var: 0 for loop in loops}
    split = next((loop for loop in loops if loop.kind is LoopKind.CHANNEL_SPLIT), None)
    return [first] if split is None else [{**first, split.var: share} for share in range(split.count)]


def _executions(nodes: Sequence[Node], env: dict[str, int]) -> Iterator[tuple[Node, dict[str, int]]]:
    for node in nodes:
        yield node, env
        if isinstance(node, Loop):
            for trip in range(node.count):
                yield from _executions(node.body, {**env, node.var: trip})
        elif isinstance(node, Pixels | Step):
            yield from _executions(node.body, env)


def check(program: Program) -> None:
    """Raise :class:`InternalError` unless a CUDA program keeps the rules its lowering relies on."""
    for reason in (
        *_stream_faults(program),
        *_tile_faults(program),
        *_order_faults(program),
        *_weight_faults(program),
        *_engine_faults(program),
    ):
        raise InternalError(f"program {program.name}: {reason}")


def is_direct(node: Node) -> TypeGuard[Depthwise | Grouped | Reduce]:
    """Whether an instruction goes from an image in memory to another, with its weights in memory."""
    return isinstance(node, Depthwise | Grouped | Reduce) and node.target.is_global and node.source.is_global


def stream_length(program: Program) -> int:
    """Elements of the packed weights."""
    held = [memory_size(node) for node in program.walk() if is_direct(node) and not isinstance(node, Reduce)]
    return max((base + size for base, size in _items(program)), default=sum(held))


def memory_size(node: Depthwise | Grouped) -> int:
    """Elements of weights that lie in memory as a whole: [tap][input][output], the outputs filled up."""
    return node.weights.taps.size.const * node.weights.inputs.size.const * memory_outputs(node)


def memory_outputs(node: Depthwise | Grouped) -> int:
    """Outputs of such weights: those of the image, filled up for vectors."""
    return round_up(node.target.image.channels, _VECTOR)


def _items(program: Program) -> set[tuple[int, int]]:
    """First element and size of the items of all steps."""
    steps = ((node, env) for node, env in executions(program) if isinstance(node, Step))
    return {(node.item.base + node.item.index.at(env) * node.item.size, node.item.size) for node, env in steps}


def _stream_faults(program: Program) -> Iterator[str]:
    """Every CTA uses an item once, items fill the stream without gaps, and each fits its slot."""
    items, nodes = _items(program), task(program)
    if items and program.ring is None:
        yield "steps without a ring"
        return
    end = 0
    for base, size in sorted(items):
        if base < end:
            yield f"the item at {base} overlaps another"
        if base > end:
            yield f"elements {end} to {base} of the stream are in no item"
        end = base + size
    spaces = [node.item.space for node in program.walk() if isinstance(node, Step)]
    if program.ring is not None and any(space > program.ring.slot for space in spaces):
        yield f"an item is larger than a slot of {program.ring.slot}"
    for parallel in _shares(program):
        steps = [(node, env) for node, env in _executions(nodes, parallel) if isinstance(node, Step)]
        used = [n.item.base + n.item.index.at(env) * n.item.size for n, env in steps if n.item.size]
        if len(used) != len(set(used)):
            yield "an item is streamed twice"
        if [node.number.at(env) for node, env in steps] != list(range(len(steps))):
            yield "steps are not numbered in execution order"


def _tile_faults(program: Program) -> Iterator[str]:
    """Offsets and pitches keep the alignment of the widest access."""
    names = [tile.name for tile in program.tiles]
    for name in {name for name in names if names.count(name) > 1}:
        yield f"two tiles are called {name}"
    for tile in program.tiles:
        if not tile.is_placed:
            continue
        if tile.offset < 0 or tile.offset % ALIGNMENT or tile.offset + tile.size > program.arena:
            yield f"tile {tile} is not placed in the arena of {program.arena}"
    for node in program.walk():
        if isinstance(node, Gemm) and _is_odd(node.source, 8):
            yield f"tile {node.source}: ldmatrix needs a layout in multiples of 8, not {node.source.layout}"
        if isinstance(node, Depthwise) and (_is_odd(node.source, program.lanes) or _is_odd(node.target, program.lanes)):
            yield f"{node.source} and {node.target}: layouts must be in multiples of the {program.lanes} lanes"
        if isinstance(node, Gemm | Depthwise | Grouped) and _jumps(node.source, node.window):
            yield f"tile {node.source}: a window that moves by {node.window} has no steps in {node.source.layout}"


def _is_odd(tile: Tile, multiple: int) -> bool:
    """Whether some pixel of a tile does not begin at a multiple."""
    return any(part % multiple for part in (tile.pitch, tile.gap, tile.padding))


def _jumps(tile: Tile, window: Window) -> bool:
    """Whether the pixels that a window moves over have not all the same remainder."""
    return bool(window.stride_h % tile.apart_h or window.stride_w % tile.apart_w)


def _order_faults(program: Program) -> Iterator[str]:
    """Tiles are written before they are read, sums zeroed before they are added to."""
    filled: set[Tile | Accumulators] = set(program.inputs)
    for node in program.walk():
        if isinstance(node, Step) and node.item.pixels:
            filled.add(node.item.pixels.target)
        if isinstance(node, Loop | Pixels | Step):
            continue
        for tile in reads(node):
            if tile not in filled:
                yield f"{str(node).strip()} reads {tile}, which nothing has written"
        if isinstance(node, Gemm) and node.acc not in filled:
            yield f"{str(node).strip()} adds to sums that nothing has zeroed"
        filled.update(written(node))
        if isinstance(node, Zero) and isinstance(node.target, Accumulators):
            filled.add(node.target)


def _weight_faults(program: Program) -> Iterator[str]:
    """Weights are used in the step whose item holds them."""
    for node in program.walk():
        if isinstance(node, Step):
            held = node.item.slices
            for inner in walk(node.body):
                if isinstance(inner, Gemm | Depthwise) and inner.weights not in held:
                    yield f"{inner.weights} is not in the item {node.item.name}"


def _engine_faults(program: Program) -> Iterator[str]:
    """Four neighbouring warps execute wgmma together, and its weights keep the alignment of their swizzle."""
    if not program.uses(Engine.WGMMA):
        return
    if program.dtype not in _WGMMA_TYPES:
        yield f"wgmma does not multiply {program.dtype}"
    ring = program.ring
    if ring is not None and (ring.offset * 2 % WGMMA_ALIGNMENT or ring.slot * 2 % WGMMA_ALIGNMENT):
        yield f"slots of {ring.slot} elements from {ring.offset} are not at multiples of {WGMMA_ALIGNMENT} bytes"
    for node in program.walk():
        if not isinstance(node, Gemm) or node.acc.tiling is None:
            continue
        if node.acc.tiling.engine is Engine.WGMMA and node.acc.tiling.wm % WARPGROUP:
            yield f"{node.acc}: {node.acc.tiling.wm} warps along the pixels are not whole warpgroups"
