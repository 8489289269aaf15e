"""A kernel at the border of a network: squares of pixels of an N, C, H, W image as the channels of N, H, W, C pixels.

::

    for a tile of neighbouring squares:
        tile[column, line] = source[channel, row, column] or 0     neighbouring threads read neighbouring pixels;
                                                                   a line is a row of the squares of a channel
        target[square, i, j, channel] = tile[column, line]         neighbouring threads write neighbouring channels
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tvm import tirx

from blockfuse.schedules.cuda.emitter import CudaEmitter
from blockfuse.schedules.emit import Index, load

_THREADS = 256
_TILE = 2048  # elements of a tile, if one square has no more


def lower_squares(
    name: str,
    source_shape: tuple[int, ...],
    source: str,
    target: str,
    *,
    shape: tuple[int, ...],
    size: int,
    top: int,
    left: int,
    any_batch: bool = False,
) -> Any:
    """A kernel that converts an image and makes its squares channels; what is no pixel of it is zero.

    Args:
        name: Of the function.
        source_shape: Of the image, N, C, H, W.
        source: Its type.
        target: Type of the result.
        shape: Of the result, N, H, W, C; its channels are rows, columns and channels of a square.
        size: Of a square, in pixels along each side.
        top: Rows of zeros above the image.
        left: Columns of zeros before it.
        any_batch: Whether the first dimension is whatever it is when the kernel is called.
    """
    batch = tirx.Var("batch", "int32") if any_batch else source_shape[0]
    channels, height, width = source_shape[1:]
    rows, columns, depth = shape[1:]
    lines = channels * size
    tiles = -(-columns // max(1, _TILE // (lines * size)))
    wide = -(-columns // tiles)  # squares
    across, pitch = wide * size, lines + 1 - lines % 2  # odd: threads that store a column each use banks of their own
    emit = CudaEmitter(batch * rows * tiles, _THREADS)
    values = emit.parameter("input_0", (batch, channels, height, width), source)
    result = emit.parameter("result", (batch, rows, columns, depth), target)
    tile = emit.shared("tile", across * pitch, source)
    image = emit.bind("image", emit.cta // (rows * tiles))
    row, first = emit.bind("row", emit.cta // tiles % rows), emit.bind("first_square", emit.cta % tiles * wide)
    with _each_of(emit, across * lines) as number:
        column, line = number % across, number // across
        channel = line % channels
        y, x = row * size + line // channels - top, first * size + column - left
        place = ((image * channels + channel) * height + y) * width + x
        is_pixel = tirx.all(y >= 0, y < height, x >= 0, x < width)
        with emit.when(is_pixel):
            emit.store(tile, column * pitch + line, load(values, place))
        with emit.when(tirx.Not(is_pixel)):
            emit.store(tile, column * pitch + line, tirx.const(0, source))
    emit.barrier()
    with _each_of(emit, wide * depth) as number:
        square, part = number // depth, number % depth
        i, j, channel = part // lines, part // channels % size, part % channels
        with emit.when(first + square < columns):
            value = load(tile, (square * size + j) * pitch + i * channels + channel)
            emit.store(result, ((image * rows + row) * columns + first) * depth + number, tirx.Cast(target, value))
    return emit.function(name)


@contextmanager
def _each_of(emit: CudaEmitter, count: int) -> Iterator[Index]:
    """A loop over so many elements, which threads take in turn."""
    with emit.loop(-(-count // _THREADS), "i") as i:
        number = emit.bind("number", i * _THREADS + emit.thread)
        with emit.when(count % _THREADS == 0 or number < count):
            yield number
