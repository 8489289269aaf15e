"""Group normalization, as exporters write it before opset 18, and what follows per channel."""

from __future__ import annotations

import numpy as np

from blockfuse.frontend.canonical.rewriting import add_constant, along, rewrite, sole_producer, substitute
from blockfuse.graph import Graph, Op


@rewrite("Reshape")
def group_normalization(graph: Graph, op: Op) -> bool:
    """An ``InstanceNormalization`` of [N, groups, rest] between two changes of shape is a ``GroupNormalization``."""
    norm = sole_producer(graph, op.inputs[0], "InstanceNormalization")
    before = sole_producer(graph, norm.inputs[0], "Reshape") if norm is not None else None
    if norm is None or before is None:
        return False
    shape, groups = graph.tensor(before.inputs[0]).shape, graph.tensor(norm.inputs[0]).shape[1]
    parameters = [graph.constant(name) for name in norm.inputs[1:]]
    is_split = len(shape) > 2 and graph.tensor(norm.inputs[0]).shape[:1] == shape[:1] and shape[1] % groups == 0
    if graph.tensor(op.output).shape != shape or not is_split:
        return False
    names = []
    for key, value in zip(("scale", "shift"), parameters, strict=True):
        if value is None:
            return False
        names.append(add_constant(graph, f"{norm.name}.{key}", np.repeat(value, shape[1] // groups)))
    attrs = {"num_groups": groups, "epsilon": norm.attrs.get("epsilon", 1e-5)}
    substitute(graph, op, (before, norm), "GroupNormalization", (before.inputs[0], *names), attrs)
    return True


@rewrite("Mul", "Add")
def fold_group_constant(graph: Graph, op: Op) -> bool:
    """A constant per channel after a ``GroupNormalization`` or ``InstanceNormalization`` is part of it."""
    for image, other in (op.inputs, op.inputs[::-1]):
        norm = sole_producer(graph, image, "GroupNormalization", "InstanceNormalization")
        shape = graph.tensor(image).shape
        constant = along(graph.constant(other), shape, 1)
        if norm is None or constant is None or graph.tensor(op.output).shape != shape:
            continue
        scale, shift = (graph.constant(name) for name in norm.inputs[1:3])
        if scale is None or shift is None or scale.shape != shape[1:2]:
            continue
        factor, summand = (constant, 0.0) if op.kind == "Mul" else (1.0, constant)
        parts = {"scale": scale * factor, "shift": shift * factor + summand}
        names = [add_constant(graph, f"{norm.name}.{key}", part.astype(scale.dtype)) for key, part in parts.items()]
        substitute(graph, op, (norm,), norm.kind, (norm.inputs[0], *names), norm.attrs, norm.name)
        return True
    return False
