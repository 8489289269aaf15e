"""Matching: every way a block can be written, and the deepest reason where it does not match."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from blockfuse.frontend import canonicalize, patterns, zoo
from blockfuse.frontend.explain import explain
from blockfuse.frontend.reading import read
from blockfuse.pattern import Match, Mismatch, either, match, optional, pattern
from tests.small_graphs import Net, basic_block


@pattern
def block(op, x, w1, b1, w2, b2):
    """Two 3x3 convolutions and an identity shortcut."""
    y = op.Relu(op.Conv(x, w1, b1, kernel_shape=(3, 3), name="first"))
    y = op.Conv(y, w2, b2, kernel_shape=(3, 3), name="second")
    return op.Relu(op.Add(y, x))


def attempt(one, net, output):
    """Match the op that makes ``output``, the graph's only result."""
    graph = net.graph(output)
    return match(one, graph, graph.producer(output))


def names(found):
    assert isinstance(found, Match), str(found)
    return [op.name for op in found.ops]


def complaint(found):
    assert isinstance(found, Mismatch)
    assert not found
    return found


# ---- what matches ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("swap", [False, True])
def test_either_operand_order(swap):
    net = Net()
    found = attempt(block, net, basic_block(net, "x", swap=swap))
    assert names(found) == ["conv1", "relu1", "conv2", "add", "relu2"]
    assert (found.input, found.output) == ("x", "relu2_out")
    assert {name: op.name for name, op in found.named.items()} == {"first": "conv1", "second": "conv2"}
    assert found.tensors == {"x": "x", "w1": "conv1_w", "b1": "conv1_b", "w2": "conv2_w", "b2": "conv2_b"}
    assert str(found) == "block: conv1, relu1, conv2, add, relu2"


@pytest.mark.parametrize("swaps", list(itertools.product([False, True], repeat=3)))
def test_nested_adds_in_every_order(swaps):
    three = pattern(lambda op, x, w: op.Add(op.Add(op.Add(op.Conv(x, w), x), op.Relu(x)), x))
    net = Net()
    y = net.conv("x", 8)
    for swap, other in zip(swaps, ("x", net.relu("x"), "x"), strict=True):
        y = net.add(other, y) if swap else net.add(y, other)
    assert len(names(attempt(three, net, y))) == 5


def test_the_input_is_the_first_computed_parameter():
    swapped = pattern(lambda op, w, x: op.Conv(x, w))
    net = Net()
    assert attempt(swapped, net, net.conv("x", 8)).input == "x"


def test_a_bias_may_be_missing_on_either_side():
    net = Net()
    y = net.conv("x", 8, name="conv")
    assert names(attempt(pattern(lambda op, x, w: op.Conv(x, w)), net, y))
    assert names(attempt(pattern(lambda op, x: op.Conv(x)), net, y))
    conv = net.ops.pop()
    y = net.op("Conv", conv.inputs[:2], net.shape(y), **conv.attrs)
    found = attempt(pattern(lambda op, x, w, b: op.Conv(x, w, b)), net, y)
    assert found.tensors == {"x": "x", "w": "conv_w", "b": ""}


def test_shared_weights():
    net = Net()
    weights = (net.constant("w", np.ones((8, 8, 3, 3))), net.constant("b", np.ones(8)))
    y = net.conv(net.relu(net.conv("x", 8, weights=weights)), 8, weights=weights)
    y = net.relu(net.add(y, "x"))
    assert attempt(block, net, y).tensors["w1"] == attempt(block, net, y).tensors["w2"] == "w"
    tied = pattern(lambda op, x, w: op.Conv(op.Relu(op.Conv(x, w)), w))
    net.ops = net.ops[:3]
    assert len(names(attempt(tied, net, net.ops[-1].output))) == 3


def test_a_parameter_used_twice_is_one_tensor():
    tied = pattern(lambda op, x, w: op.Conv(op.Relu(op.Conv(x, w)), w))
    net = Net()
    y = net.conv(net.relu(net.conv("x", 8, name="a")), 8, name="b")
    found = complaint(attempt(tied, net, y))
    assert found.reason == "Conv 'b' reads 'b_w'; the pattern wants w, which is 'a_w'"
    assert found.matched == 3


