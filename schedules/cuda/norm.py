"""NORM: every pixel normalized over its channels, with float32 statistics.

::

    L neighbouring lanes = one pixel; each holds some vectors of 16 bytes of its channels
      mean = sum over lanes and vectors / C                    shuffles between the L lanes
      variance = sum of (x - mean)^2 / C                       two passes over registers: no cancellation
      target = steps((x - mean) / sqrt(variance + epsilon))    zero in channels that the image does not have

Where the divisor is the mean, the second sum and the difference are left out: steps(x / (mean + epsilon)).
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx

from blockfuse.machine import Normalize
from blockfuse.schedules.cuda.emitter import fp32
from blockfuse.schedules.cuda.finish import Element, finish, has_mask, load_constants, load_values
from blockfuse.schedules.cuda.kernel import Kernel, clamped
from blockfuse.schedules.cuda.sweep import Access, sweep
from blockfuse.schedules.emit import Buffer, Expr, Index, constant, load, quotient, remainder

_MOST_VECTORS = 3  # per lane
_LANES = 32


@dataclass(frozen=True)
class _Part:
    """What one thread has of its pixel.

    Attributes:
        row: Of the pixel in the region.
        col: Of the pixel.
        exists: Whether it is a pixel at all, or one that threads left over repeat.
        lane: Number of the thread among those of the pixel.
        lanes: How many there are.
        vectors: Vectors of a thread.
    """

    row: Index
    col: Index
    exists: Expr
    lane: Index
    lanes: int
    vectors: int


def lower(kernel: Kernel, node: Normalize) -> None:
    """Emit the loop over pixels."""
    emit, region = kernel.emit, node.region
    vectors = region.channels.size.const // kernel.vector
    lanes = next(n for n in (4, 8, 16, 32) if n == _LANES or vectors <= n * _MOST_VECTORS)
    side_by_side, cols = kernel.threads // lanes, region.cols.size.const
    pixels = region.rows.size.const * cols
    order = sweep(kernel, region, lanes, kernel.vector, [Access(node.source), Access(node.target)])
    with emit.loop(-(-pixels // side_by_side), "i") as i:
        number, lane = order.split(i * kernel.threads + emit.thread)
        exists = pixels % side_by_side == 0 or emit.bind("exists", number < pixels)
        pixel = emit.bind("pixel", number if exists is True else clamped(number, pixels))
        row, col = quotient(pixel, cols), remainder(pixel, cols)
        part = _Part(row, col, exists, lane, lanes, -(-vectors // lanes))
        _pixel(kernel, node, part)


def _pixel(kernel: Kernel, node: Normalize, part: _Part) -> None:
    emit, count = kernel.emit, part.vectors * kernel.vector
    values, total, mean = kernel.registers("norm_values", count), kernel.registers("norm_total", 1), None
    _read(kernel, node, part, values)
    channels = node.source.image.channels
    emit.store(total, 0, constant(0.0))
    for i in range(count):
        emit.store(total, 0, load(total, 0) + load(values, i))
    _across(kernel, total, part.lanes)
    mean = emit.bind("mean", load(total, 0) * constant(1 / channels))
    if node.divisor == "mean":
        _write(kernel, node, part, values, emit.bind("rate", constant(1.0) / (mean + constant(node.epsilon))))
        return
    _centre(kernel, node, part, values, total, mean)
    _across(kernel, total, part.lanes)
    rate = emit.bind("rate", tirx.rsqrt(load(total, 0) * constant(1 / channels) + constant(node.epsilon)))
    _write(kernel, node, part, values, rate)


def _centre(kernel: Kernel, node: Normalize, part: _Part, values: Buffer, total: Buffer, mean: Expr) -> None:
    """Subtract the mean from a thread's values, and add up their squares."""
    emit = kernel.emit
    emit.store(total, 0, constant(0.0))
    for k in range(part.vectors):
        for i in range(kernel.vector):
            number = k * kernel.vector + i
            centred = load(values, number) - mean
            has = _has_channel(kernel, node, part, k, i)
            emit.store(values, number, centred if has is True else tirx.Select(has, centred, constant(0.0)))
            emit.store(total, 0, load(total, 0) + load(values, number) * load(values, number))


