"""The first convolution of a network on a GPU reads squares of pixels as channels, where that takes fewer products.

Tensor cores multiply 16 channels at a time, so every tap of a filter over an image of three channels is one step, of
which most is zeros. A convolution with stride s is one with stride 1 of the image whose pixels are squares of s x s
pixels: 7x7/2 of 3 channels is 4x4 of 12, and 16 steps take the place of 49; 4x4/4 is pointwise. The kernel at the
border of the network, which converts the input anyway, writes the squares (:mod:`blockfuse.plan.squares`)::

    output y reads rows s * y - pad + r of the image, r = 0 .. R - 1
    with f rows of zeros in front, row q of the image is row (q + f) % s of the square (q + f) // s
    so with p pads of squares it reads s * (y - p) + r', r' = r + s * p + f - pad

Either f is 0 and p is pad / s rounded up, or f is pad % s and p is rounded down, which can save a tap. Taps that do not
exist are zero: a pixel that is not a number reaches as far as the squares do.

It applies to a convolution of one group with constant filters, without dilation, with the same stride along both axes,
whose image is an input of the network in float32 or half precision that nothing else reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from blockfuse.dtypes import HALF
from blockfuse.frontend.canonical.rewriting import Array, Steps, rewrite
from blockfuse.graph import Graph, Op
from blockfuse.plan.squares import MOST_CHANNELS, is_entering

_STEP = 16  # channels that tensor cores multiply at a time


def squared_inputs(graph: Graph, dtype: str) -> Graph:
    """The graph for kernels of a GPU that compute in a type; those that compute in float32 use no tensor cores."""
    return _conv_of_squares(graph) if dtype in HALF else graph


@dataclass(frozen=True)
class _Axis:
    """One axis of a convolution of squares.

    Attributes:
        front: Zeros before the first pixel.
        shift: Taps of zeros before the filter.
        taps: Squares that the filter covers.
        pads: Squares of zeros before and after the image.
        squares: Of the image.
    """

    front: int
    shift: int
    taps: int
    pads: tuple[int, int]
    squares: int


@rewrite("Conv")
def _conv_of_squares(graph: Graph, op: Op) -> bool:
    """A Conv with strides of an input is one without of a SpaceToDepth of it, if that takes fewer steps."""
    filters, stride = graph.constant(op.inputs[1]), op.attrs["strides"][0]
    if filters is None or not _has_squares(op) or not is_entering(graph, op.inputs[0]):
        return False
    image, result = graph.tensor(op.inputs[0]).shape, graph.tensor(op.output).shape
    rows, columns = (
        _axis(image[2 + i], result[2 + i], filters.shape[2 + i], op.attrs["pads"][i], stride) for i in range(2)
    )
    before, after = _steps(*filters.shape[1:]), _steps(image[1] * stride**2, rows.taps, columns.taps)
    if min(rows.squares, columns.squares) < 1 or after >= before or image[1] * stride**2 > MOST_CHANNELS:
        return False
    _replace(graph, op, filters, rows, columns)
    return True


def _has_squares(op: Op) -> bool:
    """Whether an axis of a convolution is as the other, and all channels and pixels are under its window."""
    (stride, *others), dilations = op.attrs["strides"], op.attrs["dilations"]
    return stride > 1 and others == [stride] and set(dilations) == {1} and op.attrs["group"] == 1


def _replace(graph: Graph, op: Op, filters: Array, rows: _Axis, columns: _Axis) -> None:
    """A Pad if anything is to be filled up or cut off, the SpaceToDepth, and the Conv."""
    stride, value = op.attrs["strides"][0], op.inputs[0]
    image = graph.tensor(value).shape
    steps = Steps(graph, op)
    padded = (*image[:2], rows.squares * stride, columns.squares * stride)
    front = (0, 0, rows.front, columns.front)
    behind = [size - old - zeros for size, old, zeros in zip(padded, image, front, strict=True)]
    if any((*front, *behind)):
        pads = steps.constant("pads", np.array([*front, *behind], np.int64))
        value = steps.add("Pad", (value, pads), padded, {"mode": "constant"})
    squares = (image[0], image[1] * stride**2, rows.squares, columns.squares)
    value = steps.add("SpaceToDepth", (value,), squares, {"blocksize": stride})
    weight = steps.constant("squares", _of_squares(filters, rows, columns, stride))
    window = {
        "kernel_shape": (rows.taps, columns.taps),
        "strides": (1, 1),
        "pads": (rows.pads[0], columns.pads[0], rows.pads[1], columns.pads[1]),
    }
    steps.add("Conv", (value, weight, *op.inputs[2:]), graph.tensor(op.output).shape, {**op.attrs, **window})
    steps.finish()


def _axis(size: int, outputs: int, taps: int, pad: int, stride: int) -> _Axis:
    """With as few taps as there can be; if that does not matter, without zeros in front."""
    front, before = 0, -(-pad // stride)
    shift = before * stride - pad
    if -(-(taps + shift) // stride) > -(-taps // stride):
        front, before, shift = pad % stride, pad // stride, 0
    covered = -(-(taps + shift) // stride)
    read = outputs - 1 + covered - before  # the square after the last that is read
    squares = min(read, -(-(size + front) // stride))
    return _Axis(front, shift, covered, (before, read - squares), squares)


def _steps(channels: int, *taps: int) -> int:
    """How often tensor cores multiply for an output."""
    return -(-channels // _STEP) * prod(taps)


def _of_squares(filters: Array, rows: _Axis, columns: _Axis, stride: int) -> Array:
    """Filters [K, C, R, S] for squares: [K, stride * stride * C, taps, taps]."""
    outputs, channels, height, width = filters.shape
    full = np.zeros((outputs, channels, rows.taps * stride, columns.taps * stride), filters.dtype)
    full[:, :, rows.shift : rows.shift + height, columns.shift : columns.shift + width] = filters
    parts = full.reshape(outputs, channels, rows.taps, stride, columns.taps, stride).transpose(0, 3, 5, 1, 2, 4)
    return np.ascontiguousarray(parts.reshape(outputs, -1, rows.taps, columns.taps))
