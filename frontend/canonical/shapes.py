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
    """``Squeeze``, ``Unsqueeze``, ``Flatten``, ``Reshape`` and chains of them are one ``Flatten`` or ``Reshape``.

    A ``Transpose`` that moves only axes of size 1 counts as one of them where it stands before another.
    """
    source = op.inputs[0]
    before = graph.producer(source)
    while before is not None and (before.kind in _RESHAPES or _moves_nothing(graph, before)):
        source = before.inputs[0]
        before = graph.producer(source)
    if graph.tensor(source).shape == graph.tensor(op.output).shape:
        return bypass(graph, op, source)
    if source == op.inputs[0] and _is_plain(graph, op):
        return False
    _reshape(graph, op, source)
    return True


@rewrite("Add", "Div", "Mul", "Sub")
def drop_expand(graph: Graph, op: Op) -> bool:
    """An ``Expand`` before an op that broadcasts anyway, as some squeeze-excite blocks have it."""
    for index, name in enumerate(op.inputs):
        expand = graph.producer(name)
        if expand is None or expand.kind != "Expand":
            continue
        inputs = (*op.inputs[:index], expand.inputs[0], *op.inputs[index + 1 :])
        shapes = [graph.tensor(part).shape for part in inputs]
        if np.broadcast_shapes(*shapes) == graph.tensor(op.output).shape:
            substitute(graph, op, (expand,), op.kind, inputs, op.attrs)
            return True
    return False


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


def _moves_nothing(graph: Graph, op: Op) -> bool:
    """Whether an op is a Transpose that keeps the order of all axes longer than 1."""
    if op.kind != "Transpose":
        return False
    shape = graph.tensor(op.inputs[0]).shape
    long = [axis for axis in op.attrs.get("perm", range(len(shape))[::-1]) if shape[axis] > 1]
    return long == sorted(long)


def _is_plain(graph: Graph, op: Op) -> bool:
    before, after = graph.tensor(op.inputs[0]).shape, graph.tensor(op.output).shape
    if _is_flatten(before, after):
        return op.kind == "Flatten" and dict(op.attrs) == {"axis": 1}
    if op.kind != "Reshape" or dict(op.attrs) != {"allowzero": 0}:
        return False
    shape = graph.constant(op.inputs[1])
    return shape is not None and tuple(shape.tolist()) == after
