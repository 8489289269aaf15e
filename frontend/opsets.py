"""Operators that mean something else in an old operator set become those of today."""

from __future__ import annotations

import math

import numpy as np

from blockfuse.frontend.canonical.rewriting import Steps, rewrite
from blockfuse.graph import Graph, Op

_ONE_AXIS = 13
"""Since that operator set Softmax and its like work along one axis."""


def modernize(graph: Graph, opset: int) -> Graph:
    """The graph with operators that mean what they mean in new operator sets.

    Args:
        graph: As read.
        opset: Version of the standard operator set it was read from.
    """
    return softmax_of_matrix(graph) if opset < _ONE_AXIS else graph


@rewrite("Softmax", "LogSoftmax", "Hardmax")
def softmax_of_matrix(graph: Graph, op: Op) -> bool:
    """Before opset 13 these work on a matrix whose rows are all axes from ``axis`` on."""
    shape = graph.tensor(op.inputs[0]).shape
    axis = op.attrs.get("axis", 1) % max(1, len(shape))
    if math.prod(shape[axis + 1 :]) == 1:
        return False
    steps = Steps(graph, op)
    rows = (math.prod(shape[:axis]), math.prod(shape[axis:]))
    flat = steps.add("Flatten", op.inputs[:1], rows, {"axis": axis})
    soft = steps.add(op.kind, (flat,), rows, {"axis": -1})
    target = steps.constant("shape", np.array(shape, np.int64))
    steps.add("Reshape", (soft, target), shape, {"allowzero": 0})
    steps.finish()
    return True
