"""REDUCE: the maximum, mean or L2 norm of every window and channel; pixels outside the image do not count.

::

    thread = (pixel, group of V channels)
      for r, s in window:
        if inside the image:  best[V] = max(best, source)   or   total[V] += source (or its square), count += 1
      target[pixel, V] = steps(best   or   total / count   or   sqrt(total))
"""

from __future__ import annotations

from tvm import tirx

from blockfuse.machine import Reduce
from blockfuse.machine.affine import Affine
from blockfuse.schedules.cuda.emitter import fp32
from blockfuse.schedules.cuda.finish import Element, finish, has_mask, load_constants, load_values
from blockfuse.schedules.cuda.kernel import Kernel, placed
from blockfuse.schedules.emit import Buffer, Expr, Index, constant, load

LOWEST = {"float16": -65504.0, "bfloat16": -3.38e38, "float32": -3.4e38}
"""Less than any element that counts."""


def lower(kernel: Kernel, node: Reduce) -> None:
    """Emit the loop over pixels and channel groups."""
    emit, lanes, region = kernel.emit, kernel.program.lanes, node.region
    cols, groups = region.cols.size.const, region.channels.size.const // lanes
    total = region.rows.size.const * cols * groups
    with emit.loop(-(-total // kernel.threads), "i") as i:
        number = emit.bind("number", i * kernel.threads + emit.thread)
        with emit.when(total % kernel.threads == 0 or number < total):
            pixel, channel = number // groups, number % groups * lanes
            row, col = emit.bind("row", pixel // cols), emit.bind("col", pixel % cols)
            best, count = _window(kernel, node, (row, col, channel))
            _store(kernel, node, (row, col, channel), best, count)


def _window(kernel: Kernel, node: Reduce, place: tuple[Index, Index, Index]) -> tuple[Buffer, Buffer]:
    """The reduced values and the number of pixels that counted."""
    emit, lanes, window, region = kernel.emit, kernel.program.lanes, node.window, node.region
    row, col, channel = place
    best, count = kernel.registers("reduced", lanes), kernel.registers("counted", 1)
    for lane in range(lanes):
        emit.store(best, lane, constant(LOWEST[kernel.dtype] if node.reduction == "max" else 0.0))
    emit.store(count, 0, constant(0.0))
    y0 = _first(region.rows.low * window.stride_h - window.pad_top, node.source.top, kernel)
    x0 = _first(region.cols.low * window.stride_w - window.pad_left, node.source.left, kernel)
    with emit.loop(window.r, "r") as r, emit.loop(window.s, "s") as s:
        y = row * window.stride_h + r * window.dilation_h
        x = col * window.stride_w + s * window.dilation_w
        with emit.when(_in_image(kernel, node, y + y0, x + x0)):
            under = kernel.origin(node.source) + placed(node.source, y + y0, x + x0)
            _take(kernel, node, under + kernel.channel(node.source, region.channels.low) + channel, best, count)
    return best, count


def _first(low: Affine, corner: Affine, kernel: Kernel) -> int:
    return kernel.constant(low - corner)


def _in_image(kernel: Kernel, node: Reduce, y: Index, x: Index) -> Expr:
    """Whether a pixel of the source tile, counted from its corner, is in the image."""
    image = node.source.image
    h, w = kernel.at(node.source.top) + y, kernel.at(node.source.left) + x
    conditions = [h >= 0, h < image.height, w >= 0, w < image.width]
    left: Expr = True
    for condition in conditions:
        left = condition if left is True else tirx.And(left, condition)
    return left


def _take(kernel: Kernel, node: Reduce, place: Index, best: Buffer, count: Buffer) -> None:
    emit, lanes = kernel.emit, kernel.program.lanes
    halves = kernel.elements("halves")
    emit.store(halves, 0, load(kernel.shared, place, lanes), lanes)
    for lane in range(lanes):
        value, known = fp32(load(halves, lane)), load(best, lane)
        emit.store(best, lane, reduced(node.reduction, known, value))
    emit.store(count, 0, load(count, 0) + constant(1.0))


def reduced(reduction: str, known: Expr, value: Expr) -> Expr:
    """What is known of a window and another of its pixels."""
    match reduction:
        case "max":
            return tirx.max(known, value)
        case "l2":
            return known + value * value
    return known + value


def _store(kernel: Kernel, node: Reduce, place: tuple[Index, Index, Index], best: Buffer, count: Buffer) -> None:
    emit, lanes, region, tile = kernel.emit, kernel.program.lanes, node.region, node.target
    row, col, channel = place
    halves = kernel.elements("halves")
    inside = kernel.inside(region, tile, row, col) if has_mask(node.steps) else True
    constants = load_constants(kernel, node.steps, region.channels.low, channel, lanes)
    values = load_values(kernel, node.steps, lambda t: kernel.pixel(t, region, row, col), region, channel, lanes)
    for lane in range(lanes):
        value = load(best, lane)
        if node.reduction == "mean":
            value = value / tirx.max(load(count, 0), constant(1.0))
        elif node.reduction == "l2":
            value = tirx.sqrt(value)
        element = Element(lane, constants, values, inside)
        emit.store(halves, lane, kernel.narrow(finish(node.steps, value, element)))
    target = tile.offset + kernel.pixel(tile, region, row, col)
    target = target + kernel.channel(tile, region.channels.low) + channel
    emit.store(kernel.shared, target, load(halves, 0, lanes), lanes)
