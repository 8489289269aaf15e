"""Layer normalization: one op, over the last axis or over the channels of every pixel, whatever it was written as."""

from __future__ import annotations

import numpy as np

from blockfuse.frontend.canonical.rewriting import (
    Array,
    add_constant,
    along,
    is_read,
    optional_input,
    rewrite,
    scalar,
    sole_producer,
    substitute,
)
from blockfuse.graph import Graph, Op

CHANNELS = (1,)
"""The attribute ``axes`` of a normalization over channels; ONNX's own has ``axis`` and runs to the last one."""


@rewrite("Div", "Mul")
def layer_normalization(graph: Graph, op: Op) -> bool:
    """``(x - mean) / sqrt(mean of (x - mean)^2 + epsilon)`` over one axis is a ``LayerNormalization``."""
    for centred, root in (op.inputs, op.inputs[::-1]) if op.kind == "Mul" else (op.inputs,):
        difference = _producer(graph, centred, "Sub")
        spread = _deviation(graph, root, is_inverse=op.kind == "Mul")
        if difference is None or spread is None:
            continue
        variance, epsilon, ops = spread
        found = _same_difference(graph, difference, variance)
        axis = found[0] if found is not None else 0
        shape = graph.tensor(op.output).shape
        if found is None or axis not in {1, len(shape) - 1} or graph.tensor(difference.inputs[0]).shape != shape:
            continue
        ones, zeros = np.ones(shape[axis], np.float64), np.zeros(shape[axis], np.float64)
        _normalize(graph, op, (*found[1], difference, *ops), difference.inputs[0], axis, ones, zeros, epsilon)
        return True
    return False


@rewrite("LayerNormalization")
def plain_layer_normalization(graph: Graph, op: Op) -> bool:
    """Every ``LayerNormalization`` over one axis has a shift; over the columns of a matrix it is one over channels."""
    axis = last_axis(graph, op)
    if axis is None or any(name and is_read(graph, name) for name in op.outputs[1:]):
        return False
    shape = graph.tensor(op.inputs[0]).shape
    scale, shift = (along(graph.constant(optional_input(op, index)), shape, axis) for index in (1, 2))
    if scale is None or (shift is None and optional_input(op, 2)):
        return False
    if axis > 1 and shift is not None and len(op.outputs) == 1 and op.attrs.get("axis") == -1:
        return False
    epsilon = op.attrs.get("epsilon", 1e-5)
    _normalize(graph, op, (), op.inputs[0], axis, scale, np.zeros_like(scale) if shift is None else shift, epsilon)
    return True


@rewrite("Mul", "Add")
def fold_norm_constant(graph: Graph, op: Op) -> bool:
    """A constant factor or summand per normalized element is part of the ``LayerNormalization``."""
    for image, other in (op.inputs, op.inputs[::-1]):
        norm = sole_producer(graph, image, "LayerNormalization")
        axis = _axis_of(graph, norm) if norm is not None else None
        if norm is None or axis is None or len(norm.inputs) < 3:
            continue
        scale, shift = (graph.constant(name) for name in norm.inputs[1:3])
        shape = graph.tensor(image).shape
        constant = along(graph.constant(other), shape, axis)
        if scale is None or shift is None or constant is None or graph.tensor(op.output).shape != shape:
            continue
        scale, shift = scale.astype(np.float64), shift.astype(np.float64)
        factor, summand = (constant, 0.0) if op.kind == "Mul" else (1.0, constant)
        scale, shift = scale * factor, shift * factor + summand
        _normalize(graph, op, (norm,), norm.inputs[0], axis, scale, shift, norm.attrs["epsilon"])
        return True
    return False


def last_axis(graph: Graph, op: Op) -> int | None:
    """The number of the last axis if a ``LayerNormalization`` in ONNX's own spelling is over that axis alone."""
    rank = len(graph.tensor(op.inputs[0]).shape)
    is_last = "axes" not in op.attrs and op.attrs.get("axis", -1) % rank == rank - 1
    return rank - 1 if is_last and rank > 1 else None