def _vector(kernel: Kernel, part: _Part, k: int) -> Index:
    """First channel of the thread's ``k``-th vector, within the region."""
    return (part.lane + k * part.lanes) * kernel.vector


def _has_vector(kernel: Kernel, node: Normalize, part: _Part, k: int) -> Expr:
    channels = node.region.channels.size.const
    return (k + 1) * part.lanes * kernel.vector <= channels or _vector(kernel, part, k) < channels


def _has_channel(kernel: Kernel, node: Normalize, part: _Part, k: int, i: int) -> Expr:
    """Whether the image has the ``i``-th channel of that vector."""
    channels = node.source.image.channels
    return (k + 1) * part.lanes * kernel.vector <= channels or _vector(kernel, part, k) + i < channels


def _read(kernel: Kernel, node: Normalize, part: _Part, values: Buffer) -> None:
    emit, tile, region = kernel.emit, node.source, node.region
    held = kernel.elements("halves")
    place = tile.offset + kernel.pixel(tile, region, part.row, part.col)
    place = emit.bind("place", place + kernel.channel(tile, region.channels.low))
    for i in range(part.vectors * kernel.vector):
        emit.store(values, i, constant(0.0))
    for k in range(part.vectors):
        with emit.when(_has_vector(kernel, node, part, k)):
            source = place + _vector(kernel, part, k)
            emit.store(held, 0, load(kernel.shared, source, kernel.vector), kernel.vector)
            for i in range(kernel.vector):
                value, has = fp32(load(held, i)), _has_channel(kernel, node, part, k, i)
                chosen = value if has is True else tirx.Select(has, value, constant(0.0))
                emit.store(values, k * kernel.vector + i, chosen)


def _across(kernel: Kernel, total: Buffer, lanes: int) -> None:
    """The sum over the lanes of a pixel, in all of them."""
    distance = 1
    while distance < lanes:
        everybody = tirx.const(0xFFFFFFFF, "uint32")
        arguments = (load(total, 0), _integer(distance), _integer(_LANES), _integer(_LANES))
        other = tirx.call_intrin("float32", "tirx.tvm_warp_shuffle_xor", everybody, *arguments)
        kernel.emit.store(total, 0, load(total, 0) + other)
        distance *= 2


def _write(kernel: Kernel, node: Normalize, part: _Part, values: Buffer, rate: Expr) -> None:
    emit, tile, region = kernel.emit, node.target, node.region
    held = kernel.elements("halves")
    inside = kernel.inside(region, tile, part.row, part.col) if has_mask(node.steps) else True
    place = tile.offset + kernel.pixel(tile, region, part.row, part.col)
    place = emit.bind("place", place + kernel.channel(tile, region.channels.low))
    for k in range(part.vectors):
        channel = _vector(kernel, part, k)
        exists = part.exists if _has_vector(kernel, node, part, k) is True else None
        condition = exists if exists is not None else _both(part.exists, _has_vector(kernel, node, part, k))
        with emit.when(condition):
            constants = load_constants(kernel, node.steps, region.channels.low, channel, kernel.vector)
            added = load_values(
                kernel,
                node.steps,
                lambda t: kernel.pixel(t, region, part.row, part.col),
                region,
                channel,
                kernel.vector,
            )
            for i in range(kernel.vector):
                value = load(values, k * kernel.vector + i) * rate
                element = Element(i, constants, added, inside)
                emit.store(held, i, kernel.narrow(finish(node.steps, value, element)))
            emit.store(kernel.shared, place + channel, load(held, 0, kernel.vector), kernel.vector)


def _both(a: Expr, b: Expr) -> Expr:
    return b if a is True else tirx.And(a, b)


def _integer(value: int) -> Expr:
    return tirx.const(value, "int32")
