"""Program -> PrimFunc: the walk over loops, and where tiles live.

serial loops around several grids          where phases follow each other
  parallel (image, band, share)            loops directly inside each other become one
    tiles and registers of the task
    serial loops: steps of rows, chunks    tiles keep what they hold from trip to trip
      instructions
"""

from __future__ import annotations

from math import prod
from typing import Any

from tvm import tirx

from blockfuse.errors import InternalError
from blockfuse.machine import (
    Depthwise,
    Grouped,
    Load,
    Loop,
    LoopKind,
    Map,
    Node,
    Normalize,
    Pixels,
    Program,
    Reduce,
    ReduceAcross,
    Step,
    Tile,
    Zero,
    reads,
    walk,
    written,
)
from blockfuse.schedules.cpu.context import Kernel
from blockfuse.schedules.cpu.depthwise import lower_depthwise
from blockfuse.schedules.cpu.grouped import lower_grouped
from blockfuse.schedules.cpu.load import lower_load, lower_zero
from blockfuse.schedules.cpu.map import lower_map, lower_reduce_across
from blockfuse.schedules.cpu.normalize import REGISTERS, lower_normalize
from blockfuse.schedules.cpu.pack import layout
from blockfuse.schedules.cpu.pixels import lower_pixels
from blockfuse.schedules.cpu.reduce import lower_reduce
from blockfuse.schedules.cpu.vectors import widths
from blockfuse.schedules.emit import Buffer, Emitter, Index, constant, quotient, remainder


def lower(program: Program, *, poison: bool = False) -> Any:
    """The kernel of a program.

    Args:
        program: What it computes.
        poison: Whether tiles and registers start as NaN, so that what is read before it was written shows.

    Returns:
        A PrimFunc of the inputs, (N, H, W, C) or (N, C, H, W) where planar, the array that
        :func:`~blockfuse.schedules.cpu.pack` makes, and the output, (N, H, W, C). Addresses need no alignment.

    Raises:
        InternalError: The program has words that are not for CPUs.
    """
    if program.target != "cpu" or program.dtype != "float32":
        raise InternalError(f"program {program.name} is for {program.target} and {program.dtype}")
    emitter, plan = Emitter(), layout(program)
    batch = tirx.Var("batch", "int32") if program.any_batch else program.batch
    buffers = {tile: emitter.parameter(tile.name, _shape(batch, tile)) for tile in program.inputs}
    weights = emitter.parameter("weights", (plan.size,))
    buffers[program.output] = emitter.parameter(program.output.name, _shape(batch, program.output))
    kernel = Kernel(program, emitter, plan, weights, buffers, batch, poison)
    _scope(kernel, program.body, _homes(program))
    return emitter.function(program.name)


def _shape(batch: Index, tile: Tile) -> tuple[Index, int, int, int]:
    image = tile.image
    if tile.planar:
        return batch, image.channels, image.height, image.width
    return batch, image.height, image.width, tile.channels


# ---- loops -----------------------------------------------------------------------------------------------------------


def _scope(kernel: Kernel, nodes: list[Node], homes: dict[Tile, int]) -> None:
    """Emit nodes with the tiles that live around them, and with registers if no grid is inside."""
    for tile, home in homes.items():
        if home == id(nodes):
            kernel.buffers[tile] = _alloc(kernel, tile.name, tile.size * tile.copies)
    if not _has_grid(nodes):
        kernel.registers = {
            lanes: [_alloc(kernel, f"sum{i}_of_{lanes}", lanes) for i in range(count)]
            for lanes, count in _registers(nodes, kernel.lanes).items()
        }
    _emit(kernel, nodes, homes)


def _alloc(kernel: Kernel, name: str, size: int) -> Buffer:
    buffer = kernel.emitter.alloc(name, size)
    if kernel.poison:
        with kernel.emitter.loop(size) as i:
            kernel.emitter.store(buffer, i, constant(float("nan")))
    return buffer


def _emit(kernel: Kernel, nodes: list[Node], homes: dict[Tile, int]) -> None:
    for node in nodes:
        match node:
            case Loop() if node.kind.is_parallel:
                _grid(kernel, node, homes)
            case Loop():
                with kernel.emitter.loop(node.count, node.var) as i:
                    _set(kernel, node, i)
                    _emit(kernel, node.body, homes)
            case _:
                _instruction(kernel, node)