def _axis_of(graph: Graph, op: Op) -> int | None:
    return 1 if op.attrs.get("axes") == CHANNELS else last_axis(graph, op)


def _normalize(
    graph: Graph,
    op: Op,
    absorbed: tuple[Op, ...],
    x: str,
    axis: int,
    scale: Array,
    shift: Array,
    epsilon: float,
) -> None:
    """Put the normalization of ``x`` in the place of an op."""
    image = graph.tensor(x)
    parts = {"scale": scale, "shift": shift}
    names = [add_constant(graph, f"{op.name}.{key}", part.astype(image.dtype)) for key, part in parts.items()]
    is_plain = axis == len(image.shape) - 1 and axis != 1
    attrs = {"axis": -1, "stash_type": 1} if is_plain else {"axes": CHANNELS}
    seen = dict.fromkeys(part.name for part in absorbed)
    distinct = [next(part for part in absorbed if part.name == name) for name in seen]
    substitute(graph, op, distinct, "LayerNormalization", (x, *names), {**attrs, "epsilon": epsilon})


def _deviation(graph: Graph, name: str, *, is_inverse: bool) -> tuple[Op, float, tuple[Op, ...]] | None:
    """The mean of squares, epsilon and the ops of ``sqrt(mean + epsilon)``, or of one over that."""
    ops: list[Op] = []
    root = _producer(graph, name, "Sqrt", "Pow", "Reciprocal", "Div")
    if is_inverse and root is not None and root.kind in {"Reciprocal", "Div"}:
        if root.kind == "Div" and scalar(graph, root.inputs[0]) != 1:
            return None
        ops = [root]
        root = _producer(graph, root.inputs[-1], "Sqrt", "Pow")
        is_inverse = False
    if root is None or root.kind not in {"Sqrt", "Pow"} or (root.kind == "Sqrt" and is_inverse):
        return None
    if root.kind == "Pow" and scalar(graph, root.inputs[1]) != (-0.5 if is_inverse else 0.5):
        return None
    total = _producer(graph, root.inputs[0], "Add")
    if total is None:
        return None
    for mean, other in (total.inputs, total.inputs[::-1]):
        epsilon, variance = scalar(graph, other), _producer(graph, mean, "ReduceMean")
        if epsilon is not None and variance is not None:
            return variance, epsilon, (variance, total, root, *ops)
    return None


def _same_difference(graph: Graph, difference: Op, variance: Op) -> tuple[int, tuple[Op, ...]] | None:
    """The axis if ``variance`` is that of what ``difference`` has subtracted its mean from, and the ops between."""
    mean = _producer(graph, difference.inputs[1], "ReduceMean")
    square = _producer(graph, variance.inputs[0], "Pow", "Mul")
    axis = _reduced_axis(graph, mean) if mean is not None else None
    if mean is None or square is None or axis is None or _reduced_axis(graph, variance) != axis:
        return None
    if square.kind == "Pow" and scalar(graph, square.inputs[1]) != 2:
        return None
    bases = square.inputs[:1] if square.kind == "Pow" else square.inputs
    others = [_producer(graph, base, "Sub") for base in bases]
    ops: list[Op] = [mean]
    for other in others:
        own_mean = _producer(graph, other.inputs[1], "ReduceMean") if other is not None else None
        if other is None or own_mean is None or other.inputs[0] != difference.inputs[0]:
            return None
        if own_mean.inputs[0] != mean.inputs[0] or _reduced_axis(graph, own_mean) != axis:
            return None
        ops += [own_mean, other]
    return (axis, (*ops, square)) if mean.inputs[0] == difference.inputs[0] else None


def _reduced_axis(graph: Graph, mean: Op) -> int | None:
    """The one axis of a ``ReduceMean`` that keeps it."""
    axes = graph.constant(optional_input(mean, 1))
    if axes is None or axes.size != 1 or not mean.attrs.get("keepdims", 1):
        return None
    return int(axes.reshape(())) % len(graph.tensor(mean.inputs[0]).shape)


def _producer(graph: Graph, name: str, *kinds: str) -> Op | None:
    op = graph.producer(name) if name else None
    return op if op is not None and op.kind in kinds else None
