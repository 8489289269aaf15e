"""Ops that move elements, in Relax: reshapes, slices, pads, concatenations; and products of matrices."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import accumulate
from typing import Any

import numpy as np
from tvm import relax

from blockfuse.build.operands import Emitter, Operands, Refusal, picked


def _reshape(o: Operands) -> Any:
    return relax.op.reshape(o.tensor(), o.dims)


def _transpose(o: Operands) -> Any:
    return relax.op.permute_dims(o.tensor(), o.op.attrs.get("perm", tuple(reversed(range(o.rank)))))


def _concat(o: Operands) -> Any:
    return relax.op.concat(o.tensors(), o.axis(o.op.attrs["axis"]))


def _split(o: Operands) -> Any:
    """Into the sizes of the outputs, however the op gives them."""
    axis = o.op.attrs.get("axis", 0) % o.rank
    if not all(o.op.outputs):
        raise Refusal("a part is not used")
    sizes = [o.writer.network.tensors[name].shape[axis] for name in o.op.outputs]
    if len(sizes) == 1:
        return [o.tensor()]
    parts = o.writer.builder.emit(relax.op.split(o.tensor(), list(accumulate(sizes[:-1])), o.axis(axis)))
    return [relax.TupleGetItem(parts, index) for index in range(len(sizes))]


def _slice(o: Operands) -> Any:
    """Bounds are clamped as Python clamps them; a slice that runs backwards picks its elements."""
    starts, ends = o.numbers(1), o.numbers(2)
    axes = o.numbers(3) if o.has(3) else list(range(len(starts)))
    steps = o.numbers(4) if o.has(4) else [1] * len(starts)
    value = o.tensor()
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        size = o.described().shape[axis]
        kept = range(*slice(start, end, step).indices(size))
        if kept == range(size):
            continue
        if step < 0:
            value = picked(o, value, axis, kept)
        else:
            value = relax.op.strided_slice(value, [o.axis(axis)], [kept.start], [kept.stop], [kept.step])
    return value


def _gather(o: Operands) -> Any:
    """By constant or by computed indices, of which those below zero count from the end."""
    axis = o.op.attrs.get("axis", 0) % o.rank
    size = o.described().shape[axis]
    if o.values[1] is None:
        table = (np.asarray(o.data(1)) % size).astype(np.int32)
        return relax.op.take(o.tensor(), o.writer.constant(table), o.axis(axis), mode="clip")
    indices = relax.op.astype(o.tensor(1), "int64")
    last = relax.op.add(indices, relax.const(size, "int64"))
    indices = relax.op.where(relax.op.less(indices, relax.const(0, "int64")), last, indices)
    return relax.op.take(o.tensor(), indices, o.axis(axis), mode="clip")


def _pad(o: Operands) -> Any:
    """Constant pads are Relax's; the other modes pick elements. A pad below zero crops."""
    mode = o.op.attrs.get("mode", "constant")
    amounts = o.numbers(1)
    axes = o.numbers(3) if o.has(3) else list(range(o.rank))
    fill = o.data(2)
    value, widths = o.tensor(), [0] * (2 * o.rank)
    for index, axis in enumerate(axes):
        size, before, after = o.described().shape[axis], amounts[index], amounts[index + len(axes)]
        crop = [max(0, -before), size - max(0, -after)]
        if crop != [0, size]:
            value = relax.op.strided_slice(value, [o.axis(axis)], crop[:1], crop[1:])
        outside = max(0, before), max(0, after)
        if mode == "constant":
            widths[2 * o.axis(axis) : 2 * o.axis(axis) + 2] = outside
        elif any(outside):
            table = np.pad(np.arange(crop[1] - crop[0]), outside, mode=mode)
            value = picked(o, value, axis, table)
    if not any(widths):
        return value
    return relax.op.nn.pad(value, widths, "constant", 0.0 if fill is None else float(fill.reshape(-1)[0]))


def _expand(o: Operands) -> Any:
    return relax.op.broadcast_to(o.tensor(), o.dims)


def _tile(o: Operands) -> Any:
    """Axis by axis, by picking; the code of TVM's own ``tile`` for AVX-512 leaves half of some results unwritten."""
    value = o.tensor()
    for axis, (size, count) in enumerate(zip(o.described().shape, o.numbers(1), strict=True)):
        if count > 1:
            value = picked(o, value, axis, np.tile(np.arange(size), count))
    return value


def _depth_to_space(o: Operands) -> Any:
    """Every pixel becomes a square of pixels of fewer channels (order ``DCR``: the square varies slowest)."""
    square = o.op.attrs["blocksize"]
    is_slow = o.op.attrs.get("mode", "DCR") == "DCR"
    n, *sizes = o.tensor().ty.shape
    c, h, w = o.described().shape[1:]
    depth = c // square**2
    parts = (square, square, depth) if is_slow else (depth, square, square)
    if o.is_last:
        order = (0, 1, 3, 2, 4, 5) if is_slow else (0, 1, 4, 2, 5, 3)
        value = relax.op.reshape(o.tensor(), [n, h, w, *parts])
        return relax.op.reshape(relax.op.permute_dims(value, order), [n, h * square, w * square, depth])
    order = (0, 3, 4, 1, 5, 2) if is_slow else (0, 1, 4, 2, 5, 3)
    value = relax.op.reshape(o.tensor(), [n, *parts, *sizes[1:]])
    return relax.op.reshape(relax.op.permute_dims(value, order), [n, depth, h * square, w * square])


def _space_to_depth(o: Operands) -> Any:
    """Every square of pixels becomes one pixel of more channels, the square varying slowest."""
    square, n = o.op.attrs["blocksize"], o.tensor().ty.shape[0]
    c, h, w = o.described().shape[1:]
    rows, columns, depth = h // square, w // square, c * square**2
    if o.is_last:
        value = relax.op.reshape(o.tensor(), [n, rows, square, columns, square, c])
        return relax.op.reshape(relax.op.permute_dims(value, (0, 1, 3, 2, 4, 5)), [n, rows, columns, depth])
    value = relax.op.reshape(o.tensor(), [n, c, rows, square, columns, square])
    return relax.op.reshape(relax.op.permute_dims(value, (0, 3, 5, 1, 2, 4)), [n, depth, rows, columns])


def _gemm(o: Operands) -> Any:
    weight = o.data(1)
    if weight is None or dict(o.op.attrs) != {"transB": 1}:
        raise Refusal("a Gemm that is not canonical")
    product = relax.op.matmul(o.tensor(), o.writer.constant(np.ascontiguousarray(weight.T)))
    return relax.op.add(product, o.tensor(2))


def _two(function: Callable[[Any, Any], Any]) -> Emitter:
    return lambda o: function(o.tensor(0), o.tensor(1))


SHAPES: Mapping[str, Emitter] = {
    "Concat": _concat,
    "DepthToSpace": _depth_to_space,
    "Expand": _expand,
    "Flatten": _reshape,
    "Gather": _gather,
    "Gemm": _gemm,
    "MatMul": _two(relax.op.matmul),
    "Pad": _pad,
    "Reshape": _reshape,
    "Slice": _slice,
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Squeeze": _reshape,
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _reshape,
}
"""Emitters of ops that move elements, and of products."""