ACTIVATED = pattern(lambda op, x, w: either(op.Relu(op.Conv(x, w)), op.Clip(op.Conv(x, w), 0, 6)))


def test_either():
    net = Net()
    y = net.conv("x", 8, name="conv")
    assert names(attempt(ACTIVATED, net, net.relu(y, "act"))) == ["conv", "act"]
    net.ops.pop()
    assert names(attempt(ACTIVATED, net, net.clip(y, name="act"))) == ["conv", "act"]
    net.ops.pop()
    found = complaint(attempt(ACTIVATED, net, net.clip(y, high=4.0, name="act")))
    assert found.reason == "Clip 'act' has max 4.0; the pattern wants 6.0"
    net.ops.pop()
    found = complaint(attempt(ACTIVATED, net, net.op("Sigmoid", (y,), net.shape(y), "act")))
    assert found.reason == "found Sigmoid 'act'; the pattern wants Relu or Clip"


def test_an_optional_step_is_taken_where_it_is():
    step = pattern(lambda op, x, w: optional(op.Conv(optional(x, op.Relu), w), op.Relu))
    net = Net()
    y = net.conv(net.relu("x", "before"), 8, name="conv")
    assert names(attempt(step, net, y)) == ["before", "conv"]
    assert names(attempt(step, net, net.relu(y, "after"))) == ["before", "conv", "after"]
    net = Net()
    assert names(attempt(step, net, net.conv("x", 8, name="conv"))) == ["conv"]


def test_an_optional_step_is_left_out_where_taking_it_is_wrong():
    step = pattern(lambda op, x, w: op.Conv(optional(x, op.Relu), w))
    net = Net()
    r = net.relu("x", "shared")
    y = net.conv(r, 8, name="conv")
    graph = net.graph(y, net.relu(r, "reader"))
    assert names(match(step, graph, graph.op("conv"))) == ["conv"]


def test_nested_choices():
    @pattern
    def nested(op, x, w):
        y = optional(x, lambda y: either(op.Relu(y), optional(op.Sigmoid(y), lambda z: op.Clip(z, 0, 6))))
        return op.Conv(y, w)

    for chain in ([], ["Relu"], ["Sigmoid"], ["Sigmoid", "Clip"]):
        net = Net()
        y = "x"
        for kind in chain:
            y = net.clip(y) if kind == "Clip" else net.op(kind, (y,), net.shape(y))
        assert len(names(attempt(nested, net, net.conv(y, 8)))) == len(chain) + 1


def test_a_value_chosen_once_is_the_same_everywhere():
    @pattern
    def gated(op, x, w):
        y = either(op.Relu(x), op.Sigmoid(x))
        return op.Add(op.Conv(y, w), y)

    net = Net()
    relu, sigmoid = net.relu("x", "relu"), net.op("Sigmoid", ("x",), net.shape("x"), "sigmoid")
    same = net.add(net.conv(relu, 8), relu)
    assert len(names(attempt(gated, net, same))) == 3
    other = net.add(net.conv(relu, 8), sigmoid)
    assert not attempt(gated, net, other)


def test_attribute_conditions():
    def even(value):
        return value[0] % 2 == 0

    net = Net()
    y = net.depthwise("x", 5, 2, name="dw")
    kernel = pattern(lambda op, x: op.Conv(x, kernel_shape=either((3, 3), (5, 5)), strides=even, depthwise=True))
    assert names(attempt(kernel, net, y)) == ["dw"]
    for attrs, reason in [
        ({"kernel_shape": (3, 3)}, "Conv 'dw' has kernel_shape (5, 5); the pattern wants (3, 3)"),
        ({"kernel_shape": even}, "Conv 'dw' has kernel_shape (5, 5); the pattern wants even"),
        ({"depthwise": False}, "Conv 'dw' has depthwise True; the pattern wants False"),
        ({"auto_pad": "VALID"}, "Conv 'dw' has no attribute auto_pad; the pattern wants VALID"),
        ({"strides": either((1, 1), (3, 3))}, "Conv 'dw' has strides (2, 2); the pattern wants one of (1, 1), (3, 3)"),
    ]:
        assert complaint(attempt(conv_with(attrs), net, y)).reason == reason


