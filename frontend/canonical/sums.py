"""Sums of several tensors, and differences, become additions of two."""

from __future__ import annotations

import numpy as np

from blockfuse.frontend.canonical.rewriting import add_constant, fresh, fresh_op, rewrite
from blockfuse.graph import Graph, Op, Tensor

_IMAGE_RANK = 4


@rewrite("Sum")
def add_of_sum(graph: Graph, op: Op) -> bool:
    """``Sum(a, b, c)`` is ``Add(Add(a, b), c)``."""
    if len(op.inputs) < 2:
        return False
    graph.remove_op(op)
    total, result = op.inputs[0], graph.tensor(op.output)
    for index, term in enumerate(op.inputs[1:], start=1):
        is_last = index == len(op.inputs) - 1
        name = op.output if is_last else fresh(graph, f"{op.output}.{index}")
        if not is_last:
            shape = np.broadcast_shapes(graph.tensor(total).shape, graph.tensor(term).shape)
            graph.add_tensor(Tensor(name, shape, result.dtype))
        op_name = op.name if is_last else fresh_op(graph, f"{op.name}.{index}")
        graph.add_op(Op("Add", op_name, (total, term), (name,), {}, op.origin))
        total = name
    return True


@rewrite("Sub")
def add_of_difference(graph: Graph, op: Op) -> bool:
    """``Sub(a, b)`` of computed images of one size is ``Add(a, b * -1)``."""
    a, b = (graph.tensor(name) for name in op.inputs)
    if a.is_constant or b.is_constant or a.shape != b.shape or len(a.shape) != _IMAGE_RANK or not _is_float(a):
        return False
    minus = add_constant(graph, f"{op.name}.minus", np.array(-1, a.dtype))
    negative = fresh(graph, f"{b.name}.negative")
    graph.remove_op(op)
    graph.add_tensor(Tensor(negative, b.shape, b.dtype))
    graph.add_op(Op("Mul", fresh_op(graph, f"{op.name}.negative"), (b.name, minus), (negative,), {}, op.origin))
    graph.add_op(Op("Add", op.name, (a.name, negative), op.outputs, {}, op.origin))
    return True


def _is_float(tensor: Tensor) -> bool:
    return tensor.dtype.startswith(("float", "bfloat"))
