"""Ops that only change the shape become Flatten, Reshape to a constant shape, or nothing."""

from __future__ import annotations

import math

import numpy as np

from blockfuse.frontend.canonical.rewriting import add_constant, bypass, rewrite, substitute
from blockfuse.graph import Graph, Op

_RESHAPES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")


@rewrite("Gather")
def gather_of_everything(graph: Graph, op: Op) -> bool:
    """``Gather(x, [0, 1, 2, ..])`` only changes the shape; one exporter writes strided views so."""
    indices = graph.constant(op.inputs[1])
    data = graph.tensor(op.inputs[0]).shape
    axis = op.attrs.get("axis", 0) % max(1, len(data))
    if indices is None or not data or not np.array_equal(indices.reshape(-1), np.arange(data[axis])):
        return False
    _reshape(graph, op, op.inputs[0])
    return True


@rewrite(*_RESHAPES)
def plain_reshape(graph: Graph, op: Op) -> bool:
    """``Squeeze``, ``Unsqueeze``, ``Flatten``, ``Reshape`` and chains of them are one ``Flatten`` or ``Reshape``."""
    source = op.inputs[0]
    before = graph.producer(source)
    while before is not None and before.kind in _RESHAPES:
        source = before.inputs[0]
        before = graph.producer(source)
    if graph.tensor(source).shape == graph.tensor(op.output).shape:
        return bypass(graph, op, source)
    if source == op.inputs[0] and _is_plain(graph, op):
        return False
    _reshape(graph, op, source)
    return True


def _reshape(graph: Graph, op: Op, source: str) -> None:
    """Put the canonical reshape of ``source`` in the place of an op."""
    shape = graph.tensor(op.output).shape
    if _is_flatten(graph.tensor(source).shape, shape):
        substitute(graph, op, (), "Flatten", (source,), {"axis": 1})
        return
    target = add_constant(graph, f"{op.name}.shape", np.array(shape, np.int64))
    substitute(graph, op, (), "Reshape", (source, target), {"allowzero": 0})


def _is_flatten(before: tuple[int, ...], after: tuple[int, ...]) -> bool:
    return len(before) > 2 and after == (before[0], math.prod(before[1:]))


def _is_plain(graph: Graph, op: Op) -> bool:
    before, after = graph.tensor(op.inputs[0]).shape, graph.tensor(op.output).shape
    if _is_flatten(before, after):
        return op.kind == "Flatten" and dict(op.attrs) == {"axis": 1}
    if op.kind != "Reshape" or dict(op.attrs) != {"allowzero": 0}:
        return False
    shape = graph.constant(op.inputs[1])
    return shape is not None and tuple(shape.tolist()) == after