def _grid(kernel: Kernel, loop: Loop, homes: dict[Tile, int]) -> None:
    """Emit parallel loops: as one if nothing inside is parallel, else the outer one serially."""
    loops = _nest(loop)
    body = loops[-1].body
    if _has_grid(body):
        with kernel.emitter.loop(_trips(kernel, loop), loop.var) as i:
            _set(kernel, loop, i)
            _scope(kernel, loop.body, homes)
        return
    total = prod(_trips(kernel, each) for each in loops)
    with kernel.emitter.loop(total, "task", "parallel") as task:
        rest: Index = task
        for each in reversed(loops):
            trips = _trips(kernel, each)
            trip = remainder(rest, trips) if isinstance(trips, int) else rest  # nothing is outside the open batch
            _set(kernel, each, kernel.emitter.bind(each.var, trip))
            rest = quotient(rest, each.count)
        _scope(kernel, body, homes)


def _trips(kernel: Kernel, loop: Loop) -> Index:
    """Trips of a parallel loop; those over images may be a variable."""
    return kernel.batch if loop.kind is LoopKind.IMAGE else loop.count


def _nest(loop: Loop) -> list[Loop]:
    """A parallel loop and those directly inside it."""
    loops = [loop]
    while len(loops[-1].body) == 1:
        inner = loops[-1].body[0]
        if not isinstance(inner, Loop) or not inner.kind.is_parallel:
            break
        loops.append(inner)
    return loops


def _set(kernel: Kernel, loop: Loop, value: Index) -> None:
    kernel.env[loop.var] = value
    if loop.kind is LoopKind.IMAGE:
        kernel.image = value
    if loop.kind is LoopKind.CHANNEL_SPLIT:
        kernel.share = value


def _has_grid(nodes: list[Node]) -> bool:
    return any(isinstance(node, Loop) and node.kind.is_parallel for node in walk(nodes))


# ---- tiles and registers ---------------------------------------------------------------------------------------------


def _homes(program: Program) -> dict[Tile, int]:
    """For each tile the identity of the innermost node list, around or inside grids, that holds all its uses.

    A shared tile is read by another grid than the one that writes it, so it never lives inside a grid.
    """
    paths: dict[Tile, tuple[int, ...]] = {}
    for tile, path in _uses(program.body, (id(program.body),), in_grid=False):
        if tile.is_global:
            continue
        paths[tile] = _common(paths[tile], path) if tile in paths else path
    return {tile: path[-1] for tile, path in paths.items()}


def _uses(nodes: list[Node], path: tuple[int, ...], *, in_grid: bool) -> list[tuple[Tile, tuple[int, ...]]]:
    """Every use of a tile with the node lists it may live in, outermost first."""
    out: list[tuple[Tile, tuple[int, ...]]] = []
    for node in nodes:
        if isinstance(node, Loop) and node.kind.is_parallel:
            body = _nest(node)[-1].body
            inner = node.body if _has_grid(body) else body
            out += _uses(inner, (*path, id(inner)), in_grid=not _has_grid(body))
        elif isinstance(node, Loop | Pixels | Step):
            out += _uses(node.body, path, in_grid=in_grid)
        else:
            for tile in (*reads(node), *written(node)):
                out.append((tile.owner, path[:-1] if in_grid and tile.is_shared else path))
    return out


def _common(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    shared = [x for x, y in zip(a, b, strict=False) if x == y]
    return tuple(shared)


def _registers(nodes: list[Node], lanes: int) -> dict[int, int]:
    """For vectors of every width, sums that are in registers at once."""
    needs: dict[int, int] = {}
    for node in walk(nodes):
        match node:
            case Pixels():
                count = node.pixels * node.vectors
            case Depthwise() | Grouped() | Reduce():
                count = node.pixels
            case Normalize():
                needs[lanes] = max(needs.get(lanes, 0), REGISTERS * node.pixels)
                continue
            case _:
                continue
        for width in widths(node.region.channels.size.const, lanes):
            needs[width] = max(needs.get(width, 0), count)
    return needs


# ---- instructions ----------------------------------------------------------------------------------------------------


def _instruction(kernel: Kernel, node: Node) -> None:
    match node:
        case Pixels():
            lower_pixels(kernel, node)
        case Depthwise():
            lower_depthwise(kernel, node)
        case Grouped():
            lower_grouped(kernel, node)
        case Normalize():
            lower_normalize(kernel, node)
        case Map():
            lower_map(kernel, node)
        case Reduce():
            lower_reduce(kernel, node)
        case ReduceAcross():
            lower_reduce_across(kernel, node)
        case Load():
            lower_load(kernel, node)
        case Zero():
            lower_zero(kernel, node)
        case _:
            raise InternalError(f"{node} is not for CPUs")
