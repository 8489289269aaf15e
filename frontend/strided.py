"""Strided views of whole tensors, as one exporter writes them: all elements in a row, picked in their own order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from blockfuse.frontend.settle import Draft
from blockfuse.graph import Graph, Op, Tensor


def reshape_strided_views(graph: Graph, drafts: Sequence[Draft]) -> set[str]:
    """Make a Reshape of each ``Gather(Reshape(x, [-1]), [[0, 1, ..], ..])``; changes the graph.

    Args:
        graph: As read with the first draft's batch.
        drafts: Of one model, each for another batch.

    Returns:
        Names of the indices, which must count up for every batch and not only for those of the drafts.
    """
    found = set()
    for op in graph.ops():
        flat = graph.producer(op.inputs[0]) if op.kind == "Gather" and op.attrs.get("axis", 0) == 0 else None
        if flat is None or flat.kind != "Reshape" or len(graph.tensor(op.inputs[0]).shape) != 1:
            continue
        if all(_counts_up(draft, op, flat) for draft in drafts):
            found.add(op.inputs[1])
            target = np.array(graph.tensor(op.output).shape, np.int64)
            name = f"{op.output}.strided"
            graph.add_tensor(Tensor(name, target.shape, "int64", target))
            inputs = (flat.inputs[0], name)
            graph.replace(
                [op], [Op("Reshape", op.name, inputs, op.outputs, {"allowzero": 0}, (*flat.origin, *op.origin))]
            )
    graph.prune()
    return found


def _counts_up(draft: Draft, gather: Op, flat: Op) -> bool:
    """Whether the indices of one draft are all elements in their order."""
    indices = draft.values.get(gather.inputs[1])
    info = draft.infos.get(flat.output)
    shape = info.known_shape if info is not None else None
    return (
        indices is not None
        and shape == (indices.size,)
        and np.array_equal(indices.reshape(-1), np.arange(indices.size))
    )
