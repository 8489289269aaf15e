"""Ops that change nothing: Identity, Dropout at inference, Cast to the same type, zero Pad, and the like."""

from __future__ import annotations

from blockfuse.frontend.canonical.rewriting import bypass, optional_input, rewrite, scalar
from blockfuse.graph import Graph, Op


@rewrite("Identity")
def drop_identity(graph: Graph, op: Op) -> bool:
    """``Identity(x)`` is ``x``."""
    return bypass(graph, op, op.inputs[0])


@rewrite("Dropout")
def drop_dropout(graph: Graph, op: Op) -> bool:
    """``Dropout(x)`` is ``x``, unless it is in training mode or its mask is read."""
    training = optional_input(op, 2)
    if training and scalar(graph, training) != 0:
        return False
    if any(name and (graph.consumers(name) or graph.is_output(name)) for name in op.outputs[1:]):
        return False
    return bypass(graph, op, op.inputs[0])


@rewrite("Cast", "CastLike")
def drop_cast(graph: Graph, op: Op) -> bool:
    """A cast to the type the tensor has."""
    return graph.tensor(op.inputs[0]).dtype == graph.tensor(op.output).dtype and bypass(graph, op, op.inputs[0])


@rewrite("Pad", "Expand", "Tile", "Slice")
def drop_same_shape(graph: Graph, op: Op) -> bool:
    """A pad by nothing, an expansion to the shape there is, a slice of everything.

    These keep every element where the shape stays, but for a pad that also crops and a slice that runs backwards.
    """
    if graph.tensor(op.inputs[0]).shape != graph.tensor(op.output).shape:
        return False
    if op.kind == "Pad" and any(_pads(graph, op)):
        return False
    if op.kind == "Slice" and not _is_forward(graph, op):
        return False
    return bypass(graph, op, op.inputs[0])


@rewrite("Concat", "Sum", "Max", "Min", "Mean")
def drop_single(graph: Graph, op: Op) -> bool:
    """An op over a list of one tensor."""
    return len(op.inputs) == 1 and bypass(graph, op, op.inputs[0])


@rewrite("Transpose")
def drop_transpose(graph: Graph, op: Op) -> bool:
    """A transposition that leaves every axis in place."""
    perm = tuple(op.attrs.get("perm", ()))
    return bool(perm) and perm == tuple(range(len(perm))) and bypass(graph, op, op.inputs[0])


def _pads(graph: Graph, op: Op) -> list[int]:
    if "pads" in op.attrs:
        return list(op.attrs["pads"])
    pads = graph.constant(optional_input(op, 1))
    return [1] if pads is None else [int(pad) for pad in pads]


def _is_forward(graph: Graph, op: Op) -> bool:
    if not optional_input(op, 4):
        return True
    steps = graph.constant(op.inputs[4])
    return steps is not None and bool((steps > 0).all())
