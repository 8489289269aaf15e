"""Fully connected layers of images: convolutions whose window is the image, and gates that stay images of one pixel."""

from __future__ import annotations

import numpy as np

from blockfuse.frontend.canonical.channels_last import UNARY
from blockfuse.frontend.canonical.rewriting import add_constant, fresh, fresh_op, rewrite, sole_producer
from blockfuse.frontend.canonical.windows import window_of
from blockfuse.graph import Graph, Op, Tensor


@rewrite("Gemm")
def conv_of_flat_image(graph: Graph, op: Op) -> bool:
    """A Gemm of all pixels of an image is a Conv with a window as large as the image, and a Flatten of its result."""
    flatten = graph.producer(op.inputs[0])
    weight = graph.constant(op.inputs[1])
    if flatten is None or flatten.kind != "Flatten" or weight is None or dict(op.attrs) != {"transB": 1}:
        return False
    shape = graph.tensor(flatten.inputs[0]).shape
    if len(shape) != 4 or shape[2:] == (1, 1):
        return False
    filters = add_constant(graph, f"{op.name}.filters", weight.reshape(weight.shape[0], *shape[1:]))
    pixel = _pixel_tensor(graph, op.output)
    attrs = {**window_of({}, shape[2:], shape[2:]).attrs, "group": 1}
    graph.remove_op(op)
    graph.add_op(Op("Conv", op.name, (flatten.inputs[0], filters, *op.inputs[2:]), (pixel,), attrs, op.origin))
    name = fresh_op(graph, f"{op.name}.flat")
    graph.add_op(Op("Flatten", name, (pixel,), op.outputs, {"axis": 1}, flatten.origin))
    return True


@rewrite("Reshape")
def raise_pixels(graph: Graph, op: Op) -> bool:
    """A vector that becomes an image of one pixel does so before the layer that made it, and a Gemm is a 1x1 Conv.

    Squeeze-excite gates of fully connected layers are those of convolutions then.
    """
    vector = graph.tensor(op.inputs[0]).shape
    if len(vector) != 2 or graph.tensor(op.output).shape != (*vector, 1, 1):
        return False
    layer = sole_producer(graph, op.inputs[0], "Gemm", *UNARY)
    if layer is None or (layer.kind != "Gemm" and any(layer.inputs[1:])):
        return False
    kind, inputs, attrs = layer.kind, layer.inputs[1:], dict(layer.attrs)
    if layer.kind == "Gemm":
        weight = graph.constant(layer.inputs[1])
        if weight is None or attrs != {"transB": 1}:
            return False
        filters = add_constant(graph, f"{layer.name}.filters", weight[:, :, None, None])
        kind, inputs, attrs = "Conv", (filters, *inputs[1:]), {**window_of({}, (1, 1), (1, 1)).attrs, "group": 1}
    source = layer.inputs[0]
    pixel = _pixel_tensor(graph, source)
    shape = add_constant(graph, f"{pixel}.shape", np.array(graph.tensor(pixel).shape, np.int64))
    graph.remove_op(op)
    graph.remove_op(layer)
    graph.add_op(Op("Reshape", op.name, (source, shape), (pixel,), {"allowzero": 0}, op.origin))
    graph.add_op(Op(kind, layer.name, (pixel, *inputs), op.outputs, attrs, layer.origin))
    return True


def _pixel_tensor(graph: Graph, vector: str) -> str:
    """A new tensor for a vector as an image of one pixel."""
    name, like = fresh(graph, f"{vector}.pixel"), graph.tensor(vector)
    graph.add_tensor(Tensor(name, (*like.shape, 1, 1), like.dtype))
    return name
