"""MAP: steps applied to every element of a tile.

::

    thread = (pixel, group of V channels)
      target[pixel, V] = steps(source[pixel, V])
"""

from __future__ import annotations

from blockfuse.machine import Map
from blockfuse.schedules.cuda.emitter import fp32
from blockfuse.schedules.cuda.finish import Element, finish, has_mask, load_constants, load_values
from blockfuse.schedules.cuda.kernel import Kernel
from blockfuse.schedules.emit import load


def lower(kernel: Kernel, node: Map) -> None:
    """Emit the loop over pixels and channel groups."""
    emit, lanes, region = kernel.emit, kernel.program.lanes, node.region
    cols, groups = region.cols.size.const, region.channels.size.const // lanes
    total = region.rows.size.const * cols * groups
    held = kernel.elements("halves")
    with emit.loop(-(-total // kernel.threads), "i") as i:
        number = emit.bind("number", i * kernel.threads + emit.thread)
        with emit.when(total % kernel.threads == 0 or number < total):
            pixel, channel = number // groups, emit.bind("channel", number % groups * lanes)
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
            places = [
                kernel.origin(tile)
                + kernel.pixel(tile, region, row, col) * tile.pitch
                + kernel.channel(tile, region.channels.low)
                + channel
                for tile in (node.source, node.target)
            ]
            emit.store(held, 0, load(kernel.shared, places[0], lanes), lanes)
            for lane in range(lanes):
                value = finish(node.steps, fp32(load(held, lane)), Element(lane, constants, values, inside))
                emit.store(held, lane, kernel.narrow(value))
            emit.store(kernel.shared, places[1], load(held, 0, lanes), lanes)
