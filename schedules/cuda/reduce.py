"""REDUCE: the maximum, mean or L2 norm of every window and channel; pixels outside the image do not count.

::

    L lanes of a warp = (pixel, group of V channels)         one, unless that leaves threads without work
      for r, s in window, every L-th:
        if inside the image:  best[V] = max(best, source)   or   total[V] += source (or its square), count += 1
      best | total | count = of all L                        shuffles between the lanes
      target[pixel, V] = steps(best   or   total / count   or   sqrt(total))

The source may be in memory (parts of an image that another kernel has reduced), or the target (those parts).
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx

from blockfuse.machine import Reduce, Region
from blockfuse.machine.windows import WARP, lanes_of_window
from blockfuse.schedules.cuda.emitter import both, fp32
from blockfuse.schedules.cuda.finish import Element, finish, has_mask, load_constants, load_values
from blockfuse.schedules.cuda.kernel import Kernel, clamped, placed
from blockfuse.schedules.cuda.sweep import Access, sweep
from blockfuse.schedules.emit import Buffer, Expr, Index, constant, load, quotient, remainder

LOWEST = {"float16": -65504.0, "bfloat16": -3.38e38, "float32": -3.4e38}
"""Less than any element that counts."""


@dataclass(frozen=True)
class _Place:
    """What a thread works on: a pixel and a group of channels of the region, and some of the taps.

    Attributes:
        row: Of the pixel in the region.
        col: Of the pixel.
        channel: The first of the group, in the region.
        tap: The first of the thread's taps.
        lanes: Threads that share the window, and the distance from each of its taps to the next.
        writes: Whether it is this thread that stores the result.
    """

    row: Index
    col: Index
    channel: Index
    tap: Index
    lanes: int
    writes: Expr


def lower(kernel: Kernel, node: Reduce) -> None:
    """Emit the loop over pixels and channel groups."""
    region = node.region
    cols, groups = region.cols.size.const, region.channels.size.const // kernel.program.lanes
    lanes = lanes_of_window(region.rows.size.const * cols * groups, node.window.taps, kernel.threads)
    if lanes > 1:
        _by_several(kernel, node, lanes, cols, groups)
        return
    emit, width = kernel.emit, kernel.program.lanes
    tiles = [Access(node.source, node.window), Access(node.target)]
    order = sweep(kernel, region, groups, width, [access for access in tiles if not access.tile.is_global])
    with emit.loop(-(-order.total // kernel.threads), "i") as i:
        number = emit.bind("number", i * kernel.threads + emit.thread)
        pixel, group = order.split(number)
        with emit.when(order.exists(kernel.threads, number, pixel)):
            channel = emit.bind("channel", group * width)
            row, col = emit.bind("row", quotient(pixel, cols)), emit.bind("col", remainder(pixel, cols))
            _reduce(kernel, node, _Place(row, col, channel, 0, 1, True))


def _by_several(kernel: Kernel, node: Reduce, lanes: int, cols: int, groups: int) -> None:
    """The same with several threads for every window; all of a warp take part in its shuffles."""
    emit, total = kernel.emit, node.region.rows.size.const * cols * groups
    side_by_side, together = WARP // lanes, kernel.threads // lanes
    with emit.loop(-(-total // together), "i") as i:
        warp = i * (kernel.threads // WARP) + kernel.warp  # neighbouring threads have neighbouring channels
        number = emit.bind("number", warp * side_by_side + remainder(kernel.lane, side_by_side))
        tap = emit.bind("first_tap", quotient(kernel.lane, side_by_side))
        window = emit.bind("window", clamped(number, total))
        pixel, channel = quotient(window, groups), remainder(window, groups) * kernel.program.lanes
        row, col = emit.bind("row", quotient(pixel, cols)), emit.bind("col", remainder(pixel, cols))
        writes = both(total % together == 0 or number < total, tap == 0)
        _reduce(kernel, node, _Place(row, col, channel, tap, lanes, writes))


def _reduce(kernel: Kernel, node: Reduce, place: _Place) -> None:
    best, count = _window(kernel, node, place)
    _store(kernel, node, place, best, count)


# ---- taps ------------------------------------------------------------------------------------------------------------
def _window(kernel: Kernel, node: Reduce, place: _Place) -> tuple[Buffer, Buffer]:
    """The reduced values and the number of pixels that counted."""
    emit, lanes, window = kernel.emit, kernel.program.lanes, node.window
    best, count = kernel.registers("reduced", lanes), kernel.registers("counted", 1)
    for lane in range(lanes):
        emit.store(best, lane, constant(LOWEST[kernel.dtype] if node.reduction == "max" else 0.0))
    emit.store(count, 0, constant(0.0))
    if place.lanes == 1:
        with emit.loop(window.r, "r") as r, emit.loop(window.s, "s") as s:
            _tap(kernel, node, place, (r, s), best, count)
        return best, count
    with emit.loop(-(-window.taps // place.lanes), "t") as t:
        tap = emit.bind("tap", t * place.lanes + place.tap)
        with emit.when(window.taps % place.lanes == 0 or tap < window.taps):
            _tap(kernel, node, place, (quotient(tap, window.s), remainder(tap, window.s)), best, count)
    _across(kernel, node, place.lanes, best, count)
    return best, count


def _tap(kernel: Kernel, node: Reduce, place: _Place, tap: tuple[Index, Index], best: Buffer, count: Buffer) -> None:
    """What the pixel under a tap contributes, if it is in the image."""
    emit, window, region, source = kernel.emit, node.window, node.region, node.source
    y = kernel.at(region.rows.low * window.stride_h - window.pad_top - source.top)  # counted from the tile's corner
    x = kernel.at(region.cols.low * window.stride_w - window.pad_left - source.left)
    y = y + place.row * window.stride_h + tap[0] * window.dilation_h
    x = x + place.col * window.stride_w + tap[1] * window.dilation_w
    with emit.when(_in_image(kernel, node, y, x)):
        held = _held(kernel, node, y, x, place.channel)
        for lane in range(kernel.program.lanes):
            value, known = fp32(load(held, lane)), load(best, lane)
            emit.store(best, lane, reduced(node.reduction, known, value))
        emit.store(count, 0, load(count, 0) + constant(1.0))


def _in_image(kernel: Kernel, node: Reduce, y: Index, x: Index) -> Expr:
    """Whether a pixel under a window is in the image; ``True`` where it cannot be otherwise."""
    image, window, region = node.source.image, node.window, node.region
    y, x = kernel.at(node.source.top) + y, kernel.at(node.source.left) + x
    rows = _within(kernel, region, "rows", (window.stride_h, window.pad_top, window.extent_h), image.height, y)
    cols = _within(kernel, region, "cols", (window.stride_w, window.pad_left, window.extent_w), image.width, x)
    return both(rows, cols)


def _within(
    kernel: Kernel, region: Region, axis: str, window: tuple[int, int, int], size: int, position: Index
) -> Expr:
    """The same along one axis, for a window's stride, padding and extent."""
    stride, pad, extent = window
    low, high = kernel.bounds(getattr(region, axis).low)
    last = (high + getattr(region, axis).size.const - 1) * stride - pad + extent
    return both(low * stride - pad >= 0 or position >= 0, last <= size or position < size)


