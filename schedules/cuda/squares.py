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
from blockfuse.schedules.emit import Buffer, Index, load

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
    rows, columns, depth = shape[1:]
    channels = source_shape[1]
    lines = channels * size
    tiles = -(-columns // max(1, _TILE // (lines * size)))
    wide = -(-columns // tiles)  # squares
    pitch = lines + 1 - lines % 2  # odd: threads that store a column each use banks of their own
    emit = CudaEmitter(batch * rows * tiles, _THREADS)
    values = emit.parameter("input_0", (batch, *source_shape[1:]), source)
    result = emit.parameter("result", (batch, *shape[1:]), target)
    tile = emit.shared("tile", wide * size * pitch, source)
    image, row = emit.bind("image", emit.cta // (rows * tiles)), emit.bind("row", emit.cta // tiles % rows)
    first = emit.bind("first_square", emit.cta % tiles * wide)
    _read(emit, values, source_shape, tile, (wide * size, lines, pitch), (image, row * size - top, first * size - left))
    emit.barrier()
    with _each_of(emit, wide * depth) as number:
        square, part = number // depth, number % depth
        i, j, channel = part // lines, part // channels % size, part % channels
        with emit.when(first + square < columns):
            value = tirx.Cast(target, load(tile, (square * size + j) * pitch + i * channels + channel))
            emit.store(result, ((image * rows + row) * columns + first) * depth + number, value)
    return emit.function(name)


def _read(
    emit: CudaEmitter,
    values: Buffer,
    shape: tuple[int, ...],
    tile: Buffer,
    extent: tuple[int, int, int],
    corner: tuple[Index, Index, Index],
) -> None:
    """Fill a tile of columns, lines, and elements from column to column, whose corner is a pixel of an image."""
    channels, height, width = shape[1:]
    columns, lines, pitch = extent
    image, top, left = corner
    with _each_of(emit, columns * lines) as number:
        column, line = number % columns, number // columns
        y, x = top + line // channels, left + column
        is_pixel = tirx.all(y >= 0, y < height, x >= 0, x < width)
        with emit.when(is_pixel):
            value = load(values, ((image * channels + line % channels) * height + y) * width + x)
            emit.store(tile, column * pitch + line, value)
        with emit.when(tirx.Not(is_pixel)):
            emit.store(tile, column * pitch + line, tirx.const(0, tile.dtype))


@contextmanager
def _each_of(emit: CudaEmitter, count: int) -> Iterator[Index]:
    """A loop over so many elements, which threads take in turn."""
    with emit.loop(-(-count // _THREADS), "i") as i:
        number = emit.bind("number", i * _THREADS + emit.thread)
        with emit.when(count % _THREADS == 0 or number < count):
            yield number
