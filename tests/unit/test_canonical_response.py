"""Global response normalization: a gate of lengths, in every order of its sums and products."""

import itertools

import numpy as np
import pytest

from tests.canonical_models import canonical
from tests.onnx_models import floats, model, node

FORMS = ("swap", "gamma", "beta", "epsilon", "nested")
GATE = ("GlobalLpPool", "MeanNormalization", "Mul")


def response(*, swap=False, gamma=True, beta=True, epsilon=True, nested=False, inner="c", axes=(2, 3)):
    """``x + (beta + gamma * (x * n))``, with the operands of every operator swapped, or the sum the other way round."""
    nodes = [node("Abs", "x", "a"), node("ReduceL2", "a", "l", axes=list(axes), keepdims=1)]
    nodes += [node("ReduceMean", "l", "m", axes=[1] if inner == "c" else [2], keepdims=1)]
    nodes += [node("Add", "e m" if swap else "m e", "s")] if epsilon else []
    nodes += [node("Div", "l s" if epsilon else "l m", "n"), node("Mul", "n a" if swap else "a n", "p")]
    nodes += [node("Mul", "p g" if swap else "g p", "q")] if gamma else []
    product = "q" if gamma else "p"
    if nested:
        nodes += [node("Add", f"a {product}", "y" if not beta else "z")]
        return [*nodes, node("Add", "z b", "y")] if beta else nodes
    nodes += [node("Add", f"{product} b" if swap else f"b {product}", "z")] if beta else []
    last = "z" if beta else product
    return [*nodes, node("Add", f"{last} a" if swap else f"a {last}", "y")]


def constants(channels=3):
    return {
        "g": floats(1, channels, 1, 1),
        "b": floats(1, channels, 1, 1, seed=2),
        "e": np.float32(1e-6),
    }


@pytest.mark.parametrize(
    ("swap", "gamma", "beta", "epsilon", "nested"), list(itertools.product((False, True), repeat=5))
)
def test_response_is_a_gate(swap, gamma, beta, epsilon, nested):
    nodes = response(swap=swap, gamma=gamma, beta=beta, epsilon=epsilon, nested=nested)
    graph = canonical(model(nodes, (2, 3, 5, 4), constants()), "Abs", *GATE, *(["Add"] if beta else []))
    (norm,) = (op for op in graph.ops() if op.kind == "MeanNormalization")
    assert norm.attrs["epsilon"] == pytest.approx(1e-6 if epsilon else 0.0)
    shift = graph.constant(norm.inputs[2])
    np.testing.assert_array_equal(shift, 1)


def test_response_with_channels_last():
    nodes = [
        node("Transpose", "x", "a", perm=[0, 2, 3, 1]),
        node("ReduceL2", "a", "l", axes=[1, 2], keepdims=1),
        node("ReduceMean", "l", "m", axes=[-1], keepdims=1),
        node("Add", "m e", "s"),
        node("Div", "l s", "n"),
        node("Mul", "a n", "p"),
        node("Mul", "g p", "q"),
        node("Add", "b q", "z"),
        node("Add", "a z", "o"),
        node("Transpose", "o", "y", perm=[0, 3, 1, 2]),
    ]
    numbers = {key: value.reshape(-1) if value.ndim else value for key, value in constants().items()}
    canonical(model(nodes, (2, 3, 5, 4), numbers), *GATE, "Add")


def test_the_mean_over_another_axis_is_no_normalization():
    kinds = ("Abs", "GlobalLpPool", "ReduceMean", "Add", "Div", "Mul", "Mul", "Add", "Add")
    canonical(model(response(inner="rows"), (2, 3, 5, 4), constants()), *kinds)


def test_the_length_of_columns_is_no_gate():
    kinds = ("Abs", "ReduceL2", "MeanNormalization", "Mul", "Mul", "Add", "Add")
    canonical(model(response(axes=(1, 2)), (2, 3, 5, 4), constants()), *kinds)


def test_the_length_of_another_image_is_no_gate_of_this_one():
    nodes = [
        node("Relu", "x", "o"),
        *(
            node(each.op_type, " ".join("o" if name == "a" else name for name in each.input), each.output[0], each.name)
            if each.op_type == "Mul" and "a" in each.input
            else each
            for each in response()
        ),
    ]
    graph = canonical(
        model(nodes, (2, 3, 5, 4), constants()),
        *("Relu", "Abs", "GlobalLpPool", "MeanNormalization", "Mul", "Mul", "Add", "Add"),
    )
    (norm,) = (op for op in graph.ops() if op.kind == "MeanNormalization")
    np.testing.assert_array_equal(graph.constant(norm.inputs[2]), 0)


def test_a_gamma_that_differs_between_pixels_stays():
    numbers = {**constants(), "g": floats(1, 3, 5, 4)}
    kinds = ("Abs", "GlobalLpPool", "MeanNormalization", "Mul", "Mul", "Add", "Add")
    canonical(model(response(), (2, 3, 5, 4), numbers), *kinds)
