"""Bounds on values: one Clip with constant bounds, or Relu."""

from __future__ import annotations

import math

import numpy as np

from blockfuse.frontend.canonical.rewriting import bypass, optional_input, rewrite, scalar, sole_producer, substitute
from blockfuse.graph import Graph, Op


@rewrite("Clip")
def explicit_clip(graph: Graph, op: Op) -> bool:
    """Bounds become the attributes ``min`` and ``max``, infinite where they are missing or the largest number."""
    bounds = []
    for index, (key, missing) in enumerate((("min", -math.inf), ("max", math.inf)), start=1):
        name = optional_input(op, index)
        bound = scalar(graph, name) if name else op.attrs.get(key, missing)
        if bound is None:
            return False
        bounds.append(_widened(float(bound), graph.tensor(op.output).dtype))
    attrs = {"min": bounds[0], "max": bounds[1]}
    if dict(op.attrs) == attrs and len(op.inputs) == 1:
        return False
    substitute(graph, op, (), "Clip", op.inputs[:1], attrs)
    return True


@rewrite("Max", "Min")
def clip_of_extremum(graph: Graph, op: Op) -> bool:
    """``Max(x, c)`` and ``Min(x, c)`` with a constant number are a ``Clip``."""
    if len(op.inputs) != 2:
        return False
    for source, other in (op.inputs, op.inputs[::-1]):
        bound = scalar(graph, other)
        if bound is None or graph.constant(source) is not None:
            continue
        if graph.tensor(source).shape != graph.tensor(op.output).shape:
            continue
        attrs = {"min": bound, "max": math.inf} if op.kind == "Max" else {"min": -math.inf, "max": bound}
        substitute(graph, op, (), "Clip", (source,), attrs)
        return True
    return False


@rewrite("Clip", "Relu")
def merge_clips(graph: Graph, op: Op) -> bool:
    """A ``Clip`` of a ``Clip`` is one ``Clip``."""
    inner = sole_producer(graph, op.inputs[0], "Clip", "Relu")
    outer_bounds = _bounds(op)
    inner_bounds = _bounds(inner) if inner is not None else None
    if inner is None or outer_bounds is None or inner_bounds is None:
        return False
    low, high = (min(max(bound, outer_bounds[0]), outer_bounds[1]) for bound in inner_bounds)
    substitute(graph, op, (inner,), "Clip", inner.inputs[:1], {"min": low, "max": high})
    return True


@rewrite("Clip")
def relu_of_clip(graph: Graph, op: Op) -> bool:
    """``Clip(x, 0, inf)`` is ``Relu(x)``, and without bounds it is ``x``."""
    bounds = _bounds(op)
    if bounds == (-math.inf, math.inf):
        return bypass(graph, op, op.inputs[0])
    if bounds != (0.0, math.inf):
        return False
    substitute(graph, op, (), "Relu", op.inputs)
    return True


def _bounds(op: Op) -> tuple[float, float] | None:
    """Lower and upper bound of a Clip in canonical form or a Relu."""
    if op.kind == "Relu":
        return 0.0, math.inf
    if len(op.inputs) != 1 or set(op.attrs) != {"min", "max"}:
        return None
    return op.attrs["min"], op.attrs["max"]


def _widened(bound: float, dtype: str) -> float:
    """A bound, infinite if it is at the end of the type's range."""
    if dtype.startswith(("int", "uint")):
        return bound
    limit = float(np.finfo(np.float32 if dtype == "bfloat16" else dtype).max)
    return math.copysign(math.inf, bound) if abs(bound) >= limit else bound
