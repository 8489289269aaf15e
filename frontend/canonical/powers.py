"""Powers with a constant exponent become what computes them fastest."""

from __future__ import annotations

from blockfuse.frontend.canonical.rewriting import bypass, rewrite, scalar, substitute
from blockfuse.graph import Graph, Op


@rewrite("Pow")
def plain_power(graph: Graph, op: Op) -> bool:
    """``x ** 2`` is ``x * x``, ``x ** 0.5`` is ``Sqrt(x)``, and ``x ** 1`` is ``x``."""
    exponent, shape = scalar(graph, op.inputs[1]), graph.tensor(op.output).shape
    if exponent not in {0.5, 1.0, 2.0} or graph.tensor(op.inputs[0]).shape != shape:
        return False
    if exponent == 1.0:
        return bypass(graph, op, op.inputs[0])
    if exponent == 2.0:
        substitute(graph, op, (), "Mul", (op.inputs[0], op.inputs[0]))
    else:
        substitute(graph, op, (), "Sqrt", op.inputs[:1])
    return True
