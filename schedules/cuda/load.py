"""LOAD: part of an image from memory into shared memory, zeros outside the image.

::

    for v in threads:                    v = (pixel, group of channels)
      copy 16, 8 or 4 bytes asynchronously, or none and zero-fill      where the channels allow it
      target[v] = source[v] if inside else 0                           one element at a time otherwise
"""

from __future__ import annotations

from tvm import tirx

from blockfuse.machine import Level, Load
from blockfuse.schedules.cuda import chain
from blockfuse.schedules.cuda.emitter import address, both, select_bytes
from blockfuse.schedules.cuda.kernel import Kernel
from blockfuse.schedules.emit import Expr, Index, larger, smaller

_COPY = {16: "cp.async.cg.shared.global", 8: "cp.async.ca.shared.global", 4: "cp.async.ca.shared.global"}
"""Asynchronous copies by their bytes."""


def lower(kernel: Kernel, node: Load) -> None:
    """Emit the copies; the next barrier or step waits for them."""
    if node.target.level is Level.REGISTER:
        chain.hold(kernel, node)
        return
    kernel.copies_pending |= kernel.vector_width(node.source.memory) * kernel.bytes in _COPY
    copy(kernel, node, node.target.offset)


def copy(kernel: Kernel, node: Load, target: Index, loop: str = "serial") -> None:
    """Start the copies into a tile whose first element is ``target``, in a loop of a kind."""
    emit, region = kernel.emit, node.region
    cols, channels = region.cols.size.const, region.channels.size.const
    width = kernel.vector_width(node.source.memory)
    groups = channels // width
    total = region.rows.size.const * cols * groups
    with emit.loop(-(-total // kernel.threads), "i", loop) as i:
        vector = emit.bind("vector", i * kernel.threads + emit.thread)
        with emit.when(total % kernel.threads == 0 or vector < total):
            pixel, group = vector // groups, vector % groups * width
            _move(kernel, node, (pixel // cols, pixel % cols, group), width, target)


def _move(kernel: Kernel, node: Load, place: tuple[Index, Index, Index], width: int, corner: Index) -> None:
    emit, region, tile, image = kernel.emit, node.region, node.target, node.source.image
    row, col, channel = place
    low = kernel.at(region.channels.low) + channel
    has_channel = kernel.bounds(region.channels.high)[1] <= image.channels or low < image.channels
    valid = both(kernel.inside(region, node.source, row, col), has_channel)
    source = kernel.element(
        node.source,
        _limited(kernel.at(region.rows.low) + row, image.height),
        _limited(kernel.at(region.cols.low) + col, image.width),
        low if has_channel is True else smaller(low, image.channels - width),
    )
    target = corner + kernel.pixel(tile, region, row, col)
    target = target + kernel.channel(tile, region.channels.low) + channel
    memory = kernel.memory[node.source.memory]
    copied = width * kernel.bytes
    if copied in _COPY:
        size = select_bytes(valid, copied)
        emit.ptx(_COPY[copied], address(kernel.shared, target), address(memory, *source), copied, size)
        return
    value: Expr = tirx.BufferLoad(memory, source)
    zero = tirx.const(0, kernel.dtype)
    emit.store(kernel.shared, target, value if valid is True else tirx.Select(valid, value, zero))


def _limited(position: Index, size: int) -> Index:
    """The nearest position inside the image, so that the address is valid even where nothing is read."""
    return larger(smaller(position, size - 1), 0)
