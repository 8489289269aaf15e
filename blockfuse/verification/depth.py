"""How many terms are added up on the way to a tensor: what rounding errors, and so tolerances, depend on."""

from __future__ import annotations

import math
from collections.abc import Callable

from blockfuse.graph import Graph, Op


def path_depths(graph: Graph) -> dict[str, tuple[int, int]]:
    """For every computed tensor the terms added up along the deepest path to it, and the ops of the longest one."""
    depths = dict.fromkeys(graph.inputs, (0, 0))
    for op in graph.ops():
        reads = [depths[name] for name in op.inputs if name in depths]
        terms = max((terms for terms, _ in reads), default=0) + _terms(graph, op)
        ops = max((ops for _, ops in reads), default=0) + 1
        depths.update(dict.fromkeys(filter(None, op.outputs), (terms, ops)))
    return depths


def _terms(graph: Graph, op: Op) -> int:
    """Number of terms that an op adds up for one element of its result."""
    shapes = [graph.tensor(name).shape if name else () for name in op.inputs]
    per_kind: dict[str, Callable[[], int]] = {
        "Conv": lambda: math.prod(shapes[1][1:]),
        "Gemm": lambda: shapes[1][1],
        "MatMul": lambda: shapes[0][-1],
        "AveragePool": lambda: math.prod(op.attrs.get("kernel_shape", ())),
        "GlobalAveragePool": lambda: math.prod(shapes[0][2:]),
        "ReduceMean": lambda: math.prod(shapes[0]) // max(1, math.prod(graph.tensor(op.output).shape)),
    }
    count = per_kind.get(op.kind)
    return max(1, count()) if count else 1
