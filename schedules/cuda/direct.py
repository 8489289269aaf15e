"""GROUPED, DEPTHWISE and REDUCE from an image in memory to another, with weights in memory; nothing is staged.

::

    thread = (pixel, V neighbouring channels of the result)
      for r, s in window:
        if inside the image:
          for channel of the group:  sums[V] += source[pixel under the tap, channel] * weights[tap, channel, V]
      result[pixel, V] = steps(sums)                       or of the maximum, or of the mean of the pixels inside

DEPTHWISE and REDUCE read V channels of the source instead, each for itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from tvm import tirx

from blockfuse.machine import Depthwise, Grouped, Reduce, Tile
from blockfuse.program.check import memory_outputs
from blockfuse.schedules.cuda.emitter import both, fp32
from blockfuse.schedules.cuda.finish import Element, finish, load_constants, pixel_tiles
from blockfuse.schedules.cuda.kernel import Kernel
from blockfuse.schedules.cuda.reduce import LOWEST, reduced
from blockfuse.schedules.emit import Buffer, Expr, Index, constant, load, quotient, remainder

Direct: TypeAlias = Grouped | Depthwise | Reduce


@dataclass(frozen=True)
class _Place:
    """What one thread makes.

    Attributes:
        row: Of the image.
        col: Of the image.
        channel: First channel, of the image.
        within: The same within the region.
        width: Channels.
    """

    row: Index
    col: Index
    channel: Index
    within: Index
    width: int


def lower(kernel: Kernel, node: Direct) -> None:
    """Emit the loop over pixels and groups of channels."""
    emit, region, image = kernel.emit, node.region, node.target.image
    width = _width(kernel, node)
    cols, groups = region.cols.size.const, region.channels.size.const // width
    total = region.rows.size.const * cols * groups
    with emit.loop(-(-total // kernel.threads), "i") as i:
        number = emit.bind("number", i * kernel.threads + emit.thread)
        pixel, within = quotient(number, groups), emit.bind("within", remainder(number, groups) * width)
        row, col = emit.bind("row", quotient(pixel, cols)), emit.bind("col", remainder(pixel, cols))
        known = kernel.bounds(region.channels.high)[1] <= image.channels
        channel = emit.bind("channel", kernel.at(region.channels.low) + within)
        exists = both(
            total % kernel.threads == 0 or number < total,
            kernel.inside(region, node.target, row, col),
            known or channel < image.channels,
        )
        with emit.when(exists):
            y, x = (emit.bind("y", kernel.at(region.rows.low) + row), emit.bind("x", kernel.at(region.cols.low) + col))
            _make(kernel, node, _Place(y, x, channel, within, width))


def _width(kernel: Kernel, node: Direct) -> int:
    """Channels of a thread: as many as are neighbours in all that it reads, and as belong to one group."""
    others = pixel_tiles(node.steps)
    read = [] if isinstance(node, Grouped) else [node.source]
    width = min(kernel.vector_width(node.target, *read, *others), 4)
    together = node.outputs if isinstance(node, Grouped) else width
    sizes = (together, node.region.channels.size.const)
    return next(w for w in (4, 2, 1) if w <= width and not any(size % w for size in sizes))


def _make(kernel: Kernel, node: Direct, place: _Place) -> None:
    emit, width, window = kernel.emit, place.width, node.window
    sums, count = kernel.registers("sums_direct", width), kernel.registers("counted", 1)
    is_max = isinstance(node, Reduce) and node.reduction == "max"
    for lane in range(width):
        emit.store(sums, lane, constant(LOWEST[kernel.dtype] if is_max else 0.0))
    if isinstance(node, Reduce):
        emit.store(count, 0, constant(0.0))
    with emit.loop(window.r, "r") as r, emit.loop(window.s, "s") as s:
        y = emit.bind("under_y", place.row * window.stride_h + (r * window.dilation_h - window.pad_top))
        x = emit.bind("under_x", place.col * window.stride_w + (s * window.dilation_w - window.pad_left))
        with emit.when(_in_image(node.source, y, x)):
            _tap(kernel, node, place, (y, x), r * window.s + s)
    _store(kernel, node, place, sums)


def _in_image(tile: Tile, y: Index, x: Index) -> Expr:
    return tirx.all(y >= 0, y < tile.image.height, x >= 0, x < tile.image.width)


def _tap(kernel: Kernel, node: Direct, place: _Place, pixel: tuple[Index, Index], tap: Index) -> None:
    """What one tap contributes."""
    if isinstance(node, Grouped):
        _dense(kernel, node, place, pixel, tap)
        return
    emit, width = kernel.emit, place.width
    sums, values = kernel.registers("sums_direct", width), kernel.elements("values_direct", width)
    _read(kernel, node.source, (*pixel, place.channel), values, width)
    if isinstance(node, Depthwise):
        _accumulate(kernel, node, place, tap, [fp32(load(values, lane)) for lane in range(width)])
        return
    count = kernel.registers("counted", 1)
    for lane in range(width):
        value, known = fp32(load(values, lane)), load(sums, lane)
        emit.store(sums, lane, reduced(node.reduction, known, value))
    emit.store(count, 0, load(count, 0) + constant(1.0))


def _dense(kernel: Kernel, node: Grouped, place: _Place, pixel: tuple[Index, Index], tap: Index) -> None:
    """All channels of the group, one after the other, for every output."""
    emit, value = kernel.emit, kernel.registers("value_direct", 1)
    first = emit.bind("group", quotient(place.channel, node.outputs) * node.width) if node.groups > 1 else 0
    with emit.loop(node.width, "c") as c:
        held = tirx.BufferLoad(kernel.memory[node.source], kernel.element(node.source, *pixel, first + c))
        emit.store(value, 0, fp32(held))
        _accumulate(kernel, node, place, tap * node.width + c, [load(value, 0)] * place.width)


def _accumulate(kernel: Kernel, node: Grouped | Depthwise, place: _Place, number: Index, values: list[Expr]) -> None:
    """Add values times row ``number`` of the weights, which has an element for every output."""
    emit, width = kernel.emit, place.width
    sums, weights = kernel.registers("sums_direct", width), kernel.elements("weights_direct", width)
    place_in = number * memory_outputs(node) + place.channel
    emit.store(weights, 0, load(kernel.weights, place_in, width), width)
    for lane in range(width):
        emit.store(sums, lane, load(sums, lane) + values[lane] * fp32(load(weights, lane)))


def _read(kernel: Kernel, tile: Tile, place: tuple[Index, Index, Index], into: Buffer, width: int) -> None:
    *pixel, first = kernel.element(tile, *place)
    where = [*pixel, tirx.Ramp(first, 1, width) if width > 1 else first]
    kernel.emit.store(into, 0, tirx.BufferLoad(kernel.memory[tile], where), width)


def _store(kernel: Kernel, node: Direct, place: _Place, sums: Buffer) -> None:
    emit, width = kernel.emit, place.width
    constants = load_constants(kernel, node.steps, node.region.channels.low, place.within, width)
    added: dict[Tile, list[Expr]] = {}
    for tile in pixel_tiles(node.steps):
        held = kernel.elements(f"value_{tile.name}", width)
        _read(kernel, tile, (place.row, place.col, place.channel), held, width)
        added[tile] = [fp32(load(held, lane)) for lane in range(width)]
    result = kernel.elements("result_direct", width)
    for lane in range(width):
        value = load(sums, lane)
        if isinstance(node, Reduce) and node.reduction == "mean":
            count = tirx.max(load(kernel.registers("counted", 1), 0), constant(1.0))
            value = value / (constant(float(node.count)) if node.count else count)
        elif isinstance(node, Reduce) and node.reduction == "l2":
            value = tirx.sqrt(value)
        emit.store(result, lane, kernel.narrow(finish(node.steps, value, Element(lane, constants, added))))
    *pixel, first = kernel.element(node.target, place.row, place.col, place.channel)
    where = [*pixel, tirx.Ramp(first, 1, width) if width > 1 else first]
    emit.add(tirx.BufferStore(kernel.memory[node.target], load(result, 0, width), where))
