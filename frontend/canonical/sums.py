"""Sums of several tensors become additions of two."""

from __future__ import annotations

import numpy as np

from blockfuse.frontend.canonical.rewriting import fresh, fresh_op, rewrite
from blockfuse.graph import Graph, Op, Tensor


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
