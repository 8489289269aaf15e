"""MAP: steps applied to every element of a tile.

::

    thread = (pixel, group of V channels)
      target[pixel, V] = steps(source[pixel, V])

Where there is a frame around the source's image, the pixel read is the one that stands at that place in it.
"""

from __future__ import annotations

from blockfuse.machine import Map
from blockfuse.schedules.cuda.emitter import fp32
from blockfuse.schedules.cuda.finish import Element, finish, has_mask, load_constants, load_values
from blockfuse.schedules.cuda.kernel import Kernel, clamped, placed
from blockfuse.schedules.cuda.sweep import Access, sweep
from blockfuse.schedules.emit import Index, framed, larger, load


def lower(kernel: Kernel, node: Map) -> None:
    """Emit the loop over pixels and channel groups."""
    emit, lanes, region = kernel.emit, kernel.program.lanes, node.region
    cols, groups = region.cols.size.const, region.channels.size.const // lanes
    order = sweep(
        kernel, region, groups, lanes, [Access(tile) for tile in (node.source, node.target) if not node.frame]
    )
    held = kernel.elements("halves")
    with emit.loop(-(-order.total // kernel.threads), "i") as i:
        number = emit.bind("number", i * kernel.threads + emit.thread)
        pixel, group = order.split(number)
        with emit.when(order.exists(kernel.threads, number, pixel)):
            channel = emit.bind("channel", group * lanes)
            row, col = emit.bind("row", pixel // cols), emit.bind("col", pixel % cols)
            constants = load_constants(kernel, node.steps, region.channels.low, channel, lanes)
            values = load_values(
                kernel,
                node.steps,
                lambda t: kernel.pixel(t, region, row, col),
                region,
                channel,
                lanes,
            )
            inside = kernel.inside(region, node.target, row, col) if has_mask(node.steps) else True
            pixels = [_source(kernel, node, row, col), kernel.pixel(node.target, region, row, col)]
            places = [
                kernel.origin(tile) + pixel + kernel.channel(tile, region.channels.low) + channel
                for tile, pixel in zip((node.source, node.target), pixels, strict=True)
            ]
            emit.store(held, 0, load(kernel.shared, places[0], lanes), lanes)
            for lane in range(lanes):
                value = finish(node.steps, fp32(load(held, lane)), Element(lane, constants, values, inside))
                emit.store(held, lane, kernel.narrow(value))
            emit.store(kernel.shared, places[1], load(held, 0, lanes), lanes)


def _source(kernel: Kernel, node: Map, row: Index, col: Index) -> Index:
    """Elements from the corner of the source tile to its pixel for (row, col) of the region."""
    tile, region, frame = node.source, node.region, node.frame
    if frame is None:
        return kernel.pixel(tile, region, row, col)
    y = framed(frame, kernel.at(region.rows.low) + row - frame.top, tile.image.height) - kernel.at(tile.top)
    x = framed(frame, kernel.at(region.cols.low) + col - frame.left, tile.image.width) - kernel.at(tile.left)
    y, x = (larger(clamped(part, size), 0) for part, size in ((y, tile.rows), (x, tile.cols)))
    return placed(tile, kernel.emit.bind("y", y), kernel.emit.bind("x", x))
