"""Partitions: what is found, why the rest is not, and that running the steps gives the model's result."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest

from blockfuse.block import Block
from blockfuse.frontend import canonicalize, patterns, to_onnx, zoo
from blockfuse.frontend.partition import NoBlock, Partition, block_of, partition
from blockfuse.frontend.reading import read
from blockfuse.graph import Graph, Op, Tensor
from blockfuse.pattern import pattern
from blockfuse.stages import Activation, Add, Conv, Depthwise, Pool
from tests.concat_networks import concat, split
from tests.small_graphs import (
    Net,
    basic_block,
    random_graph,
    random_inputs,
    run_partition,
    run_with_onnxruntime,
)


@pattern
def conv_relu(op, x, w):
    return op.Relu(op.Conv(x, w))


@pattern
def conv_relu_conv(op, x, w1, w2):
    return op.Conv(op.Relu(op.Conv(x, w1)), w2)


def work(block: Block) -> float:
    """A cost: operations, and bytes of all inputs and outputs weighed so that fusing pays."""
    return block.operations + 100.0 * (sum(shape.elements for shape in block.inputs) + block.output.elements)


def check_complete(result: Partition) -> None:
    """Every op is in exactly one step, steps follow the ones they read, and every op outside has a reason."""
    names = [name for step in result.steps for name in (step.ops if isinstance(step, Block) else [step.name])]
    assert sorted(names) == sorted(op.name for op in result.graph.ops())
    known = set(result.graph.inputs)
    outside = []
    for step in result.steps:
        reads = step.tensors[:-1] if isinstance(step, Block) else step.inputs
        assert all(name in known or result.graph.tensor(name).is_constant for name in reads if name)
        known.update([step.tensors[-1]] if isinstance(step, Block) else step.outputs)
        outside += [] if isinstance(step, Block) and len(step.ops) > 1 else [names_of(step)[0]]
    assert sorted(result.reasons) == sorted(outside)
    assert len({block.name for block in result.blocks}) == len(result.blocks)


def names_of(step: Block | Op) -> tuple[str, ...]:
    return step.ops if isinstance(step, Block) else (step.name,)


def check_numbers(result: Partition, model: object = None) -> None:
    inputs = random_inputs(result.graph)
    expected = run_with_onnxruntime(model or to_onnx(result.graph), inputs)
    actual, tolerance = run_partition(result, inputs)
    for name, array in expected.items():
        np.testing.assert_allclose(actual[name], array, rtol=0, atol=tolerance)


# ---- known architectures ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("batch", [1, 3])
def test_resnet18(batch):
    model = zoo.resnet18(batch=batch, size=64, width=0.25, classes=10)
    result = partition(canonicalize(read(model)), patterns.all())
    assert [found.pattern for found in result.found] == ["basic_block"] * 8
    assert sum("projection" in found.named for found in result.found) == 3
    assert all(block.batch == batch for block in result.blocks)
    check_complete(result)
    check_numbers(result, model)


@pytest.mark.parametrize("batch", [1, 3])
def test_mobilenet_v2(batch):
    model = zoo.mobilenet_v2(batch=batch, size=64, width=0.25, classes=10)
    result = partition(canonicalize(read(model)), patterns.all())
    assert [found.pattern for found in result.found] == ["inverted_residual"] * 17
    assert sum("add" in found.named for found in result.found) == sum(op.kind == "Add" for op in result.graph.ops())
    assert sum("expand" in found.named for found in result.found) == 16
    check_complete(result)
    check_numbers(result, model)


def joins(block: Block) -> bool:
    """Whether a stage reads several values."""
    return any(len(stage.inputs) > 1 for stage in block.stages)


def test_mobilenet_v2_at_full_width():
    result = partition(canonicalize(read(zoo.mobilenet_v2(size=32))), patterns.all())
    assert sum(joins(block) for block in result.blocks) == 10
    assert len(result.found) == 17


FOUND = {
    zoo.resnet50: {"bottleneck": 16},
    zoo.efficientnet_b0: {"inverted_residual": 16},
    zoo.convnext_tiny: {"convnext_block": 18},
    zoo.convfirstnet: {"convfirst_block": 8, "inverted_residual": 9},
}


@pytest.mark.parametrize("make", FOUND)
def test_every_block_of_the_zoo_is_found(make):
    model = make(size=32, width=0.125, classes=10)
    result = partition(canonicalize(read(model)), patterns.all())
    assert Counter(found.pattern for found in result.found) == FOUND[make]
    inside = {name for found in result.found for name in found.ops}
    assert inside >= {op.name for op in result.graph.ops() if op.kind in {"Add", "Mul"}}
    assert not result.overlaps
    check_complete(result)
    check_numbers(result, model)


@pytest.mark.parametrize("make", [zoo.resnet18, zoo.mobilenet_v2, *FOUND])
@pytest.mark.parametrize("cost", [None, work])
def test_without_patterns(make, cost):
    model = make(size=32, width=0.125, classes=10)
    result = partition(canonicalize(read(model)), (), cost=cost)
    assert not result.found
    assert all(joins(block) for block in result.blocks if len(block.inputs) > 1)
    check_complete(result)
    check_numbers(result, model)


def test_segments_find_the_residual_blocks_of_resnet18():
    model = zoo.resnet18(size=64, width=0.25, classes=10)
    result = partition(canonicalize(read(model)), (), cost=work, max_stages=6)
    residual = [block for block in result.blocks if any(isinstance(stage, Add) for stage in block.stages)]
    assert len(residual) == 8
    assert all(len(block.inputs) == 1 for block in residual)


@pytest.mark.parametrize(("stride", "project"), [(1, False), (1, True), (2, True)])
def test_bottleneck(stride, project):
    net = Net((3, 16, 7, 6))
    y = net.relu(net.conv("x", 4, 1))
    y = net.relu(net.conv(y, 4, 3, stride))
    y = net.conv(y, 16, 1)
    shortcut = net.conv("x", 16, 1, stride) if project else "x"
    result = partition(net.graph(net.relu(net.add(shortcut, y))), patterns.all())
    assert [(found.pattern, "projection" in found.named) for found in result.found] == [("bottleneck", project)]
    assert len(result.steps) == 1
    check_numbers(result)


def test_depthwise_separable():
    net = Net()
    y = net.relu(net.conv(net.clip(net.depthwise("x", 5, 2)), 12, 1))
    result = partition(net.graph(y), patterns.all())
    assert [found.pattern for found in result.found] == ["depthwise_separable"]
    assert len(result.steps) == 1
    check_numbers(result)


# ---- random graphs ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("seed", range(40))
def test_random_graphs(seed):
    graph = random_graph(seed)
    for names, cost in itertools.product(((), (*patterns.all(), conv_relu_conv, conv_relu)), (None, work)):
        result = partition(graph, names, cost=cost)
        check_complete(result)
        check_numbers(result)


# ---- choices ---------------------------------------------------------------------------------------------------------
def test_the_given_order_decides_first():
    net = Net()
    graph = net.graph(basic_block(net, "x"))
    assert [found.pattern for found in partition(graph, [patterns.basic_block, conv_relu]).found] == ["basic_block"]
    result = partition(graph, [conv_relu, patterns.basic_block])
    assert [found.pattern for found in result.found] == ["conv_relu"]
    (overlap,) = result.overlaps
    assert (overlap.kept, overlap.dropped, overlap.ops) == ("conv_relu", "basic_block", ("conv1", "relu1"))
    assert "overlap: basic_block gives way to conv_relu" in str(result)


def test_then_most_operators():
    net = Net()
    y = net.conv(net.relu(net.conv("x", 8, name="a"), "r"), 8, name="b")
    graph = net.graph(net.conv(net.relu(net.conv(net.relu(y), 8)), 8))
    longest = pattern(lambda op, x, w1, w2, w3: op.Conv(op.Relu(conv_relu_conv(op, x, w1, w2)), w3))
    result = partition(graph, [longest, conv_relu_conv])
    assert [len(found.ops) for found in result.found] == [5]
    assert {overlap.dropped for overlap in result.overlaps} == {"<lambda>", "conv_relu_conv"}


def test_a_pattern_without_its_optional_step_is_no_overlap():
    net = Net()
    assert partition(net.graph(basic_block(net, "x")), [patterns.basic_block]).overlaps == ()


def test_the_last_convolution_takes_the_residual_add():
    net = Net()
    result = partition(net.graph(basic_block(net, "x", 2, project=True)), ())
    assert [block.ops for block in result.blocks] == [("conv1", "relu1"), ("conv2",), ("down", "add", "relu2")]
    assert result.blocks[-1].tensors == ("x", "conv2_out", "relu2_out")
    assert result.reasons == {"conv2": "single conv: no pattern takes it, and it is followed by Add 'add'"}


def test_a_value_read_twice_is_not_swallowed():
    net = Net()
    y = net.conv("x", 8, name="conv")
    result = partition(net.graph(net.relu(y, "a"), net.clip(y, name="b")), ())
    assert [block.ops for block in result.blocks] == [("conv",), ("a",), ("b",)]
    assert result.reasons["conv"].endswith("its result is read by 2 operators")
    assert result.reasons["a"] == "elementwise Relu: no convolution directly before it can take it"


def test_an_output_of_the_model_is_not_swallowed():
    net = Net()
    y = net.conv("x", 8, name="conv")
    result = partition(net.graph(y, net.relu(y, "relu")), (), cost=work)
    assert [block.ops for block in result.blocks] == [("conv",), ("relu",)]
    assert result.reasons["conv"].endswith("its result is an output of the model")


@pytest.mark.parametrize("is_output", [False, True])
def test_what_comes_before_a_value_read_twice_is_fused(is_output):
    net = Net()
    y = net.relu(net.conv("x", 8, name="conv"), "relu")
    readers = [net.clip(y, name="a")] if is_output else [net.clip(y, name="a"), net.clip(y, name="b")]
    result = partition(net.graph(*readers, *([y] if is_output else [])), ())
    assert result.blocks[0].ops == ("conv", "relu")
    assert {len(block.ops) for block in result.blocks[1:]} == {1}


def test_a_pool_takes_nothing():
    net = Net()
    result = partition(net.graph(net.relu(net.pool("x", name="pool"), "relu")), ())
    assert [block.ops for block in result.blocks] == [("pool",), ("relu",)]
    assert sorted(result.reasons) == ["pool", "relu"]


def test_segments_go_on_behind_an_output_in_the_middle():
    net = Net()
    middle = basic_block(net, "x", tag="a.")
    end = basic_block(net, basic_block(net, middle, tag="b."), tag="c.")
    result = partition(net.graph(middle, end), (), cost=work, max_stages=6)
    assert [len(block.stages) for block in result.blocks] == [5, 5, 5]


def test_branches_between_two_cuts_are_fused_one_by_one():
    """As in Inception: nothing but the concatenation joins them, and that is no stage."""
    net = Net()
    first = net.relu(net.conv(net.relu(net.conv("x", 8, 1)), 6))
    second = net.relu(net.conv(net.relu(net.conv(net.relu(net.conv("x", 4, 1)), 8)), 8))
    joined = concat(net, first, net.relu(net.conv("x", 8, 1)), second)
    result = partition(net.graph(net.relu(net.conv(joined, 8))), (), cost=lambda _: 1.0)
    convs = [sum(isinstance(stage, Conv) for stage in block.stages) for block in result.blocks]
    assert sorted(convs) == [1, 1, 2, 3]
    check_complete(result)
    check_numbers(result)


def test_branches_behind_a_split_are_fused_one_by_one():
    net = Net()
    parts = split(net, net.conv("x", 8), 3)
    joined = concat(net, *(net.relu(net.conv(net.relu(net.conv(part, 4)), 4)) for part in parts))
    result = partition(net.graph(joined), (), cost=lambda _: 1.0)
    assert sorted(len(block.ops) for block in result.blocks) == [1, 4, 4]
    check_complete(result)


def test_elementwise_operators_that_follow_each_other_are_a_block():
    net = Net()
    pool = net.pool("x")
    y = net.clip(net.relu(net.add(pool, net.pool("x"))))
    result = partition(net.graph(y, net.conv(pool, 3)), ())
    assert sorted(len(block.ops) for block in result.blocks) == [1, 1, 1, 3]
    check_complete(result)
    check_numbers(result)


def test_the_nearest_pattern_says_where_it_differs():
    net = Net()
    y = net.conv(net.relu(net.conv("x", 4, 1)), 8, 3, name="conv2")
    result = partition(net.graph(net.unary("Softplus", net.add(y, "x", "add"))), patterns.all())
    texts = [result.nearest_to(block) for block in result.blocks]
    assert texts[0].startswith(
        "nearest is basic_block, 4 operators alike: at Conv 'conv0', Conv 'conv0' has kernel_shape (1, 1)"
    )
    named = partition(net.graph(net.relu(net.conv(net.relu(net.conv("x", 4, 1)), 8))), [conv_relu])
    assert named.nearest_to(named.blocks[0]) == ""


def test_the_nearest_pattern_to_an_operator_without_a_stage():
    net = Net()
    y = net.conv(net.relu(net.conv("x", 8)), 8)
    y = net.op("LRN", (y,), net.shape(y), "lrn", size=3)
    result = partition(net.graph(net.relu(net.add(y, "x"))), patterns.all())
    (alone,) = (step for step in result.steps if isinstance(step, Op))
    text = result.nearest_to(alone)
    assert text.startswith("nearest is")
    assert "at LRN 'lrn', found LRN 'lrn'; the pattern wants" in text


def test_found_is_in_the_order_of_the_steps():
    net = Net()
    y = basic_block(net, net.relu(net.conv("x", 8)), tag="block.")
    result = partition(net.graph(net.relu(net.conv(y, 8))), [patterns.basic_block, conv_relu])
    assert [found.pattern for found in result.found] == ["conv_relu", "basic_block", "conv_relu"]
    assert [block.name for block in result.blocks] == ["conv_relu_0", "basic_block_0", "conv_relu_1"]
    assert [found.block for found in result.found] == list(result.blocks)


def test_the_limit_on_stages_holds():
    net = Net()
    y = "x"
    for _ in range(6):
        y = net.relu(net.conv(y, 8))
    graph = net.graph(y)
    assert [len(block.stages) for block in partition(graph, (), cost=work).blocks] == [12]
    assert [len(block.stages) for block in partition(graph, (), cost=work, max_stages=4).blocks] == [4, 4, 4]
    assert [len(block.stages) for block in partition(graph, (), max_stages=1).blocks] == [1] * 12


def test_a_block_without_a_plan_is_not_chosen():
    net = Net()
    graph = net.graph(basic_block(net, "x"))
    result = partition(graph, (), cost=lambda block: None if len(block.stages) > 2 else work(block))
    assert [len(block.stages) for block in result.blocks] == [2, 2, 1]
    assert sorted(result.reasons) == ["relu2"]


def test_a_branch_longer_than_the_limit_is_cut():
    net = Net()
    result = partition(net.graph(basic_block(net, "x")), (), cost=lambda _: 1.0, max_stages=3)
    assert [len(block.stages) for block in result.blocks] == [2, 3]


def test_without_any_plan_every_convolution_stays_single():
    net = Net()
    graph = net.graph(basic_block(net, "x"))
    steps = [step.ops for step in partition(graph, (), cost=lambda _: None).blocks]
    assert (
        steps == [step.ops for step in partition(graph, ()).blocks] == [("conv1", "relu1"), ("conv2", "add", "relu2")]
    )


def test_an_elementwise_op_left_alone_has_its_price():
    net = Net()

    def cost(block: Block) -> float:
        return 3.0 if isinstance(block.stages[0], Activation) else 1.0

    result = partition(net.graph(basic_block(net, "x")), (), cost=cost, max_stages=4)
    assert [len(block.stages) for block in result.blocks] == [2, 3]


def test_dearer_blocks_are_not_chosen():
    net = Net()
    graph = net.graph(basic_block(net, "x"))
    result = partition(graph, (), cost=lambda block: float(len(block.stages) ** 3))
    assert max(len(block.stages) for block in result.blocks) < 5


# ---- operators -------------------------------------------------------------------------------------------------------
def one_op(
    kind: str, shape: tuple[int, ...], output: tuple[int, ...], *constants: np.ndarray, **attrs: object
) -> Graph:
    net = Net(shape)
    names = [net.constant(f"c{number}", value) for number, value in enumerate(constants)]
    return net.graph(net.op(kind, ("x", *names), output, "op", **attrs))


WINDOW = {"kernel_shape": (3, 3), "strides": (2, 2), "pads": (0, 0, 0, 0), "dilations": (1, 1)}
UNEVEN = {"kernel_shape": (1, 3), "strides": (2, 1), "pads": (0, 1, 0, 2), "dilations": (1, 2)}
PLAIN = np.random.default_rng(0).standard_normal((2, 4, 1, 3))
GROUPED = {**WINDOW, "strides": (1, 1), "pads": (1, 1, 1, 1)}


@pytest.mark.parametrize(
    ("graph", "reason"),
    [
        (one_op("Softmax", (1, 4), (1, 4)), "Softmax has no stage: runs by itself"),
        (one_op("MaxPool", (1, 4, 6, 6), (1, 4, 3, 3), **WINDOW, ceil_mode=1), "MaxPool with ceil_mode whose last"),
        (one_op("MaxPool", (1, 4, 6), (1, 4, 2), **WINDOW, ceil_mode=0), "'x' of shape [1, 4, 6], which is no image"),
        (
            one_op("AveragePool", (1, 4, 6, 6), (1, 4, 3, 3), **{**WINDOW, "pads": (1,) * 4}, count_include_pad=1),
            "AveragePool that counts the padding",
        ),
        (
            one_op("Conv", (1, 4, 6), (1, 4, 6), np.ones((4, 4, 1)), group=1),
            "'x' of shape [1, 4, 6], which is no image",
        ),
        (one_op("Add", (1, 4, 6, 6), (1, 4, 6, 6), np.ones((1, 4, 6, 6))), "Add of a constant that differs between"),
        (one_op("Mul", (1, 4, 6, 6), (1, 4, 6, 6), np.ones((6, 6))), "Mul by a constant that differs between"),
        (one_op("Conv", (1, 1, 6, 6), (1, 1, 9, 6), np.ones((1, 1, 3, 3)), **GROUPED, group=1), "makes 9x6x1 in the"),
        (
            one_op("MaxPool", (1, 4, 6, 6), (1, 4, 3, 6), **{**WINDOW, "pads": (0, 3, 0, 3)}, ceil_mode=0),
            "windows of padding alone",
        ),
        (
            one_op("MaxPool", (1, 4, 6, 6), (1, 4, 6, 3), **{**WINDOW, "pads": (3, 0, 3, 0)}, ceil_mode=0),
            "windows of padding alone",
        ),
        (one_op("Clip", (1, 4, 6, 6), (1, 4, 6, 6), min=0.5, max=np.inf), "both bounds must be finite"),
        (one_op("Gemm", (1, 4), (1, 4), np.ones((4, 4)), np.ones((1, 4))), "bias of shape [1, 4]"),
    ],
)
def test_what_has_no_stage_runs_by_itself(graph, reason):
    result = partition(graph, patterns.all())
    assert result.steps == (graph.op("op"),)
    assert reason in result.reasons["op"]


@pytest.mark.parametrize(
    ("graph", "kind"),
    [
        (one_op("MaxPool", (1, 4, 7, 7), (1, 4, 4, 6), **UNEVEN, ceil_mode=0), Pool),
        (one_op("Conv", (1, 4, 7, 7), (1, 2, 4, 6), PLAIN, **UNEVEN, group=1), Conv),
        (one_op("GlobalAveragePool", (3, 4, 5, 7), (3, 4, 1, 1)), Pool),
        (one_op("MaxPool", (3, 4, 7, 7), (3, 4, 3, 3), **WINDOW, ceil_mode=0), Pool),
        (one_op("MaxPool", (1, 4, 7, 7), (1, 4, 3, 3), **WINDOW, ceil_mode=1), Pool),
        (one_op("AveragePool", (1, 4, 7, 7), (1, 4, 4, 4), **{**WINDOW, "pads": (1,) * 4}, count_include_pad=0), Pool),
        (one_op("Gemm", (3, 4), (3, 5), np.arange(20.0).reshape(5, 4), np.arange(5.0), transB=1), Conv),
        (one_op("Conv", (3, 4, 6, 6), (3, 4, 6, 6), np.ones((4, 1, 3, 3)), **GROUPED, group=4), Depthwise),
        (one_op("Conv", (3, 1, 6, 6), (3, 1, 6, 6), np.ones((1, 1, 3, 3)), **GROUPED, group=1), Conv),
    ],
)
def test_one_stage_blocks(graph, kind):
    result = partition(graph, patterns.all())
    (block,) = result.blocks
    assert isinstance(block.stages[0], kind)
    assert block.batch == graph.tensor("x").shape[0]
    check_numbers(result)


def test_a_pool_that_returns_indices_runs_by_itself():
    net = Net()
    y = net.pool("x", name="pool")
    net.tensors["indices"] = Tensor("indices", net.shape(y), "int64")
    op = net.ops.pop()
    net.ops.append(Op(op.kind, op.name, op.inputs, (y, "indices"), op.attrs))
    result = partition(net.graph(y, "indices"), ())
    assert result.reasons == {"pool": "MaxPool with more than one result has no stage"}


def test_operators_that_do_not_lead_to_the_last_are_refused():
    net = Net()
    net.conv("x", 8, name="a")
    net.conv("x", 8, name="b")
    graph = Graph("net", ["x"], ["b_out"], net.tensors.values(), net.ops)
    assert "is read by nobody" in str(block_of(graph, [graph.op("a"), graph.op("b")]))


def test_parameters_come_from_the_graph():
    net = Net()
    net.graph(net.conv("x", 4, name="conv"))
    graph = net.graph("conv_out")
    block = block_of(graph, [graph.op("conv")])
    assert isinstance(block, Block)
    np.testing.assert_array_equal(block.parameters[0, "weight"], graph.constant("conv_w"))
    np.testing.assert_array_equal(block.parameters[0, "bias"], graph.constant("conv_b"))


def test_the_order_of_an_add_does_not_change_the_block():
    nets = [Net(seed=1), Net(seed=1)]
    graphs = [net.graph(basic_block(net, "x", swap=swap)) for net, swap in zip(nets, (False, True), strict=True)]
    plain, swapped = (partition(graph, [patterns.basic_block]).blocks[0] for graph in graphs)
    assert plain == swapped


def test_a_block_of_several_types_is_refused():
    net = Net()
    y = net.conv("x", 8, name="conv")
    net.tensors[y] = Tensor(y, net.shape(y), "float16")
    graph = net.graph(net.relu(y, "relu"))
    block = block_of(graph, [graph.op("conv"), graph.op("relu")])
    assert isinstance(block, NoBlock)
    assert "differ in batch size or type" in str(block)


def test_a_match_that_cannot_become_a_block_says_why():
    net = Net()
    y = net.clip(net.conv("x", 8, name="conv"), 0.5, np.inf, name="clip")
    result = partition(net.graph(y), [pattern(lambda op, x, w: op.Clip(op.Conv(x, w)))])
    assert result.found == ()
    assert result.reasons["clip"].startswith("<lambda> matches here, but Clip 'clip': Clip to 0.5 ... inf has no stage")
