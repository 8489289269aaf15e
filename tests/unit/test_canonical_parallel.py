"""Parallel convolutions become one: RepVGG as it is trained."""

import pytest

from tests.canonical_models import canonical, only
from tests.onnx_models import floats, model, node


def conv(name, x="x", **attrs):
    return node("Conv", f"{x} {name}_w", name, name, **attrs)


def weights(seed=0, outputs=4, inputs=4, **sizes):
    return {f"{name}_w": floats(outputs, inputs, *size, seed=seed + i) for i, (name, size) in enumerate(sizes.items())}


NORM = {name: abs(floats(4, seed=9 + i)) + 0.5 for i, name in enumerate(["s", "t", "m", "v"])}


@pytest.mark.parametrize("order", ["norm point conv", "conv norm point", "point conv norm"])
@pytest.mark.parametrize("group", [1, 2, 4])
def test_three_branches_are_one_convolution(order, group):
    names = order.split()
    nodes = [
        conv("conv", pads=[1, 1, 1, 1], group=group),
        conv("point", group=group),
        node("BatchNormalization", "x s t m v", "norm", epsilon=0.01),
        node("Add", f"{names[0]} {names[1]}", "two"),
        node("Add", f"two {names[2]}", "y"),
    ]
    constants = weights(inputs=4 // group, conv=(3, 3), point=(1, 1)) | NORM
    op = only(canonical(model(nodes, (2, 4, 7, 6), constants), "Conv"))
    assert op.attrs["kernel_shape"] == (3, 3)
    assert set(op.origin) >= {"conv", "point"}


@pytest.mark.parametrize(
    ("large", "small"),
    [
        ({"pads": [2, 1, 2, 1], "strides": [2, 1]}, {"strides": [2, 1]}),
        ({"pads": [4, 2, 4, 2], "dilations": [2, 2]}, {}),
        ({"pads": [2, 2, 2, 0]}, {"pads": [0, 1, 0, 0]}),
    ],
)
def test_windows_that_move_together(large, small):
    shape = (5, 3)
    nodes = [conv("a", **large), conv("b", **small), node("Add", "b a", "y")]
    size = (1, 2) if "pads" in small else (1, 1)
    canonical(model(nodes, (1, 4, 9, 8), weights(a=shape, b=size)), "Conv")


@pytest.mark.parametrize(
    ("large", "small", "size"),
    [
        ({"pads": [1, 1, 1, 1], "strides": [2, 2]}, {"pads": [0, 0, 0, 0], "strides": [2, 2], "group": 2}, (1, 1)),
        ({"pads": [1, 1, 1, 1]}, {"pads": [0, 2, 0, 0]}, (1, 3)),
        ({"pads": [2, 2, 2, 2], "dilations": [2, 2]}, {"pads": [1, 1, 1, 1]}, (3, 3)),
    ],
    ids=["groups differ", "windows reach further", "dilations differ"],
)
def test_what_stays_apart(large, small, size):
    inputs = 4 // small.get("group", 1)
    constants = weights(a=(3, 3)) | weights(seed=5, inputs=inputs, b=size)
    nodes = [conv("a", **large), conv("b", **small), node("Add", "a b", "y")]
    canonical(model(nodes, (1, 4, 8, 8), constants), "Conv", "Conv", "Add")


def test_a_norm_beside_a_convolution_that_is_not_centred_stays():
    nodes = [
        conv("conv", pads=[2, 1, 0, 1]),
        node("BatchNormalization", "x s t m v", "norm"),
        node("Add", "conv norm", "y"),
    ]
    canonical(model(nodes, (1, 4, 7, 7), weights(conv=(3, 3)) | NORM), "BatchNormalization", "Conv", "Add")
