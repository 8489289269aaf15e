"""Channel shuffles, as ShuffleNet has them (arXiv 1707.01083), become one op that picks channels."""

from __future__ import annotations

from itertools import accumulate

import numpy as np

from blockfuse.frontend.canonical.rewriting import add_constant, fresh_op, rewrite, sole_producer, substitute
from blockfuse.graph import Graph, Op

_IMAGE_RANK = 4
_SWAPPED = (0, 2, 1, 3, 4)


@rewrite("Reshape")
def channel_shuffle(graph: Graph, op: Op) -> bool:
    """``Reshape(Transpose(Reshape(x)))`` of groups of channels is ``Gather(x, indices)`` along the channels."""
    swap = sole_producer(graph, op.inputs[0], "Transpose")
    apart = sole_producer(graph, swap.inputs[0], "Reshape") if swap else None
    if swap is None or apart is None or tuple(swap.attrs.get("perm", ())) != _SWAPPED:
        return False
    image = graph.tensor(apart.inputs[0]).shape
    n, groups, share, *size = graph.tensor(apart.output).shape
    if len(image) != _IMAGE_RANK or image != graph.tensor(op.output).shape or image != (n, groups * share, *size):
        return False
    order = np.arange(groups * share).reshape(groups, share).T.reshape(-1)
    indices = add_constant(graph, f"{op.name}.channels", order)
    substitute(graph, op, (apart, swap), "Gather", (apart.inputs[0], indices), {"axis": 1})
    return True


@rewrite("Split")
def split_of_shuffle(graph: Graph, op: Op) -> bool:
    """``Split(Gather(x, indices))`` of channels are several ``Gather(x, some indices)``."""
    pick = sole_producer(graph, op.inputs[0], "Gather")
    indices = graph.constant(pick.inputs[1]) if pick else None
    if pick is None or indices is None or indices.ndim != 1 or not all(op.outputs):
        return False
    rank = len(graph.tensor(op.inputs[0]).shape)
    axis = int(op.attrs.get("axis", 0)) % rank
    if axis != int(pick.attrs.get("axis", 0)) % rank:
        return False
    ends = list(accumulate(graph.tensor(name).shape[axis] for name in op.outputs))
    graph.remove_op(op)
    for name, part in zip(op.outputs, np.split(indices, ends[:-1]), strict=True):
        constant = add_constant(graph, f"{op.name}.channels", part)
        origin = (*pick.origin, *op.origin)
        graph.add_op(
            Op("Gather", fresh_op(graph, op.name), (pick.inputs[0], constant), (name,), {"axis": axis}, origin)
        )
    return True


@rewrite("Slice")
def slice_of_shuffle(graph: Graph, op: Op) -> bool:
    """``Slice(Gather(x, indices))`` along the axis of the indices is ``Gather(x, some indices)``."""
    pick = graph.producer(op.inputs[0])
    indices = graph.constant(pick.inputs[1]) if pick and pick.kind == "Gather" else None
    bounds = [graph.constant(name) if name else None for name in op.inputs[1:]]
    if pick is None or indices is None or indices.ndim != 1 or len(bounds) < 3:
        return False
    if any(bound is None or bound.size != 1 for bound in bounds):
        return False
    start, end, axis, step = (int(bound.reshape(())) for bound in (*bounds, np.array(1))[:4] if bound is not None)
    rank = len(graph.tensor(op.output).shape)
    if axis % rank != int(pick.attrs.get("axis", 0)) % rank:
        return False
    constant = add_constant(graph, f"{op.name}.channels", indices[start:end:step])
    substitute(graph, op, (pick,), "Gather", (pick.inputs[0], constant), {"axis": axis % rank})
    return True
