"""Networks whose images have their channels last, as converters from TensorFlow write them."""

import numpy as np
import pytest

from blockfuse.frontend import canonicalize, read
from tests.canonical_models import canonical
from tests.onnx_models import floats, model, node

LAST, FIRST = (0, 2, 3, 1), (0, 3, 1, 2)


def between(kind, inputs, result, **attrs):
    """A node on N, H, W, C between the transpositions of its neighbours."""
    return [
        node("Transpose", "c", "l", perm=LAST),
        node(kind, inputs, "o", **attrs),
        node("Transpose", "o", result, perm=FIRST),
    ]


KINDS = {
    "Abs": ({}, {}, "l"),
    "Elu": ({"alpha": 0.5}, {}, "l"),
    "Mish": ({}, {}, "l"),
    "Softplus": ({}, {}, "l"),
    "Sqrt": ({}, {}, "l"),
    "Max": ({}, {"k": floats(4)}, "l k"),
    "PRelu": ({}, {"k": abs(floats(1, 1, 4))}, "l k"),
    "Softmax": ({"axis": 3}, {}, "l"),
    "LogSoftmax": ({"axis": -1}, {}, "l"),
    "Concat": ({"axis": 3}, {}, "l l"),
    "ReduceL2": ({"axes": (1, 2)}, {}, "l"),
    "ReduceMax": ({"axes": (-1,)}, {}, "l"),
    "Pad": ({}, {"k": np.array([0, 1, 2, 0, 0, 3, 1, 0])}, "l k"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_transposes_around_an_op_are_gone(kind):
    attrs, constants, inputs = KINDS[kind]
    nodes = [
        node("Conv", "x w", "c0"),
        node("Abs", "c0", "c"),
        *between(kind, inputs, "p", **attrs),
        node("Sin", "p", "y"),
    ]
    proto = model(nodes, constants={"w": floats(4, 4, 1, 1), **constants}, opset=18 if kind == "Mish" else 17)
    graph = canonicalize(read(proto))
    kinds = [op.kind for op in graph.ops()]
    assert "Transpose" not in kinds
    assert len(kinds) == 4
    canonical(proto, *kinds)


@pytest.mark.parametrize("keepdims", [0, 1])
def test_reductions_over_the_image(keepdims):
    nodes = [node("Transpose", "x", "l", perm=LAST), node("ReduceMean", "l", "y", axes=(1, 2), keepdims=keepdims)]
    kinds = ["GlobalAveragePool", "Transpose"] if keepdims else ["GlobalAveragePool", "Flatten"]
    canonical(model(nodes), *kinds)


def test_the_best_class_of_every_pixel():
    nodes = [
        node("Transpose", "x", "l", perm=LAST),
        node("ArgMax", "l", "m", axis=3, keepdims=0),
        node("Cast", "m", "y", to=1),
    ]
    canonical(model(nodes, (2, 5, 3, 4)), "ArgMax", "Cast")


def test_rows_alone_keep_their_order():
    nodes = [node("Transpose", "x", "l", perm=LAST), node("ReduceMean", "l", "y", axes=(1,), keepdims=0)]
    canonical(model(nodes), "Transpose", "ReduceMean")


def test_a_fully_connected_layer_of_pixels():
    nodes = [
        node("Relu", "x", "r"),
        node("Transpose", "r", "l", perm=LAST),
        node("Reshape", "l s", "f"),
        node("MatMul", "f w", "m"),
        node("Add", "m b", "y"),
    ]
    constants = {"s": np.array([-1, 60]), "w": floats(60, 7), "b": floats(7)}
    canonical(model(nodes, (2, 5, 3, 4), constants), "Relu", "Conv", "Flatten")


def test_a_network_as_tf2onnx_writes_it():
    """Only the Transpose of the input is left."""
    nodes = [
        node("Transpose", "x", "x1", perm=FIRST),
        node("Conv", "x1 w", "c1", pads=[1, 1, 1, 1]),
        node("Transpose", "c1", "l1", perm=LAST),
        node("Add", "l1 b", "b1"),
        node("Relu", "b1", "r1"),
        node("Transpose", "r1", "x2", perm=FIRST),
        node("Conv", "x2 v", "c2", pads=[1, 1, 1, 1]),
        node("Transpose", "c2", "l2", perm=LAST),
        node("Mul", "l2 b", "m2"),
        node("Add", "m2 r1", "s2"),
        node("ReduceMean", "s2", "p", axes=(1, 2), keepdims=0),
        node("MatMul", "p f", "y"),
    ]
    constants = {"w": floats(6, 3, 3, 3), "v": floats(6, 6, 3, 3, seed=1) / 5, "b": floats(6), "f": floats(6, 4)}
    proto = model(nodes, (2, 9, 7, 3), constants)
    canonical(proto, "Transpose", "Conv", "Relu", "Conv", "Add", "GlobalAveragePool", "Flatten", "Gemm")


def test_global_response_normalization_stays_on_images():
    """ConvNeXt v2: x + scale * x * |x| / mean |x| + shift, between transpositions."""
    nodes = [
        node("Conv", "x w", "c"),
        node("Transpose", "c", "l", perm=LAST),
        node("ReduceL2", "l", "g", axes=(1, 2)),
        node("ReduceMean", "g", "m", axes=(-1,)),
        node("Add", "m e", "me"),
        node("Div", "g me", "n"),
        node("Mul", "l n", "ln"),
        node("Mul", "ln s", "t"),
        node("Add", "t h", "u"),
        node("Add", "l u", "o"),
        node("Transpose", "o", "y", perm=FIRST),
    ]
    constants = {"w": floats(8, 4, 1, 1), "e": np.float32(1e-6), "s": floats(8), "h": floats(8, seed=1)}
    graph = canonicalize(read(model(nodes, constants=constants)))
    kinds = sorted(op.kind for op in graph.ops())
    assert kinds == ["Add", "Conv", "GlobalLpPool", "MeanNormalization", "Mul"]
    canonical(model(nodes, constants=constants), *(op.kind for op in graph.ops()))
