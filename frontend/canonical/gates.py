"""Activations written out as arithmetic: Swish, HardSigmoid, HardSwish and both forms of Gelu.

Exporters associate the factors of such a product differently, so the rules compare products as sets of factors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from blockfuse.frontend.canonical.rewriting import (
    add_constant,
    fresh,
    fresh_op,
    rewrite,
    scalar,
    sole_producer,
    substitute,
)
from blockfuse.graph import Graph, Op, Tensor


@dataclass(frozen=True)
class Product:
    """A product flattened out of Mul and Div ops.

    Attributes:
        scale: Product of the constant factors.
        factors: The computed factors.
        ops: The ops below the outermost one, producers first.
    """

    scale: float
    factors: tuple[str, ...]
    ops: tuple[Op, ...]


@rewrite("Mul")
def swish(graph: Graph, op: Op) -> bool:
    """``x * Sigmoid(x)`` is ``Swish(x)``."""
    for x, gate in (op.inputs, op.inputs[::-1]):
        sigmoid = _producer(graph, gate, "Sigmoid")
        if sigmoid is not None and sigmoid.inputs[0] == x:
            substitute(graph, op, (sigmoid,), "Swish", (x,))
            return True
    return False


@rewrite("Mul")
def mish(graph: Graph, op: Op) -> bool:
    """``x * Tanh(Softplus(x))`` is ``Mish(x)``."""
    for x, gate in (op.inputs, op.inputs[::-1]):
        tanh = _producer(graph, gate, "Tanh")
        softplus = _producer(graph, tanh.inputs[0], "Softplus") if tanh is not None else None
        if tanh is not None and softplus is not None and softplus.inputs[0] == x:
            substitute(graph, op, (softplus, tanh), "Mish", (x,))
            return True
    return False


@rewrite("Swish")
def plain_swish(graph: Graph, op: Op) -> bool:
    """``Swish`` has no attributes; one with another ``alpha`` than 1 is written out."""
    if not op.attrs:
        return False
    alpha = op.attrs.get("alpha", 1.0)
    if alpha == 1:
        substitute(graph, op, (), "Swish", op.inputs)
        return True
    x = graph.tensor(op.inputs[0])
    factor = add_constant(graph, f"{op.name}.alpha", np.array(alpha, x.dtype))
    scaled, gate = fresh(graph, f"{op.output}.scaled"), fresh(graph, f"{op.output}.gate")
    graph.add_tensor(Tensor(scaled, x.shape, x.dtype))
    graph.add_tensor(Tensor(gate, x.shape, x.dtype))
    steps = (
        Op("Mul", fresh_op(graph, f"{op.name}.scale"), (x.name, factor), (scaled,), {}, op.origin),
        Op("Sigmoid", fresh_op(graph, f"{op.name}.gate"), (scaled,), (gate,), {}, op.origin),
        Op("Mul", op.name, (x.name, gate), op.outputs, {}, op.origin),
    )
    graph.replace([op], steps)
    return True


@rewrite("HardSigmoid")
def explicit_hard_sigmoid(graph: Graph, op: Op) -> bool:
    """``HardSigmoid`` always says its ``alpha`` and ``beta``."""
    if set(op.attrs) == {"alpha", "beta"}:
        return False
    attrs = {"alpha": op.attrs.get("alpha", 0.2), "beta": op.attrs.get("beta", 0.5)}
    substitute(graph, op, (), "HardSigmoid", op.inputs, attrs)
    return True


@rewrite("Mul", "Div")
def hard_sigmoid(graph: Graph, op: Op) -> bool:
    """``Clip(x + b, 0, m) / m`` is ``HardSigmoid(x)``."""
    product = _product(graph, op)
    if product is None or len(product.factors) != 1:
        return False
    shifted = _clipped_sum(graph, product.factors[0])
    if shifted is None:
        return False
    x, beta, bound, ops = shifted
    if not _is_close(graph, x, product.scale * bound, 1.0) or not _same_shape(graph, x, op):
        return False
    attrs = {"alpha": product.scale, "beta": beta * product.scale}
    substitute(graph, op, (*ops, *product.ops), "HardSigmoid", (x,), attrs)
    return True


@rewrite("Mul", "Div")
def hard_swish(graph: Graph, op: Op) -> bool:
    """``x * HardSigmoid(x)`` with 1/6 and 1/2, or ``x * Clip(x + 3, 0, 6) / 6``, is ``HardSwish(x)``."""
    product = _product(graph, op)
    if product is None or len(product.factors) != 2:
        return False
    for x, gate in (product.factors, product.factors[::-1]):
        ops = _hard_gate(graph, x, gate, product.scale)
        if ops is not None and _same_shape(graph, x, op):
            substitute(graph, op, (*ops, *product.ops), "HardSwish", (x,))
            return True
    return False


@rewrite("Mul", "Div")
def gelu(graph: Graph, op: Op) -> bool:
    """``x * (1 + Erf(x / sqrt 2)) / 2``, or its approximation by Tanh, is ``Gelu(x)``."""
    product = _product(graph, op)
    if product is None or len(product.factors) != 2:
        return False
    for x, gate in (product.factors, product.factors[::-1]):
        found = _gelu_gate(graph, x, gate)
        if found is not None and _is_close(graph, x, product.scale, 0.5) and _same_shape(graph, x, op):
            approximate, ops = found
            substitute(graph, op, (*ops, *product.ops), "Gelu", (x,), {"approximate": approximate})
            return True
    return False


def _product(graph: Graph, op: Op) -> Product | None:
    """Flatten a product; None if its outermost op divides by a computed value."""
    scale, factors, ops = 1.0, [], []
    if op.kind == "Div" and scalar(graph, op.inputs[1]) in {None, 0.0}:
        return None
    for index, name in enumerate(op.inputs):
        value = scalar(graph, name)
        if value is not None:
            scale = scale / value if op.kind == "Div" and index == 1 else scale * value
            continue
        inner = sole_producer(graph, name, "Mul", "Div")
        part = _product(graph, inner) if inner is not None else None
        if inner is None or part is None:
            factors.append(name)
            continue
        scale *= part.scale
        factors += part.factors
        ops += [*part.ops, inner]
    return Product(scale, tuple(factors), tuple(ops))


def _hard_gate(graph: Graph, x: str, gate: str, scale: float) -> tuple[Op, ...] | None:
    """The ops of a gate with which ``x`` times the scale is a HardSwish."""
    sigmoid = _producer(graph, gate, "HardSigmoid")
    if sigmoid is not None and sigmoid.inputs[0] == x and _is_close(graph, x, scale, 1.0):
        alpha, beta = sigmoid.attrs["alpha"], sigmoid.attrs["beta"]
        return (sigmoid,) if _is_close(graph, x, alpha, 1 / 6) and _is_close(graph, x, beta, 0.5) else None
    shifted = _clipped_sum(graph, gate)
    if shifted is None or shifted[:3] != (x, 3.0, 6.0) or not _is_close(graph, x, scale, 1 / 6):
        return None
    return shifted[3]


def _clipped_sum(graph: Graph, name: str) -> tuple[str, float, float, tuple[Op, ...]] | None:
    """``x``, ``b``, ``m`` and the ops, of ``Clip(x + b, 0, m)``."""
    clip = _producer(graph, name, "Clip")
    if clip is None or clip.attrs.get("min") != 0 or not 0 < clip.attrs.get("max", 0) < math.inf:
        return None
    total = _producer(graph, clip.inputs[0], "Add")
    if total is None:
        return None
    for x, other in (total.inputs, total.inputs[::-1]):
        shift = scalar(graph, other)
        if shift is not None:
            return x, shift, clip.attrs["max"], (total, clip)
    return None


def _gelu_gate(graph: Graph, x: str, gate: str) -> tuple[str, tuple[Op, ...]] | None:
    """Which Gelu ``1 + f(x)`` belongs to, and its ops."""
    total = _producer(graph, gate, "Add")
    if total is None:
        return None
    for one, name in (total.inputs, total.inputs[::-1]):
        curve = _producer(graph, name, "Erf", "Tanh")
        if scalar(graph, one) != 1 or curve is None:
            continue
        inner = _producer(graph, curve.inputs[0], "Mul", "Div")
        product = _product(graph, inner) if inner is not None else None
        if inner is None or product is None or len(product.factors) != 1:
            continue
        ops = (*product.ops, inner, curve, total)
        if curve.kind == "Erf" and product.factors == (x,) and _is_close(graph, x, product.scale, math.sqrt(0.5)):
            return "none", ops
        cubic = _cubic(graph, x, product.factors[0]) if curve.kind == "Tanh" else None
        if cubic is not None and _is_close(graph, x, product.scale, math.sqrt(2 / math.pi)):
            return "tanh", (*cubic, *ops)
    return None


def _cubic(graph: Graph, x: str, name: str) -> tuple[Op, ...] | None:
    """The ops of ``x + 0.044715 x^3``."""
    total = _producer(graph, name, "Add")
    if total is None or x not in total.inputs:
        return None
    other = total.inputs[1] if total.inputs[0] == x else total.inputs[0]
    term = _producer(graph, other, "Mul")
    product = _product(graph, term) if term is not None else None
    if term is None or product is None or not _is_close(graph, x, product.scale, 0.044715):
        return None
    if product.factors == (x, x, x):
        return (*product.ops, term, total)
    power = _producer(graph, product.factors[0], "Pow") if len(product.factors) == 1 else None
    if power is None or power.inputs[0] != x or scalar(graph, power.inputs[1]) != 3:
        return None
    return (power, *product.ops, term, total)


def _producer(graph: Graph, name: str, *kinds: str) -> Op | None:
    op = graph.producer(name)
    return op if op is not None and op.kind in kinds else None


def _same_shape(graph: Graph, name: str, op: Op) -> bool:
    return graph.tensor(name).shape == graph.tensor(op.output).shape


def _is_close(graph: Graph, name: str, value: float, wanted: float) -> bool:
    """Whether two constants are equal up to the rounding of a tensor's type."""
    tolerance = (
        2e-2 if graph.tensor(name).dtype == "bfloat16" else 2e-3 if graph.tensor(name).dtype == "float16" else 1e-5
    )
    return math.isclose(value, wanted, rel_tol=tolerance)
