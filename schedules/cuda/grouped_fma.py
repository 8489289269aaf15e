"""GROUPED in float32, on the ordinary arithmetic units.

::

    thread = (pixel, output channel)
      for tap, channel of the group:  sum += source[pixel under the tap, channel] * weights[tap, channel, output]
      target[pixel, output] = steps(sum)
"""

from __future__ import annotations

from blockfuse.machine import Grouped
from blockfuse.schedules.cuda.finish import Element, finish, has_mask, load_constants, load_values
from blockfuse.schedules.cuda.kernel import Kernel
from blockfuse.schedules.cuda.pixels import tap_offset
from blockfuse.schedules.emit import Index, constant, load, quotient, remainder, smaller


def lower(kernel: Kernel, node: Grouped) -> None:
    """Emit the loop over pixels and channels."""
    emit, region = kernel.emit, node.region
    cols, channels = region.cols.size.const, region.channels.size.const
    total = region.rows.size.const * cols * channels
    with emit.loop(-(-total // kernel.threads), "i") as i:
        number = emit.bind("number", i * kernel.threads + emit.thread)
        with emit.when(total % kernel.threads == 0 or number < total):
            pixel, channel = quotient(number, channels), emit.bind("channel", remainder(number, channels))
            row, col = emit.bind("row", quotient(pixel, cols)), emit.bind("col", remainder(pixel, cols))
            _element(kernel, node, row, col, channel)


def _element(kernel: Kernel, node: Grouped, row: Index, col: Index, channel: Index) -> None:
    emit, region, source, target = kernel.emit, node.region, node.source, node.target
    total, window, channels = kernel.registers("sum_fma", 1), node.window, node.region.channels.size.const
    weights = kernel.weight_offset(node.weights, kernel.vector) + channel
    group = smaller(quotient(kernel.at(region.channels.low) + channel, node.outputs), node.groups - 1)
    first = emit.bind("group", group * node.width - kernel.at(source.first_channel))
    pixel = row * source.layout.step_h(window.stride_h) + col * source.layout.step_w(window.stride_w)
    emit.store(total, 0, constant(0.0))
    with emit.loop(window.taps, "tap") as tap:
        place = kernel.origin(source) + pixel + tap_offset(kernel, source, region, window, tap) + first
        with emit.loop(node.width, "c") as c:
            product = load(kernel.shared, place + c) * load(kernel.shared, weights + (tap * node.width + c) * channels)
            emit.store(total, 0, load(total, 0) + product)
    constants = load_constants(kernel, node.steps, region.channels.low, channel, 1)
    values = load_values(kernel, node.steps, lambda tile: kernel.pixel(tile, region, row, col), region, channel, 1)
    inside = kernel.inside(region, target, row, col) if has_mask(node.steps) else True
    result = finish(node.steps, load(total, 0), Element(0, constants, values, inside))
    where = target.offset + kernel.pixel(target, region, row, col)
    emit.store(kernel.shared, where + kernel.channel(target, region.channels.low) + channel, result)
