"""Concatenations and splits of channels in canonical form: what they become, and that numbers stay."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from blockfuse.frontend import canonicalize, to_onnx
from blockfuse.frontend.reading import read
from tests.concat_networks import concat
from tests.joined_blocks import share, shares
from tests.onnx_models import floats, model, node, run
from tests.small_graphs import Net, random_inputs, run_with_onnxruntime


def canonical(net: Net, *outputs: str) -> tuple[Counter[str], list]:
    """Kinds of the operators of the canonical graph, which computes the same; and the operators."""
    graph = net.graph(*outputs)
    result = canonicalize(graph)
    inputs = random_inputs(graph)
    expected, actual = (run_with_onnxruntime(to_onnx(each), inputs) for each in (graph, result))
    for name, array in expected.items():
        np.testing.assert_allclose(actual[name], array, rtol=0, atol=2e-5 * max(1.0, float(np.abs(array).max())))
    return Counter(op.kind for op in result.ops()), list(result.ops())


def normalized(net: Net, x: str) -> str:
    parts = [net.constant(f"n{len(net.tensors)}", abs(net.rng.standard_normal(net.shape(x)[1])) + 0.5) for _ in "smtv"]
    return net.op("BatchNormalization", (x, *parts), net.shape(x), epsilon=1e-3)


@pytest.mark.parametrize("axis", [1, -3])
def test_a_split_of_channels_is_slices(axis):
    nodes = [node("Split", "x sizes", "a b c", axis=axis), node("Add", "a c", "d"), node("Relu", "d", "y")]
    proto = model(nodes, (2, 9, 5, 4), {"sizes": np.array([4, 1, 4])})
    graph = canonicalize(read(proto))
    assert Counter(op.kind for op in graph.ops()) == {"Slice": 2, "Add": 1, "Relu": 1}  # nobody reads b
    x = floats(2, 9, 5, 4)
    np.testing.assert_array_equal(run(to_onnx(graph), {"x": x})["y"], run(proto, {"x": x})["y"])


def test_a_split_of_rows_stays():
    nodes = [node("Split", "x sizes", "a b", axis=2), node("Add", "a b", "y")]
    graph = canonicalize(read(model(nodes, (2, 3, 8, 4), {"sizes": np.array([4, 4])})))
    assert [op.kind for op in graph.ops()] == ["Split", "Add"]


def test_normalization_and_activation_are_before_concatenation():
    net = Net((2, 5, 6, 7))
    y = concat(net, net.conv("x", 3, 1), net.conv("x", 4, 3), net.depthwise("x"))
    kinds, _ = canonical(net, net.relu(normalized(net, y)))
    assert kinds == {"Conv": 3, "Relu": 3, "Concat": 1}


@pytest.mark.parametrize("why", ["read elsewhere", "no convolution", "an output", "twice"])
def test_normalization_stays_behind_concatenation(why):
    net = Net((2, 5, 6, 7))
    a, b = net.conv("x", 3, 1), net.conv("x", 4, 3)
    parts = {"no convolution": (a, "x"), "twice": (a, a)}.get(why, (a, b))
    y = concat(net, *parts)
    outputs = [net.relu(normalized(net, y))]
    outputs += [net.unary("Tanh", a)] if why == "read elsewhere" else []
    outputs += [y] if why == "an output" else []
    kinds, _ = canonical(net, *outputs)
    assert (kinds["BatchNormalization"], kinds["Concat"]) == (1, 1)


@pytest.mark.parametrize(("size", "stride"), [(1, 1), (3, 2)])
def test_convolutions_of_equal_shares_are_one_in_groups(size, stride):
    net = Net((2, 9, 6, 7))
    parts = shares(net, net.relu("x"), 3, 3, 3)
    y = concat(net, *[net.conv(part, 4, size, stride) for part in parts])
    kinds, ops = canonical(net, net.unary("Swish", y))
    assert kinds == {"Relu": 1, "Conv": 1, "Swish": 1}
    (conv,) = (op for op in ops if op.kind == "Conv")
    assert conv.attrs["group"] == 3


@pytest.mark.parametrize("why", ["order", "a gap", "windows", "widths", "read elsewhere"])
def test_convolutions_that_are_not_alike_stay(why):
    net = Net((2, 9, 6, 7))
    x = net.relu("x")
    a, b = (share(net, x, 0, 3), share(net, x, 3 if why != "a gap" else 6, 3 if why == "a gap" else 6))
    if why not in {"a gap", "widths"}:
        a, b = shares(net, net.conv(x, 8, 1), 4, 4)
    convs = [net.conv(a, 4, 3), net.conv(b, 4, 1 if why == "windows" else 3)]
    outputs = [concat(net, *(convs[::-1] if why == "order" else convs))]
    outputs += [net.unary("Tanh", convs[0])] if why == "read elsewhere" else []
    kinds, _ = canonical(net, *outputs)
    assert (kinds["Slice"], kinds["Concat"]) == (2, 1)


def test_a_shortcut_of_the_first_channels_divides_the_convolution():
    net = Net((2, 5, 6, 7))
    y = net.conv(net.relu(net.depthwise("x")), 8, 1)
    first, rest = shares(net, y, 5, 3)
    kinds, _ = canonical(net, concat(net, net.add("x", first), rest))
    assert kinds == {"Conv": 3, "Relu": 1, "Add": 1, "Concat": 1}


def test_a_difference_is_a_sum():
    net = Net((2, 5, 6, 7))
    y = net.op("Sub", (net.relu("x"), net.unary("Tanh", "x")), net.shape("x"))
    kinds, _ = canonical(net, y)
    assert kinds == {"Relu": 1, "Tanh": 1, "Mul": 1, "Add": 1}
