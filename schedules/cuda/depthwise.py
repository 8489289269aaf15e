"""DEPTHWISE: every channel by itself, on the ordinary arithmetic units.

::

    thread = (group of V channels, strip)        a strip is S output rows of one column
      weights of its channels into registers     once, or a filter column at a time if there are many
      for strip of this thread:
        sums[S, V] = 0
        for filter column, source row:           every source row is read once and serves all output rows it is under
          sums[.., ..] += source[row, V] * weights
        target[S rows, V] = steps(sums)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from blockfuse.errors import InternalError
from blockfuse.machine import Depthwise
from blockfuse.schedules.cuda.emitter import fp32
from blockfuse.schedules.cuda.finish import Constants, Element, finish, has_mask, load_constants, load_values
from blockfuse.schedules.cuda.kernel import Kernel, placed
from blockfuse.schedules.emit import Buffer, Index, constant, load, quotient, remainder

_CACHED = 40  # weights per thread that stay in registers


@dataclass(frozen=True)
class _Thread:
    """One thread's channels and strip.

    Attributes:
        channel: Its first channel, within the region.
        row: First output row of the strip, within the region.
        col: Output column of the strip.
        source: Elements from the corner of the source tile to what is under the first tap of the first row. Where the
            tile itself begins is no part of it: that of a streamed one is not known to be aligned in a variable.
    """

    channel: Index
    row: Index
    col: Index
    source: Index


def lower(kernel: Kernel, node: Depthwise) -> None:
    """Emit the loop over strips."""
    emit, lanes, region = kernel.emit, kernel.program.lanes, node.region
    groups = region.channels.size.const // lanes
    side_by_side = kernel.threads // groups
    cols, strips = region.cols.size.const, region.cols.size.const * (region.rows.size.const // node.pixels)
    if not side_by_side or region.rows.size.const % node.pixels:
        raise InternalError(f"{node}: {groups} channel groups or strips of {node.pixels} rows do not fit")
    channel = emit.bind("channel", remainder(emit.thread, groups) * lanes)
    first = emit.bind("strip_first", quotient(emit.thread, groups))
    with emit.when(side_by_side * groups == kernel.threads or emit.thread < side_by_side * groups):
        weights = _cached_weights(kernel, node, channel)
        constants = load_constants(kernel, node.steps, region.channels.low, channel, lanes)
        with emit.loop(-(-strips // side_by_side), "strip") as trip:
            strip = trip * side_by_side + first
            with emit.when(strips % side_by_side == 0 or strip < strips):
                row, col = quotient(strip, cols) * node.pixels, remainder(strip, cols)
                source = emit.bind("source", _first_source(kernel, node, row, col) + channel)
                thread = _Thread(channel, row, col, source)
                _sum(kernel, node, thread, weights)
                _store(kernel, node, thread, constants)


def _first_source(kernel: Kernel, node: Depthwise, row: Index, col: Index) -> Index:
    source, window = node.source, node.window
    pixel = row * source.layout.step_h(window.stride_h) + col * source.layout.step_w(window.stride_w)
    return pixel + kernel.channel(source, node.region.channels.low)


def _cached_weights(kernel: Kernel, node: Depthwise, channel: Index) -> Buffer | None:
    """The whole filter of this thread's channels in registers, [r * S + s][V]; None if it is too large."""
    window, lanes = node.window, kernel.program.lanes
    if window.taps * lanes > _CACHED:
        return None
    weights = kernel.registers(f"filter_{node.weights.name}", window.taps * lanes)
    for tap in range(window.taps):
        _load_weights(kernel, node, channel, tap, weights, tap * lanes)
    return weights


def _load_weights(kernel: Kernel, node: Depthwise, channel: Index, tap: Index, into: Buffer, at: int) -> None:
    emit, lanes = kernel.emit, kernel.program.lanes
    halves = kernel.elements("halves")
    base = kernel.weight_offset(node.weights, kernel.vector) + tap * node.region.channels.size.const + channel
    emit.store(halves, 0, load(kernel.shared, base, lanes), lanes)
    for lane in range(lanes):
        emit.store(into, at + lane, fp32(load(halves, lane)))


def _sum(kernel: Kernel, node: Depthwise, thread: _Thread, cached: Buffer | None) -> None:
    """All taps of a strip, filter column by filter column."""
    emit, lanes, window = kernel.emit, kernel.program.lanes, node.window
    sums = kernel.registers(f"sums_{node.weights.name}", node.pixels * lanes)
    for i in range(node.pixels * lanes):
        emit.store(sums, i, constant(0.0))
    if cached is not None:
        for s in range(window.s):
            _filter_column(kernel, node, thread, s, cached, lambda r, s=s: (r * window.s + s) * lanes)  # type: ignore[misc]
        return
    weights = kernel.registers(f"filter_{node.weights.name}", window.r * lanes)
    with emit.loop(window.s, "s") as s:
        for r in range(window.r):
            _load_weights(kernel, node, thread.channel, r * window.s + s, weights, r * lanes)
        _filter_column(kernel, node, thread, s, weights, lambda r: r * lanes)


def _filter_column(
    kernel: Kernel, node: Depthwise, thread: _Thread, s: Index, weights: Buffer, weight: Callable[[int], int]
) -> None:
    """Add what the taps of filter column ``s`` contribute; ``weight`` says where those of row r are."""
    emit, lanes, window, source = kernel.emit, kernel.program.lanes, node.window, node.source
    sums = kernel.registers(f"sums_{node.weights.name}", node.pixels * lanes)
    halves, values = kernel.elements("halves"), kernel.registers("values", lanes)
    y0 = kernel.constant(node.region.rows.low * window.stride_h - window.pad_top - source.top)
    x = kernel.constant(node.region.cols.low * window.stride_w - window.pad_left - source.left) + s * window.dilation_w
    for below in range((node.pixels - 1) * window.stride_h + window.extent_h):
        served = [
            (p, r)
            for p in range(node.pixels)
            for r in range(window.r)
            if p * window.stride_h + r * window.dilation_h == below
        ]
        if not served:
            continue
        under = kernel.origin(source) + thread.source + placed(source, y0 + below, x)
        emit.store(halves, 0, load(kernel.shared, under, lanes), lanes)
        for lane in range(lanes):
            emit.store(values, lane, fp32(load(halves, lane)))
        for p, r in served:
            for lane in range(lanes):
                product = load(values, lane) * load(weights, weight(r) + lane)
                emit.store(sums, p * lanes + lane, load(sums, p * lanes + lane) + product)


def _store(kernel: Kernel, node: Depthwise, thread: _Thread, constants: Constants) -> None:
    emit, lanes, region, tile = kernel.emit, kernel.program.lanes, node.region, node.target
    sums = kernel.registers(f"sums_{node.weights.name}", node.pixels * lanes)
    halves = kernel.elements("halves")
    for p in range(node.pixels):
        row = thread.row + p
        inside = kernel.inside(region, tile, row, thread.col) if has_mask(node.steps) else True
        values = load_values(
            kernel,
            node.steps,
            lambda t, row=row: kernel.pixel(t, region, row, thread.col),  # type: ignore[misc]
            region,
            thread.channel,
            lanes,
        )
        for lane in range(lanes):
            element = Element(lane, constants, values, inside)
            emit.store(halves, lane, kernel.narrow(finish(node.steps, load(sums, p * lanes + lane), element)))
        pixel = kernel.pixel(tile, region, row, thread.col)
        target = tile.offset + pixel + kernel.channel(tile, region.channels.low) + thread.channel
        emit.store(kernel.shared, target, load(halves, 0, lanes), lanes)
