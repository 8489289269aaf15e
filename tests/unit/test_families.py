"""The blocks of every family as small graphs: found whole, and what they compute."""

from __future__ import annotations

import numpy as np
import pytest

from blockfuse.block import Block
from blockfuse.frontend import canonicalize, patterns, to_onnx
from blockfuse.frontend.partition import Partition, block_of, partition
from blockfuse.frontend.stages import stage_of
from blockfuse.graph import Graph, Tensor
from blockfuse.stages import Activation, Border, Conv, Frame, Function, Grouped, Multiply, Norm, Pool, Scale
from tests.small_graphs import Net, random_inputs, run_partition, run_with_onnxruntime


def check_numbers(result: Partition) -> None:
    inputs = random_inputs(result.graph)
    expected = run_with_onnxruntime(to_onnx(result.graph), inputs)
    actual, tolerance = run_partition(result, inputs)
    for name, array in expected.items():
        np.testing.assert_allclose(actual[name], array, rtol=0, atol=tolerance)


def found_whole(graph: Graph, pattern: str) -> Block:
    """The block that takes all of a graph."""
    result = partition(graph, patterns.all())
    assert [found.pattern for found in result.found] == [pattern]
    assert not result.overlaps
    (block,) = result.steps
    assert isinstance(block, Block)
    check_numbers(result)
    return block


def kinds(block: Block) -> list[str]:
    return [type(stage).__name__ for stage in block.stages]


# ---- residual blocks -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("swap", [False, True])
def test_basic_block_with_squeeze_excite(swap):
    net = Net((2, 8, 6, 6))
    y = net.conv(net.relu(net.conv("x", 8)), 8)
    block = found_whole(net.graph(net.relu(net.add(net.squeeze_excite(y, swap=swap), "x"))), "basic_block")
    (product,) = (stage for stage in block.stages if isinstance(stage, Multiply))
    shapes = [block.shapes[value] for value in product.inputs]
    assert (shapes[0].pixels, shapes[1].pixels) == (36, 1)


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("project", [False, True])
def test_bottleneck_with_squeeze_excite(gated, project):
    net = Net((2, 16, 7, 6))
    y = net.conv(net.relu(net.conv(net.relu(net.conv("x", 4, 1)), 4)), 16, 1)
    y = net.squeeze_excite(y) if gated else y
    shortcut = net.conv("x", 16, 1) if project else "x"
    block = found_whole(net.graph(net.relu(net.add(shortcut, y))), "bottleneck")
    assert len(block.stages) == 7 + 6 * gated + project


def test_a_shortcut_of_means():
    net = Net((1, 8, 7, 7))
    y = net.conv(net.relu(net.conv("x", 8, 3, 2)), 8)
    shortcut = net.conv(net.pool("x", "AveragePool"), 8, 1)
    net.ops = [op if op.kind != "AveragePool" else _uncounted(op) for op in net.ops]
    found_whole(net.graph(net.relu(net.add(y, shortcut))), "basic_block")


def _uncounted(op):
    return type(op)(op.kind, op.name, op.inputs, op.outputs, {**op.attrs, "count_include_pad": 0}, op.origin)


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
def test_grouped_bottleneck(gated, stride):
    net = Net((2, 16, 7, 6))
    y = net.relu(net.conv(net.relu(net.conv("x", 16, 1)), 16, 3, stride, group=4))
    y = net.conv(net.squeeze_excite(y) if gated else y, 16, 1)
    shortcut = net.conv("x", 16, 1, stride) if stride > 1 else "x"
    block = found_whole(net.graph(net.relu(net.add(y, shortcut))), "grouped_bottleneck")
    (grouped,) = (stage for stage in block.stages if isinstance(stage, Grouped))
    assert (grouped.groups, grouped.channels) == (4, 16)


def test_grouped_bottleneck_with_its_gate_at_the_end():
    net = Net((2, 16, 7, 6))
    y = net.relu(net.conv(net.relu(net.conv("x", 16, 1)), 16, group=4))
    y = net.squeeze_excite(net.conv(y, 16, 1))
    found_whole(net.graph(net.relu(net.add(y, "x"))), "grouped_bottleneck")


