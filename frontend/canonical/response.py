"""Global response normalization: a gate made of the lengths of channels (ConvNeXt V2, arXiv 2301.00808).

``x + beta + gamma * x * n``, where ``n`` is the length of each channel over the mean length of all, is a product with a
gate, ``x * (gamma * n + 1) + beta``, as squeeze-excite is.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from blockfuse.frontend.canonical.norms import CHANNELS
from blockfuse.frontend.canonical.rewriting import (
    Array,
    Steps,
    add_constant,
    along,
    optional_input,
    rewrite,
    scalar,
    sole_producer,
    substitute,
)
from blockfuse.graph import Graph, Op

_IMAGE_RANK = 4


@rewrite("ReduceL2")
def length_over_image(graph: Graph, op: Op) -> bool:
    """``ReduceL2`` over rows and columns is a ``GlobalLpPool``."""
    axes = graph.constant(optional_input(op, 1))
    rank = len(graph.tensor(op.inputs[0]).shape)
    if axes is None or rank != _IMAGE_RANK or not op.attrs.get("keepdims", 1):
        return False
    if sorted(np.asarray(axes) % rank) != [2, 3]:
        return False
    substitute(graph, op, (), "GlobalLpPool", op.inputs[:1], {"p": 2})
    return True


@rewrite("Div")
def mean_normalization(graph: Graph, op: Op) -> bool:
    """``x / (mean of x over the channels + epsilon)`` is a ``MeanNormalization``."""
    total, epsilon = graph.producer(op.inputs[1]), 0.0
    absorbed: tuple[Op, ...] = ()
    if total is not None and total.kind == "Add":
        numbers = [scalar(graph, name) for name in total.inputs]
        if numbers.count(None) != 1:
            return False
        epsilon = next(number for number in numbers if number is not None)
        absorbed, total = (total,), graph.producer(total.inputs[numbers.index(None)])
    image = graph.tensor(op.inputs[0])
    if total is None or total.kind != "ReduceMean" or total.inputs[0] != op.inputs[0]:
        return False
    axes = graph.constant(optional_input(total, 1))
    if axes is None or len(image.shape) != _IMAGE_RANK or not total.attrs.get("keepdims", 1):
        return False
    if [int(axis) % _IMAGE_RANK for axis in axes] != [1]:
        return False
    parts = {"scale": np.ones(image.shape[1], image.dtype), "shift": np.zeros(image.shape[1], image.dtype)}
    names = [add_constant(graph, f"{op.name}.{key}", part) for key, part in parts.items()]
    attrs = {"axes": CHANNELS, "epsilon": epsilon}
    substitute(graph, op, (total, *absorbed), "MeanNormalization", (op.inputs[0], *names), attrs)
    return True


@rewrite("Add")
def response_gate(graph: Graph, op: Op) -> bool:
    """``x + beta + gamma * x * n`` with a ``MeanNormalization`` n is ``x * (gamma * n + 1) + beta``."""
    shape = graph.tensor(op.output).shape
    terms = list(_parts(graph, op.output, "Add"))
    for product in terms:
        factors = list(_parts(graph, product, "Mul"))
        for gate, x in ((a, b) for a in factors for b in factors if a != b and b in terms):
            norm = sole_producer(graph, gate, "MeanNormalization")
            gamma = _constant(graph, [name for name in factors if name not in {gate, x}], shape, np.multiply)
            beta = _constant(graph, [name for name in terms if name not in {product, x}], shape, np.add)
            if norm is None or gamma is None or beta is None or len({*terms}) < len(terms):
                continue
            if graph.tensor(gate).shape != (*shape[:2], 1, 1):
                continue
            _gate(graph, op, x, norm, gamma, beta)
            return True
    return False


def _gate(graph: Graph, op: Op, x: str, norm: Op, gamma: Array, beta: Array) -> None:
    image, lengths = graph.tensor(x), graph.tensor(norm.inputs[0])
    scale, shift = (np.asarray(graph.constant(name), np.float64) for name in norm.inputs[1:])
    steps = Steps(graph, op)
    names = [
        steps.constant(key, part.astype(image.dtype))
        for key, part in (("scale", scale * gamma), ("shift", shift * gamma + 1))
    ]
    gate = steps.add(norm.kind, (norm.inputs[0], *names), lengths.shape, norm.attrs)
    product = steps.add("Mul", (x, gate), image.shape)
    if np.any(beta):
        summand = steps.constant("beta", beta.astype(image.dtype).reshape(-1, 1, 1))
        steps.add("Add", (product, summand), image.shape)
    steps.finish()


def _parts(graph: Graph, name: str, kind: str) -> Iterator[str]:
    """The terms of a sum, or the factors of a product, that is written as several ops nothing else reads."""
    op = graph.producer(name)
    if op is None or op.kind != kind:
        yield name
        return
    for part in op.inputs:
        if sole_producer(graph, part, kind):
            yield from _parts(graph, part, kind)
        else:
            yield part


def _constant(graph: Graph, names: list[str], shape: tuple[int, ...], combine: np.ufunc) -> Array | None:
    """The sum or product of constants with one number per channel; None if one is something else."""
    found = [along(graph.constant(name), shape, 1) for name in names]
    known = [value for value in found if value is not None]
    start = np.full(shape[1], float(combine.identity or 0.0))
    return combine.reduce([start, *known]) if len(known) == len(found) else None
