"""Bring a traced pattern to the form that models have after reading.

Each rewrite is the twin of one in ``blockfuse.frontend.canonical``: a function from an operator, whose inputs are
canonical already, to what stands for it, or None where it does not apply.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from blockfuse.errors import PatternError
from blockfuse.pattern.values import Call, Captured, Either, Number, Omitted, Value

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
    if not call.inputs:
        raise PatternError("op.Sum needs an input")
    total = call.inputs[0]
    for term in call.inputs[1:]:
        total = Call("Add", (total, term))
    return replace(total, name=call.name) if isinstance(total, Call) and len(call.inputs) > 1 else total


def _clip_bounds(call: Call) -> Value | None:
    """Bounds given as inputs become the attributes min and max; bounds left out stay unconstrained."""
    if call.kind != "Clip" or len(call.inputs) < 2:
        return None
    attrs = dict(call.attrs)
    for key, bound, missing in zip(("min", "max"), call.inputs[1:], (-math.inf, math.inf), strict=False):
        if isinstance(bound, Captured | Call | Either):
            raise PatternError(f"op.Clip: {key} must be a number")
        attrs[key] = bound.number if isinstance(bound, Number) else missing
    return Call("Clip", call.inputs[:1], attrs, call.name)


def _gate_to_activation(call: Call) -> Value | None:
    """``x * Sigmoid(x)`` is Swish, and ``x * HardSigmoid(x)`` with its usual constants is HardSwish."""
    if call.kind != "Mul" or len(call.inputs) != 2:
        return None
    for x, gate in (call.inputs, call.inputs[::-1]):
        if not isinstance(gate, Call) or gate.inputs[:1] != (x,):
            continue
        if gate.kind == "Sigmoid":
            return Call("Swish", (x,), name=call.name or gate.name)
        if gate.kind == "HardSigmoid" and _is_hard_swish_gate(gate):
            return Call("HardSwish", (x,), name=call.name or gate.name)
    return None


def _is_hard_swish_gate(gate: Call) -> bool:
    alpha, beta = gate.attrs.get("alpha", 0.2), gate.attrs.get("beta", 0.5)
    if not isinstance(alpha, int | float) or not isinstance(beta, int | float):
        return False
    return math.isclose(alpha, 1 / 6, rel_tol=1e-5) and math.isclose(beta, 0.5)


def _fold_batch_norm(call: Call) -> Value | None:
    """A BatchNormalization behind a Conv is part of the Conv's weights."""
    if call.kind != "BatchNormalization" or not isinstance(call.inputs[0], Call) or call.inputs[0].kind != "Conv":
        return None
    conv = call.inputs[0]
    return replace(conv, inputs=conv.inputs[:2], name=call.name or conv.name)


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
    _clip_bounds,
    _gate_to_activation,
    _fold_batch_norm,
    _mean_to_pool,
    _drop_omitted,
)