@pytest.mark.parametrize("project", [False, True])
def test_preactivation_bottleneck(project):
    net = Net((2, 8, 7, 6))
    parts = [net.constant(f"p{i}", abs(net.rng.standard_normal(8)) + 0.5) for i in range(4)]
    active = net.relu(net.op("BatchNormalization", ("x", *parts), net.shape("x"), epsilon=1e-3))
    y = net.conv(net.relu(net.conv(net.relu(net.conv(active, 4, 1)), 4)), 8, 1)
    shortcut = net.conv(active, 8, 1) if project else "x"
    block = found_whole(net.graph(net.add(y, shortcut)), "preactivation_bottleneck")
    assert kinds(block)[:2] == ["Scale", "Activation"]


def test_preactivation_bottleneck_with_a_shortcut_of_maxima():
    net = Net((2, 5, 7, 6))
    active = normalized(net, "x")
    y = net.relu(net.conv(net.relu(net.conv(active, 4, 1)), 4, 3, 2))
    block = found_whole(net.graph(net.add(net.pool("x"), net.conv(y, 5, 1))), "preactivation_bottleneck")
    assert [stage.reduction for stage in block.stages if isinstance(stage, Pool)] == ["max"]


@pytest.mark.parametrize("source", ["x", "active"])
def test_preactivation_basic_block_with_a_shortcut_of_maxima(source):
    net = Net((2, 5, 7, 6))
    active = normalized(net, "x")
    y = net.conv(net.relu(net.conv(active, 5, 3, 2)), 5)
    shortcut = net.pool("x" if source == "x" else active)
    found_whole(net.graph(net.add(y, shortcut)), "preactivation_basic_block")


def test_maxima_of_another_image_are_no_shortcut():
    net = Net((2, 5, 7, 6))
    y = net.relu(net.conv("x", 5, 1))
    y = net.add(net.conv(net.relu(net.conv(y, 5, 3, 2)), 5), net.pool("x"))
    result = partition(net.graph(net.relu(y)), patterns.all())
    assert "basic_block" not in [found.pattern for found in result.found]
    check_numbers(result)


@pytest.mark.parametrize(
    ("kind", "attrs"),
    [
        *[(kind, {}) for kind in ("Elu", "Celu", "Mish", "Softplus", "Softsign", "Sigmoid")],
        ("Selu", {"alpha": 1.5, "gamma": 1.1}),
        ("HardSigmoid", {"alpha": 0.2, "beta": 0.5}),
    ],
)
def test_basic_block_with_any_activation(kind, attrs):
    net = Net((2, 5, 7, 6))
    y = net.conv(net.unary(kind, net.conv("x", 5), **attrs), 5)
    found_whole(net.graph(net.unary(kind, net.add(y, "x"), **attrs)), "basic_block")


@pytest.mark.parametrize("shared", [False, True])
def test_basic_block_with_slopes(shared):
    net = Net((2, 5, 7, 6))

    def prelu(x):
        slope = np.full((1, 1, 1), 0.25) if shared else net.rng.standard_normal((5, 1, 1))
        return net.op("PRelu", (x, net.constant(f"slope{len(net.ops)}", slope)), net.shape(x))

    y = net.conv(prelu(net.conv("x", 5)), 5)
    block = found_whole(net.graph(prelu(net.add(y, "x"))), "basic_block")
    assert kinds(block).count("Activation" if shared else "Slope") == 2


def test_slopes_that_differ_between_pixels_are_no_stage():
    net = Net((1, 5, 7, 6))
    slope = net.constant("slope", net.rng.standard_normal((5, 7, 6)))
    y = net.op("PRelu", (net.conv("x", 5), slope), net.shape("x"), "prelu")
    result = partition(net.graph(y), patterns.all())
    assert result.reasons["prelu"] == "PRelu with a slope that differs between pixels has no stage"


# ---- anti-aliased blocks ---------------------------------------------------------------------------------------------
def framed(net, x, widths=(1, 1, 1, 1), mode="reflect"):
    """A frame of the image's own pixels: widths at the top, left, bottom and right."""
    n, c, h, w = net.shape(x)
    top, left, bottom, right = widths
    pads = np.array([0, 0, top, left, 0, 0, bottom, right])
    net.constant(name := f"pads{len(net.ops)}", pads)
    net.tensors[name] = Tensor(name, (8,), "int64", pads)
    return net.op("Pad", (x, name), (n, c, h + top + bottom, w + left + right), mode=mode)