def conv_with(attrs):
    return pattern(lambda op, x: op.Conv(x, **attrs))


@pytest.mark.parametrize(("channels", "group"), [(8, 1), (8, 4), (16, 8)])
def test_what_is_not_depthwise(channels, group):
    net = Net()
    found = complaint(attempt(conv_with({"depthwise": True}), net, net.conv("x", channels, group=group, name="conv")))
    assert found.reason == "Conv 'conv' has depthwise False; the pattern wants True"


def test_numbers_match_constants():
    scaled = pattern(lambda op, x: op.Mul(x, 0.5))
    net = Net()
    half = net.constant("half", np.full((8, 1, 1), 0.5))
    assert names(attempt(scaled, net, net.op("Mul", (half, "x"), net.shape("x"), "mul"))) == ["mul"]
    third = net.constant("third", np.full((8, 1, 1), 0.3))
    found = complaint(attempt(scaled, net, net.op("Mul", (third, "x"), net.shape("x"), "other")))
    assert found.reason.startswith("Mul 'other' reads")


def test_swish_is_one_operator_in_pattern_and_model():
    silu = pattern(lambda op, x, w: op.Mul(op.Conv(x, w), op.Sigmoid(op.Conv(x, w))))
    assert "Mul" in silu.explain()  # two convolutions: no Swish

    @pattern
    def gate(op, x, w):
        y = op.Conv(x, w)
        return op.Mul(op.Sigmoid(y), y)

    net = Net()
    y = net.conv("x", 8, name="conv")
    sigmoid = net.op("Sigmoid", (y,), net.shape(y))
    graph = canonicalize(net.graph(net.op("Mul", (y, sigmoid), net.shape(y), "mul")))
    assert len(names(match(gate, graph, graph.producer("mul_out")))) == 2


# ---- what is refused -------------------------------------------------------------------------------------------------
def test_an_interior_value_read_outside():
    net = Net()
    y = basic_block(net, "x")
    graph = net.graph(y, net.clip("relu1_out", name="spy"))
    found = complaint(match(block, graph, graph.op("relu2")))
    assert found.reason == "'relu1_out', computed by Relu 'relu1' inside the block, is read by Clip 'spy' outside it"
    assert (found.op.name, found.matched) == ("relu1", 5)


def test_an_interior_value_that_is_an_output():
    net = Net()
    graph = net.graph(basic_block(net, "x"), "conv2_out")
    found = complaint(match(block, graph, graph.op("relu2")))
    assert found.reason == "'conv2_out', computed by Conv 'conv2' inside the block, is an output of the model"


def test_a_residual_that_broadcasts():
    net = Net((1, 1, 6, 6))
    y = net.conv(net.relu(net.conv("x", 8, name="conv1")), 8, name="conv2")
    found = complaint(attempt(block, net, net.relu(net.add(y, "x", "add"))))
    assert found.reason == "Add 'add' broadcasts: it adds [1, 8, 6, 6] and [1, 1, 6, 6]"
    assert found.matched == 5


def test_a_captured_tensor_computed_inside():
    doubled = pattern(lambda op, x, w, r: op.Add(op.Conv(x, w), r))
    net = Net()
    y = net.conv("x", 8, name="conv")
    found = complaint(attempt(doubled, net, net.add(y, y)))
    assert "which is computed inside the block" in found.reason


def test_one_operator_does_not_stand_for_two():
    twins = pattern(lambda op, x, w: op.Add(op.Conv(x, w), op.Conv(x, w)))
    net = Net()
    y = net.conv("x", 8, name="conv")
    assert not attempt(twins, net, net.add(y, y, "add"))
    other = net.conv("x", 8, weights=("conv_w", "conv_b"))
    net.ops = [op for op in net.ops if op.name != "add"]
    assert len(names(attempt(twins, net, net.add(y, other)))) == 3


