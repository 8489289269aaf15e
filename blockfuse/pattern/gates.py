"""Activations written out as products: Swish, HardSigmoid and HardSwish, in any association of the factors."""

from __future__ import annotations

import math
from dataclasses import dataclass

from blockfuse.pattern.values import Call, Number, Value


@dataclass(frozen=True)
class Product:
    """A product flattened out of Mul and Div: the product of its numbers, and the other factors."""

    scale: float
    factors: tuple[Value, ...]


def swish(call: Call) -> Value | None:
    """``x * Sigmoid(x)`` is Swish."""
    if call.kind != "Mul":
        return None
    for x, gate in _pairs(call.inputs):
        if isinstance(gate, Call) and gate.kind == "Sigmoid" and gate.inputs == (x,):
            return Call("Swish", (x,), name=call.name or gate.name)
    return None


def hard_sigmoid(call: Call) -> Value | None:
    """``Clip(x + b, 0, m) / m`` is HardSigmoid."""
    product = _product(call)
    if product is None or len(product.factors) != 1:
        return None
    clipped = _clipped_sum(product.factors[0])
    if clipped is None or not math.isclose(product.scale * clipped[2], 1):
        return None
    attrs = {"alpha": product.scale, "beta": clipped[1] * product.scale}
    return Call("HardSigmoid", (clipped[0],), attrs, call.name)


def hard_swish(call: Call) -> Value | None:
    """``x * HardSigmoid(x)`` with 1/6 and 1/2, or ``x * Clip(x + 3, 0, 6) / 6``, is HardSwish."""
    product = _product(call)
    if product is None or len(product.factors) != 2:
        return None
    for x, gate in _pairs(product.factors):
        sixth = product.scale if _clipped_sum(gate) == (x, 3, 6) else _slope(x, gate) * product.scale
        if math.isclose(sixth, 1 / 6, rel_tol=1e-5):
            return Call("HardSwish", (x,), name=call.name)
    return None


def _slope(x: Value, gate: Value) -> float:
    """The slope of a HardSigmoid of ``x`` through (0, 1/2); nan for anything else."""
    if not isinstance(gate, Call) or gate.kind != "HardSigmoid" or gate.inputs != (x,):
        return math.nan
    alpha, beta = gate.attrs.get("alpha", 0.2), gate.attrs.get("beta", 0.5)
    return alpha if isinstance(alpha, float) and beta == 0.5 else math.nan


def _pairs(values: tuple[Value, ...]) -> tuple[tuple[Value, ...], ...]:
    return (values, values[::-1])


def _product(value: Value) -> Product | None:
    """The product a Mul or Div makes; None if it divides by anything but a number, or is neither."""
    if not isinstance(value, Call) or value.kind not in {"Mul", "Div"}:
        return None
    (left, right), divides = value.inputs, value.kind == "Div"
    if divides and not (isinstance(right, Number) and right.number):
        return None
    scale = 1.0
    factors: list[Value] = []
    for factor, inverse in ((left, False), (right, divides)):
        if isinstance(factor, Number):
            scale *= 1 / factor.number if inverse else factor.number
            continue
        part = _product(factor) or Product(1.0, (factor,))
        scale *= part.scale
        factors += part.factors
    return Product(scale, tuple(factors))


def _clipped_sum(value: Value) -> tuple[Value, float, float] | None:
    """``x``, ``b`` and ``m`` of ``Clip(x + b, 0, m)``."""
    if not isinstance(value, Call) or value.kind != "Clip" or value.attrs.get("min") != 0:
        return None
    total, bound = value.inputs[0], value.attrs.get("max")
    if not isinstance(total, Call) or total.kind != "Add" or not isinstance(bound, float):
        return None
    for x, shift in _pairs(total.inputs):
        if isinstance(shift, Number):
            return x, shift.number, bound
    return None