def _held(kernel: Kernel, node: Reduce, y: Index, x: Index, channel: Index) -> Buffer:
    """A group of channels of a pixel of the source tile, in registers."""
    emit, lanes, source, low = kernel.emit, kernel.program.lanes, node.source, node.region.channels.low
    if not source.is_global:
        halves = kernel.elements("halves")
        place = kernel.origin(source) + placed(source, y, x) + kernel.channel(source, low) + channel
        emit.store(halves, 0, load(kernel.shared, place, lanes), lanes)
        return halves
    held = kernel.registers("parts", lanes)
    width = min(kernel.vector_width(source), lanes)
    known = kernel.bounds(node.region.channels.high)[1] <= source.image.channels
    for lane in range(0, lanes, width):
        first = kernel.at(low) + channel + lane
        where = first if known else clamped(first, source.image.channels - width + 1)  # what is more is stored nowhere
        *pixel, element = kernel.element(source, y, x, where)
        value = tirx.BufferLoad(kernel.memory[source], [*pixel, _vector(element, width)])
        emit.store(held, lane, value, width)
    return held


def reduced(reduction: str, known: Expr, value: Expr) -> Expr:
    """What is known of a window and another of its pixels."""
    match reduction:
        case "max":
            return tirx.max(known, value)
        case "l2":
            return known + value * value
    return known + value


