"""Ops that reduce axes, in Relax: sums, means, extremes, their positions, and Softmax."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from tvm import relax, topi

from blockfuse.build.operands import Emitter, Operands, in_single

Reduction = Callable[[Any, Sequence[int], bool], Any]
"""Reduces axes of a value; the last argument says whether they stay with size 1."""


def _reduce(function: Reduction, before: Callable[[Any], Any] | None = None) -> Emitter:
    def emit(o: Operands) -> Any:
        axes, keep = _axes(o), bool(o.op.attrs.get("keepdims", 1))
        is_bool = o.result.dtype == "bool"

        def reduced(value: Any) -> Any:
            value = relax.op.astype(value, "uint8") if is_bool else value
            return function(before(value) if before else value, axes, keep)

        result = in_single(o, reduced)
        return relax.op.astype(result, "bool") if is_bool else result

    return emit


def _axes(o: Operands) -> list[int]:
    """The reduced axes in the layout; without any given all, or none if the op says so."""
    axes = o.op.attrs.get("axes")
    if axes is None and o.has(1):
        axes = o.numbers(1)
    if not axes:
        axes = () if o.op.attrs.get("noop_with_empty_axes", 0) else range(o.rank)
    return [o.axis(axis) for axis in axes]


def _plain(function: Callable[..., Any]) -> Reduction:
    return lambda value, axes, keep: function(value, list(axes), keepdims=keep) if axes else value


def _square(value: Any) -> Any:
    return relax.op.multiply(value, value)


def _norm(value: Any, axes: Sequence[int], keep: bool) -> Any:
    return relax.op.sqrt(_plain(relax.op.sum)(_square(value), axes, keep))


def _log_sum(value: Any, axes: Sequence[int], keep: bool) -> Any:
    return relax.op.log(_plain(relax.op.sum)(value, axes, keep))


def _log_sum_exp(value: Any, axes: Sequence[int], keep: bool) -> Any:
    if not axes:
        return value
    largest = relax.op.max(value, list(axes), keepdims=True)
    dtype = str(value.ty.dtype)
    finite = relax.op.maximum(largest, relax.const(float(np.finfo(dtype).min), dtype))
    total = relax.op.log(relax.op.sum(relax.op.exp(relax.op.subtract(value, finite)), list(axes), keepdims=keep))
    return relax.op.add(total, finite if keep else relax.op.squeeze(finite, list(axes)))


def _global(function: Reduction) -> Emitter:
    return lambda o: in_single(o, lambda value: function(value, o.spatial_axes(), True))


def _global_lp(o: Operands) -> Any:
    return in_single(o, lambda value: lp_norm(value, o.spatial_axes(), o.op.attrs.get("p", 2)))


def lp_norm(value: Any, axes: Sequence[int], p: int) -> Any:
    """``(sum of |x|^p)^(1/p)`` over axes that stay with size 1."""
    if p == 1:
        return relax.op.sum(relax.op.abs(value), list(axes), keepdims=True)
    if p == 2:
        return _norm(value, axes, True)
    dtype = str(value.ty.dtype)
    powers = relax.op.power(relax.op.abs(value), relax.const(float(p), dtype))
    return relax.op.power(relax.op.sum(powers, list(axes), keepdims=True), relax.const(1 / p, dtype))


def _arg(function: Callable[..., Any]) -> Emitter:
    def emit(o: Operands) -> Any:
        axis, keep = o.axis(o.op.attrs.get("axis", 0)), bool(o.op.attrs.get("keepdims", 1))
        if not o.op.attrs.get("select_last_index", 0):
            return function(o.tensor(), axis, keepdims=keep)
        size = o.described().shape[o.op.attrs.get("axis", 0)]
        backwards = function(relax.op.flip(o.tensor(), axis), axis, keepdims=keep)
        return relax.op.subtract(relax.const(size - 1, "int64"), backwards)

    return emit


def _softmax(function: Callable[..., Any], element: Callable[..., Any]) -> Emitter:
    """Of halves one loop nest with the conversions, which as operators would be passes over memory of their own."""

    def emit(o: Operands) -> Any:
        dtype, axis = o.described().dtype, o.axis(o.op.attrs.get("axis", -1))
        if dtype not in {"float16", "bfloat16"}:
            return function(o.tensor(), axis)

        def softmax(value: Any) -> Any:
            return element(value.astype("float32"), axis).astype(dtype)

        return o.writer.builder.call_te(softmax, o.tensor(), primfunc_name_hint="softmax")

    return emit


REDUCTIONS: Mapping[str, Emitter] = {
    "ArgMax": _arg(relax.op.argmax),
    "ArgMin": _arg(relax.op.argmin),
    "GlobalAveragePool": _global(_plain(relax.op.mean)),
    "GlobalLpPool": _global_lp,
    "GlobalMaxPool": _global(_plain(relax.op.max)),
    "LogSoftmax": _softmax(relax.op.nn.log_softmax, topi.nn.log_softmax),
    "ReduceL1": _reduce(_plain(relax.op.sum), relax.op.abs),
    "ReduceL2": _reduce(_norm),
    "ReduceLogSum": _reduce(_log_sum),
    "ReduceLogSumExp": _reduce(_log_sum_exp),
    "ReduceMax": _reduce(_plain(relax.op.max)),
    "ReduceMean": _reduce(_plain(relax.op.mean)),
    "ReduceMin": _reduce(_plain(relax.op.min)),
    "ReduceProd": _reduce(_plain(relax.op.prod)),
    "ReduceSum": _reduce(_plain(relax.op.sum)),
    "ReduceSumSquare": _reduce(_plain(relax.op.sum), _square),
    "Softmax": _softmax(relax.op.nn.softmax, topi.nn.softmax),
}
"""Emitters of reductions; those that keep the rank can run on images with their channels last."""