def blurred(net, x, frame="reflect"):
    """A binomial filter with stride 2 in a frame; zeros around the image, or means, where there is none."""
    n, c, h, w = net.shape(x)
    if frame == "means":
        return _counted(net, net.pool(x, "AveragePool"))
    y = framed(net, x, (1, 1, 1, 1) if frame == "reflect" else (2, 1, 0, 1), frame) if frame else x
    weight = np.tile(np.outer([1, 2, 1], [1, 2, 1]) / 16, (c, 1, 1, 1))
    parts = (net.constant(f"blur{len(net.ops)}", weight), net.constant(f"none{len(net.ops)}", np.zeros(c)))
    pad = 0 if frame else 1
    attrs = {"kernel_shape": (3, 3), "strides": (2, 2), "pads": (pad,) * 4, "dilations": (1, 1), "group": c}
    return net.op("Conv", (y, *parts), (n, c, (h - 1) // 2 + 1, (w - 1) // 2 + 1), **attrs)


def _counted(net, x):
    net.ops[-1] = _uncounted(net.ops[-1])
    return x


@pytest.mark.parametrize("frame", ["reflect", "edge", "", "means"])
@pytest.mark.parametrize("group", [1, 4])
def test_anti_aliased_bottleneck(frame, group):
    net = Net((2, 8, 7, 6))
    y = blurred(net, net.relu(net.conv(net.relu(net.conv("x", 8, 1)), 8, group=group)), frame)
    y = net.add(net.conv(y, 12, 1), net.conv("x", 12, 1, 2))
    block = found_whole(net.graph(net.relu(y)), "bottleneck" if group == 1 else "grouped_bottleneck")
    assert kinds(block).count("Border") == (frame in {"reflect", "edge"})


@pytest.mark.parametrize("frame", ["reflect", "edge", "", "means"])
def test_anti_aliased_basic_block(frame):
    net = Net((2, 5, 7, 6))
    y = net.conv(blurred(net, net.relu(net.conv("x", 9)), frame), 9)
    y = net.add(net.conv(blurred(net, "x", frame), 9, 1), y)
    block = found_whole(net.graph(net.relu(y)), "basic_block")
    assert kinds(block).count("Border") == 2 * (frame in {"reflect", "edge"})


def test_an_activation_behind_the_blur_is_no_anti_aliased_block():
    net = Net((2, 5, 7, 6))
    y = net.conv(net.relu(blurred(net, net.relu(net.conv("x", 9)))), 9)
    result = partition(net.graph(net.add(y, net.conv(blurred(net, "x"), 9, 1))), patterns.all())
    assert "basic_block" not in [found.pattern for found in result.found]
    check_numbers(result)


@pytest.mark.parametrize(
    ("mode", "widths"), [("reflect", (2, 0, 1, 3)), ("edge", (0, 5, 7, 1)), ("reflect", (4, 0, 4, 2))]
)
def test_frames(mode, widths):
    net = Net((2, 3, 5, 4))
    block = whole(net.graph(framed(net, "x", widths, mode)))
    assert block.stages == (Border("", (0,), Frame(mode, *widths)),)


@pytest.mark.parametrize(
    ("mode", "widths", "reason"),
    [
        ("wrap", (1, 1, 1, 1), "Pad with mode wrap that no window takes in has no stage"),
        ("edge", (1, 1, -1, 1), "Pad of other axes than rows and columns, or that cuts something off, has no stage"),
        ("reflect", (1, 4, 1, 1), "Pad that reflects more than the image has no stage"),
    ],
)
def test_frames_that_have_no_stage(mode, widths, reason):
    net = Net((2, 3, 5, 4))
    net.relu(framed(net, "x", widths, mode))
    assert str(stage_of(net.graph(net.ops[-1].output), net.ops[0])) == reason


# ---- inverted residuals ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("activation", ["Relu", "Swish", "HardSwish", "Gelu", "LeakyRelu", "Tanh"])
@pytest.mark.parametrize("sigmoid", ["", "Sigmoid", "HardSigmoid"])
@pytest.mark.parametrize("size", [3, 5])
def test_inverted_residual(activation, sigmoid, size):
    net = Net((2, 4, 7, 6))
    attrs = {"alpha": 0.1} if activation == "LeakyRelu" else {}
    y = net.unary(activation, net.conv("x", 16, 1), **attrs)
    y = net.unary(activation, net.depthwise(y, size), **attrs)
    y = net.squeeze_excite(y, sigmoid) if sigmoid else y
    block = found_whole(net.graph(net.add(net.conv(y, 4, 1), "x")), "inverted_residual")
    assert len(block.stages) == (12 if sigmoid else 6)


def test_inverted_residual_behind_another_depthwise_convolution():
    net = Net((2, 4, 7, 6))
    y = net.relu(net.conv(net.depthwise("x", 5), 16, 1))
    y = net.conv(net.relu(net.depthwise(y)), 4, 1)
    assert len(found_whole(net.graph(net.add(y, "x")), "inverted_residual").stages) == 7


@pytest.mark.parametrize("first", [False, True])
def test_shuffle_unit(first):
    net = Net((2, 6, 7, 6))
    y = net.relu(net.conv("x", 6, 1)) if first else "x"
    y = net.relu(net.conv(net.depthwise(y, 3, 1 if first else 2), 6, 1))
    found_whole(net.graph(y), "shuffle_unit")


@pytest.mark.parametrize("shortcut", [False, True])
def test_inverted_residual_in_groups(shortcut):
    net = Net((1, 8, 6, 6))
    y = net.relu(net.conv("x", 16, 1))
    y = net.conv(net.relu(net.conv(y, 16, 3, group=2)), 8, 1)
    found_whole(net.graph(net.add(y, "x") if shortcut else y), "inverted_residual")


def test_images_of_one_pixel_have_gates_too():
    net = Net((2, 8, 1, 1))
    y = net.squeeze_excite(net.relu(net.depthwise("x")))
    found_whole(net.graph(net.add(net.conv(y, 8, 1), "x")), "inverted_residual")


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("shortcut", [False, True])
def test_fused_inverted_residual(gated, shortcut):
    net = Net((2, 4, 7, 6))
    y = net.unary("Swish", net.conv("x", 16))
    y = net.conv(net.squeeze_excite(y) if gated else y, 4, 1)
    found_whole(net.graph(net.add("x", y) if shortcut else y), "fused_inverted_residual")


def test_fused_inverted_residual_without_expansion():
    net = Net((2, 4, 7, 6))
    y = net.unary("Swish", net.conv("x", 4))
    assert kinds(found_whole(net.graph(net.add(y, "x")), "fused_inverted_residual")) == ["Conv", "Activation", "Add"]


# ---- convolution first -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_convnext_block(approximate):
    net = Net((2, 8, 9, 8))
    y = net.norm(net.depthwise("x", 7))
    y = net.conv(net.unary("Gelu", net.conv(y, 16, 1), approximate=approximate), 8, 1)
    block = found_whole(net.graph(net.add(y, "x")), "convnext_block")
    assert kinds(block) == ["Depthwise", "Norm", "Conv", "Activation", "Conv", "Add"]
    assert block.stages[3] == Activation("gelu", (3,), Function("gelu" if approximate == "none" else "gelu_tanh"))


def respond(net, x, *, beta):
    """Channels weighed by their lengths."""
    n, channels = net.shape(x)[:2]
    lengths = net.op("GlobalLpPool", (x,), (n, channels, 1, 1), p=2)
    parts = [net.constant(f"g{i}", net.rng.standard_normal(channels)) for i in range(2)]
    gate = net.op("MeanNormalization", (lengths, *parts), (n, channels, 1, 1), axes=(1,), epsilon=1e-6)
    return net.scale(net.mul(gate, x), "Add") if beta else net.mul(x, gate)


@pytest.mark.parametrize("beta", [False, True])
def test_convnext_block_that_weighs_channels_by_their_lengths(beta):
    net = Net((2, 5, 9, 8))
    y = respond(net, net.unary("Gelu", net.conv(net.norm(net.depthwise("x", 7)), 19, 1), approximate="none"), beta=beta)
    block = found_whole(net.graph(net.add(net.conv(y, 5, 1), "x")), "convnext_block")
    gate = ["Pool", "Norm", "Multiply", *["Scale"] * beta]
    assert kinds(block) == ["Depthwise", "Norm", "Conv", "Activation", *gate, "Conv", "Add"]
    assert block.stages[5] == Norm("", (5,), 1e-6, "mean")


def test_lengths_of_another_image_are_no_part_of_the_block():
    net = Net((2, 5, 9, 8))
    y = net.unary("Gelu", net.conv(net.norm(net.depthwise("x", 7)), 5, 1), approximate="none")
    lengths = net.op("GlobalLpPool", ("x",), (2, 5, 1, 1), p=2)
    parts = [net.constant(f"g{i}", net.rng.standard_normal(5)) for i in range(2)]
    y = net.mul(y, net.op("MeanNormalization", (lengths, *parts), (2, 5, 1, 1), axes=(1,), epsilon=1e-6))
    result = partition(net.graph(net.add(net.conv(y, 5, 1), "x")), patterns.all())
    assert "convnext_block" not in [found.pattern for found in result.found]
    check_numbers(result)


@pytest.mark.parametrize("group", [1, 2, 8])
@pytest.mark.parametrize("stride", [1, 2])
def test_convfirst_block(group, stride):
    net = Net((2, 8, 7, 6))
    y = net.unary("Swish", net.conv(net.conv("x", 8, 3, stride, group), 48, 1))
    y = net.conv(y, 8, 1)
    found_whole(net.graph(net.add(y, "x") if stride == 1 else y), "convfirst_block")


# ---- separable and normalizer-free blocks ----------------------------------------------------------------------------
def small_shortcut(net, x, channels):
    """A depthwise convolution with stride 2 and a 1x1 one."""
    return net.conv(net.depthwise(x, 3, 2), channels, 1)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("gated", [False, True])
def test_repghost_block(stride, gated):
    net = Net((2, 5, 9, 8))
    y = net.relu(net.depthwise(net.relu(net.conv("x", 11, 1))))
    y = net.depthwise(y, 3, 2) if stride == 2 else y
    y = net.depthwise(net.conv(net.squeeze_excite(y) if gated else y, 7 if stride == 2 else 5, 1))
    block = found_whole(net.graph(net.add(y, small_shortcut(net, "x", 7) if stride == 2 else "x")), "inverted_residual")
    assert kinds(block).count("Depthwise") == (4 if stride == 2 else 2)


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("inner", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
def test_xception_block(first, inner, stride):
    net = Net((2, 5, 9, 8))
    y = "x"
    for number in range(3):
        y = net.relu(y) if first else y
        y = net.depthwise(y, 3, stride if number == 2 else 1)
        y = net.conv(net.relu(y) if inner else y, 5 if stride == 1 else 7, 1)
    y = net.relu(y) if inner else y
    block = found_whole(net.graph(net.add(y, net.conv("x", 7, 1, 2) if stride == 2 else "x")), "xception_block")
    assert kinds(block).count("Activation") == 3 * first + 4 * inner


def test_two_separable_convolutions_are_no_xception_block():
    net = Net((2, 5, 9, 8))
    y = net.conv(net.depthwise(net.relu("x")), 5, 1)
    y = net.conv(net.depthwise(net.relu(y)), 5, 1)
    result = partition(net.graph(net.add(y, "x")), patterns.all())
    assert "xception_block" not in [found.pattern for found in result.found]
    check_numbers(result)


def plain_norm(net, x):
    """A batch normalization that no convolution takes in."""
    channels = net.shape(x)[1]
    parts = [net.constant(f"{x}{i}", abs(net.rng.standard_normal(channels)) + 0.5) for i in range(4)]
    return net.op("BatchNormalization", (x, *parts), net.shape(x), epsilon=1e-3)


@pytest.mark.parametrize("size", [7, 9])
def test_convmixer_block(size):
    net = Net((2, 5, 9, 8))
    y = net.add(plain_norm(net, net.unary("Gelu", net.depthwise("x", size), approximate="none")), "x")
    y = plain_norm(net, net.unary("Gelu", net.conv(y, 5, 1), approximate="none"))
    assert kinds(found_whole(net.graph(y), "convmixer_block")).count("Scale") == 2


def test_a_mixer_that_adds_something_else_is_no_convmixer_block():
    net = Net((2, 5, 9, 8))
    y = net.add(plain_norm(net, net.relu(net.depthwise("x", 7))), net.conv("x", 5, 1))
    result = partition(net.graph(plain_norm(net, net.relu(net.conv(y, 5, 1)))), patterns.all())
    assert "convmixer_block" not in [found.pattern for found in result.found]
    check_numbers(result)


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
def test_normalizer_free_bottleneck(group, gated, stride):
    net = Net((2, 5, 9, 8))
    active = net.scale(net.unary("Swish", "x"))
    y = net.conv(net.relu(net.conv(active, 6, 1)), 6, 3, stride, group)
    y = net.scale(net.squeeze_excite(y)) if gated else y
    y = net.conv(net.relu(y), 5, 1)
    shortcut = net.conv(active, 5, 1, 2) if stride == 2 else "x"
    found_whole(net.graph(net.add(y, shortcut)), "normalizer_free_bottleneck")


# ---- chains without a shortcut ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("length", [2, 3, 4])
@pytest.mark.parametrize("pooled", [False, True])
def test_repvgg_chain(length, pooled):
    net = Net((2, 5, 9, 8))
    y = "x"
    for number in range(length):
        y = net.relu(net.conv(y, 7, 3, 2 if number == 0 else 1))
    assert len(found_whole(net.graph(net.pool(y) if pooled else y), "repvgg_chain").stages) == 2 * length + pooled


def test_repvgg_as_it_is_trained():
    net = Net((2, 5, 9, 8))
    y = "x"
    for _ in range(2):
        parts = [net.constant(f"{y}{i}", abs(net.rng.standard_normal(5)) + 0.5) for i in range(4)]
        image = net.op("BatchNormalization", (y, *parts), net.shape(y), epsilon=1e-3)
        y = net.relu(net.add(net.add(net.conv(y, 5), net.conv(y, 5, 1)), image))
    assert kinds(found_whole(canonicalize(net.graph(y)), "repvgg_chain")) == ["Conv", "Activation"] * 2


@pytest.mark.parametrize("lonely", [True, False])
def test_what_is_no_chain(lonely):
    net = Net((2, 5, 9, 8))
    first = net.relu(net.conv("x", 5))
    y = first if lonely else net.relu(net.conv(first, 5))
    result = partition(net.graph(y, *([] if lonely else [first])), patterns.all())
    assert not result.found
    check_numbers(result)


def inception(net, *, last=True):
    """Four branches: a 1x1 convolution, one and a 3x3 one, one and two 3x3 ones, a pool and a 1x1 one."""

    def conv(x, channels, size=1):
        return net.relu(net.conv(x, channels, size))

    means = net.op("AveragePool", ("x",), net.shape("x"), **MEANS)
    branches = [conv("x", 3), conv(conv("x", 2), 5, 3), conv(conv(conv("x", 3), 5, 5), 4, 3), conv(means, 2)]
    if not last:
        return branches
    return net.op("Concat", branches, (2, sum(net.shape(y)[1] for y in branches), *net.shape("x")[2:]), axis=1)


MEANS = {
    "kernel_shape": (3, 3),
    "strides": (1, 1),
    "pads": (1, 1, 1, 1),
    "dilations": (1, 1),
    "ceil_mode": 0,
    "count_include_pad": 0,
}


def test_branches_of_inception():
    net = Net((2, 5, 9, 8))
    result = partition(net.graph(inception(net)), patterns.all())
    assert [found.pattern for found in result.found] == ["inception_branch"] * 3
    assert sorted(kinds(found.block)[0] for found in result.found) == ["Conv", "Conv", "Pool"]
    check_numbers(result)


def test_branches_that_nothing_joins_are_no_inception():
    net = Net((2, 5, 9, 8))
    result = partition(net.graph(*inception(net, last=False)), patterns.all())
    assert "inception_branch" not in [found.pattern for found in result.found]
    check_numbers(result)


def test_branches_that_meet_before_their_end_are_no_inception():
    net = Net((2, 5, 9, 8))
    reduced = net.relu(net.conv("x", 4, 1))
    parts = [net.relu(net.conv(reduced, 3)), net.relu(net.conv(reduced, 5))]
    result = partition(net.graph(net.op("Concat", parts, (2, 8, 9, 8), axis=1)), patterns.all())
    assert not result.found
    check_numbers(result)


# ---- single stages ---------------------------------------------------------------------------------------------------
def whole(graph: Graph) -> Block:
    """All operators as one block, with its numbers checked."""
    block = block_of(graph, graph.ops())
    assert isinstance(block, Block), str(block)
    check_numbers(Partition(graph, (block,), (), {}, ()))
    return block


@pytest.mark.parametrize(("kind", "function"), [("Sigmoid", "sigmoid"), ("Tanh", "tanh"), ("Swish", "silu")])
def test_activations(kind, function):
    net = Net((2, 4, 5, 6))
    assert whole(net.graph(net.unary(kind, "x"))).stages == (Activation("", (0,), Function(function)),)


def test_activations_with_numbers():
    net = Net((2, 4, 5, 6))
    y = net.unary("HardSigmoid", net.unary("LeakyRelu", "x", alpha=0.3), alpha=0.25, beta=0.4)
    functions = [stage.function for stage in whole(net.graph(y)).stages if isinstance(stage, Activation)]
    assert [(one.slope, one.offset) for one in functions] == [(0.3, 0.0), (0.25, 0.4)]


@pytest.mark.parametrize("shape", [(2, 4, 5, 6), (2, 4)])
@pytest.mark.parametrize("constant", [(), (1,), "C", "1C"])
@pytest.mark.parametrize("kind", ["Add", "Mul"])
@pytest.mark.parametrize("swap", [False, True])
def test_constants_per_channel_are_scales(shape, constant, kind, swap):
    net = Net(shape)
    ones = (1,) * (len(shape) - 2)
    sizes = {"C": (4, *ones), "1C": (1, 4, *ones)}
    value = np.random.default_rng(1).standard_normal(sizes.get(constant, constant))
    inputs = ("x", net.constant("k", value))
    block = whole(net.graph(net.op(kind, inputs[::-1] if swap else inputs, shape)))
    assert block.stages == (Scale("", (0,)),)


def test_batch_normalization_before_a_convolution():
    net = Net((2, 4, 5, 6))
    parts = [net.constant(f"p{i}", abs(net.rng.standard_normal(4)) + 0.5) for i in range(4)]
    y = net.relu(net.op("BatchNormalization", ("x", *parts), net.shape("x"), epsilon=1e-3))
    assert kinds(whole(net.graph(net.conv(y, 6)))) == ["Scale", "Activation", "Conv"]


@pytest.mark.parametrize("shape", [(2, 4, 5, 6), (2, 4)])
def test_normalization(shape):
    net = Net(shape)
    block = whole(net.graph(net.norm("x")))
    assert block.stages == (Norm("", (0,), 1e-5),)


def test_products_of_two_images_read_the_later_first():
    for swap in (False, True):
        net = Net((2, 4, 5, 6))
        y = net.relu("x")
        block = whole(net.graph(net.mul(*(("x", y) if swap else (y, "x")))))
        assert block.stages[-1] == Multiply("", (1, 0))


def test_products_that_broadcast_otherwise_have_no_stage():
    net = Net((2, 4, 5, 6))
    rows = net.op("ReduceMax", ("x",), (2, 4, 5, 1), axes=(3,))
    result = partition(net.graph(net.mul("x", rows, "mul")), ())
    assert result.reasons["mul"] == "Mul that broadcasts [2, 4, 5, 6] and [2, 4, 5, 1] has no stage"


def head(net: Net, x: str) -> str:
    """Means, a Flatten, and two fully connected layers."""
    n, channels = net.shape(x)[:2]
    pooled = net.op("GlobalAveragePool", (x,), (n, channels, 1, 1), "pool")
    flat = net.op("Flatten", (pooled,), (n, channels), "flatten", axis=1)
    weight, bias = net.constant("fc_w", np.eye(5, channels)), net.constant("fc_b", np.arange(5.0))
    return net.op("Gemm", (flat, weight, bias), (n, 5), "fc", transB=1)


def test_a_flatten_of_pixels_is_inside_a_block():
    net = Net((3, 4, 5, 6))
    graph = net.graph(head(net, net.relu("x")))
    block = whole(graph)
    assert [type(stage) for stage in block.stages] == [Activation, Pool, Conv]
    assert block.ops == tuple(op.name for op in graph.ops())
    result = partition(graph, (), cost=lambda _: 1.0)
    assert len(result.steps) == 1
    check_numbers(result)


@pytest.mark.parametrize("place", ["first", "last"])
def test_a_flatten_at_the_edge_of_a_block(place):
    net = Net((3, 4, 1, 1))
    if place == "last":
        y = net.op("Flatten", (net.conv("x", 4, 1),), (3, 4), axis=1)
    else:
        y = net.relu(net.op("Flatten", ("x",), (3, 4), axis=1))
    block = whole(net.graph(y))
    assert (block.tensors, len(block.stages), len(block.ops)) == (("x", y), 1, 2)


def test_a_flatten_alone_is_no_block():
    net = Net((3, 4, 1, 1))
    graph = net.graph(net.op("Flatten", ("x",), (3, 4), "flatten", axis=1))
    assert "nothing is computed here" in str(block_of(graph, graph.ops()))
    assert partition(graph, ()).reasons == {"flatten": "Flatten has no stage: runs by itself"}


def test_a_convolution_takes_a_flatten_behind_it_and_no_gate():
    net = Net((1, 4, 5, 5))
    y = net.squeeze_excite("x")
    result = partition(net.graph(y), ())
    blocks = [[type(stage) for stage in block.stages] for block in result.blocks]
    assert blocks == [[Pool], [Conv, Activation], [Conv, Activation], [Multiply]]
    check_numbers(result)


# ---- blocks that begin with normalization, and DarkNet ---------------------------------------------------------------
def normalized(net, x):
    channels = net.shape(x)[1]
    parts = [net.constant(f"p{i}", abs(net.rng.standard_normal(channels)) + 0.5) for i in range(4)]
    return net.relu(net.op("BatchNormalization", (x, *parts), net.shape(x), epsilon=1e-3))


def test_dense_layer():
    net = Net((2, 9, 7, 6))
    y = net.conv(net.relu(net.conv(normalized(net, "x"), 16, 1)), 5)
    assert kinds(found_whole(net.graph(y), "dense_layer")) == ["Scale", "Activation", "Conv", "Activation", "Conv"]


@pytest.mark.parametrize("stride", [0, 1, 2])
def test_preactivation_basic_block(stride):
    net = Net((2, 8, 7, 6))
    active = normalized(net, "x")
    y = net.conv(net.relu(net.conv(active, 8, 3, max(stride, 1))), 8)
    shortcut = net.conv(active, 8, 1, stride) if stride else "x"
    found_whole(net.graph(net.add(y, shortcut)), "preactivation_basic_block")


@pytest.mark.parametrize("size", [1, 3])
def test_darknet_block(size):
    net = Net((2, 8, 7, 6))
    y = net.unary("Swish", net.conv(net.unary("Swish", net.conv("x", 4, size)), 8))
    found_whole(net.graph(net.add("x", y)), "darknet_block")


def test_a_convolution_takes_what_only_it_reads_before_it():
    net = Net((2, 8, 7, 6))
    result = partition(net.graph(net.relu(net.conv(normalized(net, "x"), 4))), ())
    (block,) = result.steps
    assert kinds(block) == ["Scale", "Activation", "Conv", "Activation"]
    check_numbers(result)


def test_what_others_read_too_stays_before_a_convolution():
    net = Net((2, 8, 7, 6))
    active = normalized(net, "x")
    result = partition(net.graph(net.conv(active, 4), net.conv(active, 5)), ())
    assert [kinds(step) for step in result.steps if isinstance(step, Block)] == [
        ["Scale", "Activation"],
        ["Conv"],
        ["Conv"],
    ]
    check_numbers(result)
