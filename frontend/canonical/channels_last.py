"""Images with their channels last, between two Transposes: the work moves before the first, and both cancel.

A Transpose to N, H, W, C sinks below every op that works on elements, or on the channels of a pixel, until it meets
its inverse. A MatMul over the channels is a 1x1 Conv then.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from blockfuse.frontend.canonical.norms import CHANNELS, last_axis
from blockfuse.frontend.canonical.rewriting import (
    add_constant,
    fresh,
    fresh_op,
    optional_input,
    rewrite,
    substitute,
)
from blockfuse.frontend.canonical.windows import window_of
from blockfuse.graph import Graph, Op, Tensor

TO_LAST = (0, 2, 3, 1)
"""The axes of N, C, H, W in the order N, H, W, C."""

TO_FIRST = (0, 3, 1, 2)
"""The inverse."""

_UNARY = """
    Abs Celu Clip Elu Erf Exp Gelu HardSigmoid HardSwish LeakyRelu Mish Neg Reciprocal Relu Selu Sigmoid Softplus
    Sqrt Swish Tanh
"""

UNARY = tuple(_UNARY.split())
"""Ops on every element by itself."""

ARITHMETIC = ("Add", "Div", "Max", "Min", "Mul", "PRelu", "Pow", "Sub")
"""Ops on elements of two tensors that broadcast."""

ALONG_AXES = ("ArgMax", "Concat", "LogSoftmax", "Pad", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceSum", "Softmax")
"""Ops that name axes."""


@rewrite("Transpose")
def merge_transposes(graph: Graph, op: Op) -> bool:
    """A Transpose of a Transpose is one."""
    inner = graph.producer(op.inputs[0])
    if inner is None or inner.kind != "Transpose":
        return False
    outer_perm, inner_perm = _perm(graph, op), _perm(graph, inner)
    perm = tuple(inner_perm[axis] for axis in outer_perm)
    substitute(graph, op, (inner,), "Transpose", inner.inputs, {"perm": perm})
    return True


@rewrite(*UNARY, *ARITHMETIC, *ALONG_AXES, "LayerNormalization", "MatMul")
def sink_transposes(graph: Graph, op: Op) -> bool:
    """An op on images with channels last is one on images, and a Transpose of its result.

    One rewrite for all kinds: in one sweep a Transpose sinks below all of them.
    """
    if not any(_image(graph, name) for name in op.inputs):
        return False
    if op.kind in UNARY:
        return _sink_below_elementwise(graph, op)
    if op.kind in ARITHMETIC:
        return _sink_below_arithmetic(graph, op)
    if op.kind in ALONG_AXES:
        return _sink_along_axes(graph, op)
    return _sink_below_norm(graph, op) if op.kind == "LayerNormalization" else _sink_below_matmul(graph, op)


def _sink_below_elementwise(graph: Graph, op: Op) -> bool:
    if any(op.inputs[1:]):
        return False
    _sink(graph, op, op.kind, (_image(graph, op.inputs[0]),), op.attrs)
    return True


def _sink_below_arithmetic(graph: Graph, op: Op) -> bool:
    images = [_image(graph, name) or _constant_image(graph, name) for name in op.inputs]
    if len(images) != 2 or not all(images):
        return False
    _sink(graph, op, op.kind, images, op.attrs)
    return True


def _sink_along_axes(graph: Graph, op: Op) -> bool:
    """An op that names axes of images with channels last names those of images instead."""
    images = [_image(graph, name) for name in (op.inputs if op.kind == "Concat" else op.inputs[:1])]
    if not all(images):
        return False
    if op.kind.startswith("Reduce"):
        return _sink_below_reduction(graph, op, images[0])
    if op.kind == "Pad":
        return _sink_below_pad(graph, op, images[0])
    axis = TO_LAST[op.attrs.get("axis", -1 if op.kind != "ArgMax" else 0) % 4]
    attrs = {**op.attrs, "axis": axis}
    if op.kind == "ArgMax" and not op.attrs.get("keepdims", 1):
        return _stays_in_order(graph, op, images, attrs, {axis})
    _sink(graph, op, op.kind, images, attrs)
    return True


def _sink_below_reduction(graph: Graph, op: Op, image: str) -> bool:
    axes = graph.constant(optional_input(op, 1))
    if axes is None or not axes.size:
        return False
    reduced = [TO_LAST[int(axis) % 4] for axis in axes]
    names = (image, add_constant(graph, f"{op.name}.axes", np.array(sorted(reduced), np.int64)))
    if op.attrs.get("keepdims", 1):
        _sink(graph, op, op.kind, names, op.attrs)
        return True
    return _stays_in_order(graph, op, names, op.attrs, set(reduced))


def _stays_in_order(graph: Graph, op: Op, inputs: Iterable[str], attrs: Mapping[str, Any], reduced: set[int]) -> bool:
    """Without the reduced axes both orders are the same if the channels are among them, or rows and columns."""
    if 1 not in reduced and not {2, 3} <= reduced:
        return False
    substitute(graph, op, (), op.kind, inputs, attrs)
    return True


def _sink_below_pad(graph: Graph, op: Op, image: str) -> bool:
    pads = graph.constant(optional_input(op, 1))
    if pads is None or optional_input(op, 3):
        return False
    moved = np.ascontiguousarray(pads.reshape(2, 4)[:, TO_FIRST].reshape(-1))
    _sink(graph, op, "Pad", (image, add_constant(graph, f"{op.name}.pads", moved), *op.inputs[2:]), op.attrs)
    return True


@rewrite("Gemm")
def flat_image_last(graph: Graph, op: Op) -> bool:
    """A Gemm of all pixels with channels last is one of the image with its weights in another order."""
    flatten = graph.producer(op.inputs[0])
    weight = graph.constant(op.inputs[1])
    if flatten is None or flatten.kind != "Flatten" or weight is None or dict(op.attrs) != {"transB": 1}:
        return False
    image = _image(graph, flatten.inputs[0])
    if not image:
        return False
    rows, columns, channels = graph.tensor(flatten.inputs[0]).shape[1:]
    filters = weight.reshape(-1, rows, columns, channels).transpose(TO_FIRST).reshape(weight.shape)
    name = add_constant(graph, f"{op.name}.weight", np.ascontiguousarray(filters))
    flat = fresh(graph, f"{flatten.output}.image")
    graph.add_tensor(Tensor(flat, graph.tensor(flatten.output).shape, graph.tensor(flatten.output).dtype))
    label = fresh_op(graph, f"{flatten.name}.image")
    graph.add_op(Op("Flatten", label, (image,), (flat,), {"axis": 1}, flatten.origin))
    substitute(graph, op, (), "Gemm", (flat, name, *op.inputs[2:]), op.attrs)
    return True


def _sink_below_norm(graph: Graph, op: Op) -> bool:
    image = _image(graph, op.inputs[0])
    if not image or last_axis(graph, op) is None or len(op.outputs) > 1 or len(op.inputs) < 3:
        return False
    _sink(graph, op, op.kind, (image, *op.inputs[1:]), {"axes": CHANNELS, "epsilon": op.attrs["epsilon"]})
    return True


def _sink_below_matmul(graph: Graph, op: Op) -> bool:
    """A product with a constant matrix is a 1x1 convolution."""
    image, weight = _image(graph, op.inputs[0]), graph.constant(op.inputs[1])
    if not image or weight is None or weight.ndim != 2:
        return False
    filters = np.ascontiguousarray(weight.T)[:, :, None, None]
    bias = np.zeros(filters.shape[0], filters.dtype)
    names = (add_constant(graph, f"{op.name}.weight", filters), add_constant(graph, f"{op.name}.bias", bias))
    window = window_of({}, (1, 1), graph.tensor(image).shape[2:])
    _sink(graph, op, "Conv", (image, *names), {**window.attrs, "group": 1})
    return True


def _sink(graph: Graph, op: Op, kind: str, inputs: Iterable[str], attrs: Mapping[str, Any]) -> None:
    """Put an op on images, and a Transpose of its result, in the place of an op on images with channels last."""
    result = graph.tensor(op.output)
    image = fresh(graph, f"{op.output}.image")
    shape = tuple(result.shape[axis] for axis in TO_FIRST)
    graph.add_tensor(Tensor(image, shape, result.dtype))
    graph.remove_op(op)
    graph.add_op(Op(kind, op.name, tuple(inputs), (image,), attrs, op.origin))
    name = fresh_op(graph, f"{op.name}.last")
    graph.add_op(Op("Transpose", name, (image,), op.outputs, {"perm": TO_LAST}, op.origin))


def _image(graph: Graph, name: str) -> str:
    """The image whose channels a Transpose puts last to make a tensor; empty if none does."""
    op = graph.producer(name) if name else None
    return op.inputs[0] if op is not None and op.kind == "Transpose" and _perm(graph, op) == TO_LAST else ""


def _constant_image(graph: Graph, name: str) -> str:
    """A constant as it broadcasts over N, C, H, W if its last axis is that of the channels; empty if it is none."""
    value = graph.constant(name)
    if value is None or value.ndim > 4:
        return ""
    if value.size == 1 and value.ndim == 0:
        return name
    padded = value.reshape((1,) * (4 - value.ndim) + value.shape)
    return add_constant(graph, f"{name}.image", np.ascontiguousarray(padded.transpose(TO_FIRST)))


def _perm(graph: Graph, op: Op) -> tuple[int, ...]:
    rank = len(graph.tensor(op.inputs[0]).shape)
    return tuple(op.attrs.get("perm", tuple(reversed(range(rank)))))
