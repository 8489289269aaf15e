"""Fully connected layers: Gemm with a [K, C] weight and a [K] bias, whatever they were written as."""

from __future__ import annotations

import numpy as np

from blockfuse.frontend.canonical.rewriting import (
    Array,
    Steps,
    add_constant,
    optional_input,
    rewrite,
    sole_producer,
    substitute,
)
from blockfuse.graph import Graph, Op

_ATTRS = {"transB": 1}


@rewrite("Gemm")
def plain_gemm(graph: Graph, op: Op) -> bool:
    """Fold ``alpha``, ``beta`` and ``transB`` into the constants, and give every Gemm a bias."""
    weight = graph.constant(op.inputs[1])
    if weight is None or op.attrs.get("transA", 0):
        return False
    if dict(op.attrs) == _ATTRS and len(op.inputs) == 3 and op.inputs[2]:
        return False
    matrix = weight if op.attrs.get("transB", 0) else weight.T
    bias = _gemm_bias(graph, op, matrix.shape[0])
    if bias is None:
        return False
    alpha = op.attrs.get("alpha", 1.0)
    names = [op.inputs[1], optional_input(op, 2)]
    if alpha != 1 or matrix is not weight:
        names[0] = add_constant(graph, f"{op.name}.weight", _scaled(matrix, alpha))
    if graph.constant(names[1]) is not bias:
        names[1] = add_constant(graph, f"{op.name}.bias", bias)
    substitute(graph, op, (), "Gemm", (op.inputs[0], *names), _ATTRS)
    return True


@rewrite("Gemm")
def matmul_of_gemm(graph: Graph, op: Op) -> bool:
    """A Gemm of two computed matrices, of a transposed one, or plus a matrix is written out."""
    if dict(op.attrs) == _ATTRS:
        return False
    dtype = graph.tensor(op.output).dtype
    steps = Steps(graph, op)
    factors = []
    for name, key in zip(op.inputs[:2], ("transA", "transB"), strict=True):
        shape = graph.tensor(name).shape
        transposed = op.attrs.get(key, 0)
        factors.append(steps.add("Transpose", (name,), shape[::-1], {"perm": (1, 0)}) if transposed else name)
    shape = graph.tensor(op.output).shape
    value = steps.add("MatMul", factors, shape)
    if op.attrs.get("alpha", 1.0) != 1:
        value = steps.add("Mul", (value, steps.constant("alpha", np.array(op.attrs["alpha"], dtype))), shape)
    bias = optional_input(op, 2)
    known, beta = graph.constant(bias), op.attrs.get("beta", 1.0)
    if known is not None and beta != 1:
        bias = steps.constant("bias", _scaled(known, beta))
    elif bias and beta != 1:
        bias = steps.add("Mul", (bias, steps.constant("beta", np.array(beta, dtype))), graph.tensor(bias).shape)
    if bias:
        steps.add("Add", (value, bias), shape)
    steps.finish()
    return True


@rewrite("MatMul")
def gemm_of_matmul(graph: Graph, op: Op) -> bool:
    """``MatMul`` of a matrix and a constant matrix is a ``Gemm``."""
    weight = graph.constant(op.inputs[1])
    if weight is None or weight.ndim != 2 or len(graph.tensor(op.inputs[0]).shape) != 2:
        return False
    bias = np.zeros(weight.shape[1], weight.dtype)
    names = (add_constant(graph, f"{op.name}.weight", _scaled(weight.T)), add_constant(graph, f"{op.name}.bias", bias))
    substitute(graph, op, (), "Gemm", (op.inputs[0], *names), _ATTRS)
    return True


@rewrite("Add")
def fold_vector(graph: Graph, op: Op) -> bool:
    """``Gemm(x) + v`` with a constant vector is a ``Gemm`` with another bias."""
    for product, other in (op.inputs, op.inputs[::-1]):
        gemm = sole_producer(graph, product, "Gemm")
        vector = graph.constant(other)
        if gemm is None or vector is None or dict(gemm.attrs) != _ATTRS:
            continue
        bias = graph.constant(gemm.inputs[2])
        shape = graph.tensor(product).shape
        if bias is None or graph.tensor(op.output).shape != shape or not _is_vector(vector, shape[1]):
            continue
        total = (bias.astype(np.float64) + vector.reshape(-1).astype(np.float64)).astype(bias.dtype)
        names = (*gemm.inputs[:2], add_constant(graph, f"{gemm.name}.bias", total))
        substitute(graph, op, (gemm,), "Gemm", names, _ATTRS, gemm.name)
        return True
    return False


def _gemm_bias(graph: Graph, op: Op, outputs: int) -> Array | None:
    """The bias [K] with ``beta`` applied; None if it is computed or differs between rows."""
    name = optional_input(op, 2)
    if not name:
        return np.zeros(outputs, graph.tensor(op.output).dtype)
    value = graph.constant(name)
    if value is None or not _is_vector(value, outputs):
        return None
    beta = op.attrs.get("beta", 1.0)
    if beta == 1 and value.shape == (outputs,):
        return value
    return _scaled(np.broadcast_to(value.reshape(-1), (outputs,)), beta)


def _is_vector(value: Array, outputs: int) -> bool:
    """Whether a constant adds one number per column, the same for all rows."""
    return value.size == 1 or (value.size == outputs and value.shape[-1] == outputs and value.ndim <= 2)


def _scaled(matrix: Array, factor: float = 1.0) -> Array:
    """A contiguous copy times a factor, computed in float64."""
    return np.ascontiguousarray((matrix.astype(np.float64) * factor).astype(matrix.dtype))