# ---- the deepest reason ----------------------------------------------------------------------------------------------
@pattern
def shortcut_first(op, x, w1, w2):
    return op.Relu(op.Add(x, op.Conv(op.Relu(op.Conv(x, w1)), w2)))


@pytest.mark.parametrize("swap", [False, True])
def test_the_order_of_an_add_in_the_pattern_does_not_change_the_reason(swap):
    net = Net()
    found = complaint(attempt(shortcut_first, net, basic_block(net, "x", 2, project=True, swap=swap)))
    assert found.reason == "Add 'add' reads 'down_out'; the pattern wants x, which is 'x'"


def test_a_projection_is_named_where_an_identity_is_wanted():
    net = Net()
    found = complaint(attempt(block, net, basic_block(net, "x", 2, project=True)))
    assert found.reason == "Add 'add' reads 'down_out'; the pattern wants x, which is 'x'"
    assert (found.op.name, found.matched) == ("add", 5)
    assert str(found) == f"block: {found.reason} (at Add 'add', 5 ops matched)"


@pytest.mark.parametrize("swap", [False, True])
def test_the_attempt_that_got_furthest_is_reported(swap):
    net = Net()
    y = net.relu(net.conv("x", 8, 5, name="conv1"), "relu1")
    y = net.conv(y, 8, name="conv2")
    y = net.add("x", y, "add") if swap else net.add(y, "x", "add")
    found = complaint(attempt(block, net, net.relu(y)))
    assert found.reason == "Conv 'conv1' has kernel_shape (5, 5); the pattern wants (3, 3)"
    assert (found.op.name, found.matched) == ("conv1", 4)


def test_the_end_of_the_model_is_named():
    net = Net()
    y = net.conv("x", 8, name="conv2")
    found = complaint(attempt(block, net, net.relu(net.add(y, "x"))))
    assert found.reason == "Conv 'conv2' reads 'x', an input of the model; the pattern wants Relu"
    assert found.matched == 3


# ---- explain ---------------------------------------------------------------------------------------------------------
def test_explain_resnet18():
    model = zoo.resnet18(size=32, width=0.25)
    result = explain(model, block)
    assert len(result.matches) == 5
    depths = [one.matched for one in result.candidates if not one.is_match]
    assert depths == sorted(depths, reverse=True)
    near = [one for one in result.candidates if one.matched == 5 and not one.is_match]
    assert [one.at for one in near] == ["layer2.0.add", "layer3.0.add", "layer4.0.add"]
    text = str(result)
    assert text.startswith("block in resnet18: 5 matches, 7 candidates more")
    assert "layer1.0.relu2  matched: layer1.0.conv1, layer1.0.relu1, layer1.0.conv2, layer1.0.add" in text
    assert "layer2.0.relu2  5 ops, then Add 'layer2.0.add' reads" in text


def test_explain_takes_paths_and_graphs(tmp_path):
    model = zoo.mobilenet_v2(size=32, width=0.25)
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    results = [explain(source, patterns.inverted_residual) for source in (model, path, str(path))]
    results.append(explain(canonicalize(read(model)), patterns.inverted_residual))
    assert [len(result.matches) for result in results] == [17] * 4
    assert results[0] == results[1] == results[2] == results[3]


def test_explain_says_that_there_is_no_candidate():
    net = Net()
    assert "the model has no Relu" in str(explain(net.graph(net.conv("x", 8)), block))


def test_explain_as_json():
    net = Net()
    graph = net.graph(basic_block(net, "x"))
    assert explain(graph, block).to_dict()["candidates"] == (
        {
            "anchor": "relu2",
            "ops": ("conv1", "relu1", "conv2", "add", "relu2"),
            "reason": "",
            "at": "",
            "matched": 5,
        },
    )


def test_explain_says_when_a_match_cannot_be_a_block():
    net = Net()
    graph = net.graph(net.clip("x", 0.5, float("inf"), name="half"))
    (candidate,) = explain(graph, pattern(lambda op, x: op.Clip(x))).candidates
    assert candidate.reason.startswith("it matches, but Clip 'half': Clip to 0.5 ... inf has no stage")
