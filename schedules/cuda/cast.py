"""Kernels at the border of a network: its values in another type, and images from N, C, H, W to N, H, W, C.

::

    flat:      target[i] = source[i]
    transpose: for a tile of pixels and channels:
                 tile[pixel, channel] = source[channel, pixel]      neighbouring threads read neighbouring pixels
                 target[pixel, channel] = tile[pixel, channel]      neighbouring threads write neighbouring channels
"""

from __future__ import annotations

from math import prod
from typing import Any

from tvm import tirx

from blockfuse.schedules.cuda.emitter import CudaEmitter
from blockfuse.schedules.emit import Expr, Index, load, quotient

_THREADS = 256
_MOST_CHANNELS = 32  # of a tile
_TILE = 2048  # elements of a tile


def lower_cast(
    name: str, shape: tuple[int, ...], source: str, target: str, *, transposed: bool, any_batch: bool = False
) -> Any:
    """A kernel that converts a tensor.

    Args:
        name: Of the function.
        shape: Of the source.
        source: Its type.
        target: Type of the result.
        transposed: Whether the source is N, C, H, W and the result N, H, W, C; else both have the same order.
        any_batch: Whether the first dimension is whatever it is when the kernel is called.
    """
    sizes = (tirx.Var("batch", "int32"), *shape[1:]) if any_batch else shape
    return (_transpose if transposed else _flat)(name, sizes, source, target)


def _flat(name: str, shape: tuple[Index, ...], source: str, target: str) -> Any:
    total: Index = prod(shape)
    whole = prod(size for size in shape if isinstance(size, int)) % _THREADS == 0
    emit = CudaEmitter(quotient(total + (_THREADS - 1), _THREADS), _THREADS)
    values, result = emit.parameter("input_0", shape, source), emit.parameter("result", shape, target)
    position = emit.cta * _THREADS + emit.thread
    with emit.when(whole or position < total):
        emit.store(result, position, tirx.Cast(target, load(values, position)))
    return emit.function(name)


def _transpose(name: str, shape: tuple[Index, ...], source: str, target: str) -> Any:
    batch, channels, height, width = shape
    pixels = height * width
    deep = min(channels, _MOST_CHANNELS)
    wide = max(32, min(_TILE // deep, _THREADS) // 32 * 32)
    tiles, slices = -(-pixels // wide), -(-channels // deep)
    emit = CudaEmitter(batch * tiles * slices, _THREADS)
    values = emit.parameter("input_0", shape, source)
    result = emit.parameter("result", (batch, height, width, channels), target)
    pitch = deep + 1 - deep % 2  # odd: threads that store a column each use banks of their own
    tile = emit.shared("tile", wide * pitch, source)
    image = emit.bind("image", emit.cta // (tiles * slices))
    first = emit.bind("first_pixel", emit.cta // slices % tiles * wide)
    low = emit.bind("first_channel", emit.cta % slices * deep)

    def inside(pixel: Expr, channel: Expr) -> Expr:
        return tirx.And(first + pixel < pixels, low + channel < channels)

    count = wide * deep
    with emit.loop(-(-count // _THREADS), "i") as i:
        number = emit.bind("number", i * _THREADS + emit.thread)
        pixel, channel = number % wide, number // wide
        with emit.when(tirx.And(number < count, inside(pixel, channel))):
            value = load(values, ((image * channels + low + channel) * pixels) + first + pixel)
            emit.store(tile, pixel * pitch + channel, value)
    emit.barrier()
    with emit.loop(-(-count // _THREADS), "i") as i:
        number = emit.bind("number", i * _THREADS + emit.thread)
        pixel, channel = number // deep, number % deep
        with emit.when(tirx.And(number < count, inside(pixel, channel))):
            value = tirx.Cast(target, load(tile, pixel * pitch + channel))
            emit.store(result, (image * pixels + first + pixel) * channels + low + channel, value)
    return emit.function(name)