def _across(kernel: Kernel, node: Reduce, lanes: int, best: Buffer, count: Buffer) -> None:
    """What all threads of a window have found together, in all of them."""
    emit, distance = kernel.emit, WARP // lanes
    while distance < WARP:
        for lane in range(kernel.program.lanes):
            known, other = load(best, lane), _other(load(best, lane), distance)
            emit.store(best, lane, tirx.max(known, other) if node.reduction == "max" else known + other)
        if node.reduction == "mean" and not node.count:
            emit.store(count, 0, load(count, 0) + _other(load(count, 0), distance))
        distance *= 2


def _other(value: Expr, distance: int) -> Expr:
    """The value of the thread at a distance."""
    everybody, integers = tirx.const(0xFFFFFFFF, "uint32"), (distance, WARP, WARP)
    arguments = (tirx.const(number, "int32") for number in integers)
    return tirx.call_intrin("float32", "tirx.tvm_warp_shuffle_xor", everybody, value, *arguments)


# ---- results ---------------------------------------------------------------------------------------------------------
def _store(kernel: Kernel, node: Reduce, place: _Place, best: Buffer, count: Buffer) -> None:
    emit, lanes, region = kernel.emit, kernel.program.lanes, node.region
    inside = kernel.inside(region, node.target, place.row, place.col) if has_mask(node.steps) else True
    with emit.when(place.writes):
        constants = load_constants(kernel, node.steps, region.channels.low, place.channel, lanes)
        values = load_values(
            kernel,
            node.steps,
            lambda t: kernel.pixel(t, region, place.row, place.col),
            region,
            place.channel,
            lanes,
        )
        for lane in range(lanes):
            element = Element(lane, constants, values, inside)
            emit.store(best, lane, finish(node.steps, _result(node, load(best, lane), load(count, 0)), element))
        if node.target.is_global:
            _to_memory(kernel, node, place, best)
        else:
            _to_tile(kernel, node, place, best)


def _result(node: Reduce, value: Expr, count: Expr) -> Expr:
    """What a pool makes of what is known of a window."""
    if node.reduction == "mean":
        return value / (constant(float(node.count)) if node.count else tirx.max(count, constant(1.0)))
    return tirx.sqrt(value) if node.reduction == "l2" else value


def _to_tile(kernel: Kernel, node: Reduce, place: _Place, best: Buffer) -> None:
    emit, lanes, region, tile = kernel.emit, kernel.program.lanes, node.region, node.target
    halves = kernel.elements("halves")
    for lane in range(lanes):
        emit.store(halves, lane, kernel.narrow(load(best, lane)))
    target = tile.offset + kernel.pixel(tile, region, place.row, place.col)
    target = target + kernel.channel(tile, region.channels.low) + place.channel
    emit.store(kernel.shared, target, load(halves, 0, lanes), lanes)


def _to_memory(kernel: Kernel, node: Reduce, place: _Place, best: Buffer) -> None:
    """The channels that the image has, in vectors where those lie at multiples of their size."""
    emit, lanes, region, tile = kernel.emit, kernel.program.lanes, node.region, node.target
    width = min(kernel.vector_width(tile), lanes)
    known = kernel.bounds(region.channels.high)[1] <= tile.image.channels
    for lane in range(0, lanes, width):
        channel = kernel.at(region.channels.low) + place.channel + lane
        exists = both(kernel.inside(region, tile, place.row, place.col), known or channel < tile.image.channels)
        row, col = kernel.at(region.rows.low) + place.row, kernel.at(region.cols.low) + place.col
        *pixel, first = kernel.element(tile, row, col, channel)
        with emit.when(exists):
            target = [*pixel, _vector(first, width)]
            emit.add(tirx.BufferStore(kernel.memory[tile], load(best, lane, width), target))


def _vector(position: Index, width: int) -> Index:
    return tirx.Ramp(position, 1, width) if width > 1 else position
