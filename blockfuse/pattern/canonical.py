"""Bring a traced pattern to the form that models have after reading.

Each rewrite is the twin of one in ``blockfuse.frontend.canonical``: a function from an operator, whose inputs are
canonical already, to what stands for it, or None where it does not apply.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from blockfuse.errors import PatternError
from blockfuse.pattern.gates import hard_sigmoid, hard_swish, swish
from blockfuse.pattern.values import Call, Either, Number, Omitted, Value

TAKEN_IN = (
    *("BatchNormalization", "Celu", "Clip", "Elu", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Mish", "Relu"),
    *("Selu", "Sigmoid", "Softplus", "Swish", "Tanh"),
)
"""Operators on each element that a convolution takes in behind it."""

Rewrite = Callable[[Call], Value | None]


def canonicalize(root: Value) -> Value:
    """The pattern with every rewrite applied wherever it applies; shared values stay shared."""
    done: dict[Value, Value] = {}

    def visit(value: Value) -> Value:
        if value not in done:
            done[value] = _settle(_rebuild(value, visit))
        return done[value]

    return visit(root)


def _rebuild(value: Value, visit: Callable[[Value], Value]) -> Value:
    if isinstance(value, Call):
        return replace(value, inputs=tuple(visit(child) for child in value.inputs))
    if isinstance(value, Either):
        return Either(tuple(visit(child) for child in value.alternatives))
    return value


def _settle(value: Value) -> Value:
    while isinstance(value, Call):
        results = (rewrite(value) for rewrite in REWRITES)
        new = next((result for result in results if result is not None), None)
        if new is None:
            return value
        value = new
    return value


def _drop_identity(call: Call) -> Value | None:
    return call.inputs[0] if call.kind in {"Identity", "Dropout"} else None


def _sum_to_add(call: Call) -> Value | None:
    if call.kind != "Sum":
        return None
    total = call.inputs[0]
    for term in call.inputs[1:]:
        total = Call("Add", (total, term))
    return replace(total, name=call.name) if isinstance(total, Call) and len(call.inputs) > 1 else total


def _difference_to_add(call: Call) -> Value | None:
    """``Sub(a, b)`` is ``Add(a, b * -1)``, unless one of them is a number."""
    if call.kind != "Sub" or any(isinstance(value, Number) for value in call.inputs):
        return None
    a, b = call.inputs
    return Call("Add", (a, Call("Mul", (b, Number(-1.0)))), call.attrs, call.name)


def _finish_before_concat(call: Call) -> Value | None:
    """What normalizes or activates concatenated convolutions does so before they are concatenated."""
    concat = call.inputs[0] if call.inputs else None
    if call.kind not in TAKEN_IN or not isinstance(concat, Call) or concat.kind != "Concat":
        return None
    if not all(isinstance(part, Call) and part.kind == "Conv" for part in concat.inputs):
        return None
    parts = (Call(call.kind, (part, *call.inputs[1:]), call.attrs) for part in concat.inputs)
    finished = [_fold_batch_norm(part) or part for part in parts]
    return replace(concat, inputs=tuple(finished), name=concat.name or call.name)


def _extremum_to_clip(call: Call) -> Value | None:
    """``Max(x, c)`` and ``Min(x, c)`` with a number are a Clip."""
    if call.kind not in {"Max", "Min"} or len(call.inputs) != 2:
        return None
    for x, bound in (call.inputs, call.inputs[::-1]):
        if isinstance(bound, Number):
            bounds = (bound.number, math.inf) if call.kind == "Max" else (-math.inf, bound.number)
            return Call("Clip", (x,), dict(zip(("min", "max"), bounds, strict=True)), call.name)
    return None


def _clip_bounds(call: Call) -> Value | None:
    """Bounds given as inputs become the attributes min and max; without any, all bounds will do."""
    if call.kind != "Clip" or len(call.inputs) < 2:
        return None
    bounds = []
    for bound, missing in zip((*call.inputs[1:], Omitted())[:2], (-math.inf, math.inf), strict=True):
        if not isinstance(bound, Number | Omitted):
            raise PatternError("op.Clip: a bound must be a number")
        bounds.append(bound.number if isinstance(bound, Number) else missing)
    attrs = {**call.attrs, "min": bounds[0], "max": bounds[1]}
    return Call("Clip", call.inputs[:1], attrs, call.name)


def _clip_to_relu(call: Call) -> Value | None:
    if call.kind != "Clip" or (call.attrs.get("min"), call.attrs.get("max")) != (0, math.inf):
        return None
    return Call("Relu", call.inputs[:1], name=call.name)


def _plain_gemm(call: Call) -> Value | None:
    """Models fold alpha, beta and the transposition into the constants."""
    folded = {"alpha", "beta", "transB"} & set(call.attrs)
    if call.kind != "Gemm" or not folded:
        return None
    return replace(call, attrs={key: value for key, value in call.attrs.items() if key not in folded})


def _fold_batch_norm(call: Call) -> Value | None:
    """A BatchNormalization behind a Conv is part of the Conv's weights."""
    if call.kind != "BatchNormalization" or not isinstance(call.inputs[0], Call) or call.inputs[0].kind != "Conv":
        return None
    conv = call.inputs[0]
    return replace(conv, inputs=conv.inputs[:2], name=conv.name or call.name)


def _mean_to_pool(call: Call) -> Value | None:
    if call.kind != "ReduceMean" or call.attrs.get("keepdims", 1) != 1:
        return None
    axes = call.attrs.get("axes")
    if not isinstance(axes, tuple) or sorted(axis % 4 for axis in axes) != [2, 3]:
        return None
    return Call("GlobalAveragePool", call.inputs[:1], name=call.name)


def _drop_omitted(call: Call) -> Value | None:
    """Omitted inputs at the end need not be written."""
    inputs = call.inputs
    while inputs and isinstance(inputs[-1], Omitted):
        inputs = inputs[:-1]
    return replace(call, inputs=inputs) if len(inputs) < len(call.inputs) else None


REWRITES: tuple[Rewrite, ...] = (
    _drop_identity,
    _sum_to_add,
    _difference_to_add,
    _finish_before_concat,
    _extremum_to_clip,
    _clip_bounds,
    _clip_to_relu,
    _plain_gemm,
    swish,
    hard_sigmoid,
    hard_swish,
    _fold_batch_norm,
    _mean_to_pool,
    _drop_omitted,
)
