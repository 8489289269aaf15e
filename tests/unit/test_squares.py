"""The first convolution over squares of pixels: the same numbers, fewer steps, and only where it applies."""

import numpy as np
import pytest

from blockfuse.frontend import canonicalize, read, to_onnx
from blockfuse.frontend.partition import partition
from blockfuse.frontend.squares import squared_inputs
from blockfuse.plan.device import GPUS
from blockfuse.plan.squares import squares_of
from blockfuse.steps import plan_steps
from blockfuse.verification.compare import compare, tolerance
from tests.half_models import in_half
from tests.onnx_models import floats, model, node, run


def drawn(seed):
    """The shape of an image, the filters, and the attributes of a convolution of it."""
    rng = np.random.default_rng(seed)
    taps = rng.integers(1, 9, 2)
    pads = [int(rng.integers(0, size)) for size in (*taps, *taps)]
    image = (int(rng.integers(1, 4)), int(rng.integers(1, 6)), *(int(size) for size in taps + rng.integers(0, 16, 2)))
    attrs = {"strides": [int(rng.choice([2, 3, 4]))] * 2, "pads": pads}
    return image, floats(5, image[1], *map(int, taps), seed=seed), attrs


def network(image, filters, attrs):
    return model([node("Conv", "x w", "y", "conv", **attrs)], image, {"w": filters})


def rewritten(proto, dtype="float16"):
    """The canonical graph and the one over squares, which is the same where nothing is rewritten."""
    graph = canonicalize(read(proto))
    return graph, squared_inputs(graph, dtype)


def only_conv(graph):
    (op,) = (op for op in graph.ops() if op.kind == "Conv")
    return op


def products(graph):
    """Steps of 16 channels that tensor cores take for a pixel of the only convolution."""
    _, channels, *taps = graph.tensor(only_conv(graph).inputs[1]).shape
    return -(-channels // 16) * np.prod(taps)


FEWER = [seed for seed in range(40) if len({*rewritten(network(*drawn(seed)))}) == 2]


def test_most_drawn_convolutions_take_fewer_steps():
    assert len(FEWER) > 20


@pytest.mark.parametrize("seed", FEWER)
def test_a_convolution_over_squares_is_the_same(seed):
    image, filters, attrs = drawn(seed)
    proto = network(image, filters, attrs)
    graph, squared = rewritten(proto)
    assert products(squared) < products(graph)
    x = {"x": floats(*image, seed=seed + 1)}
    expected, actual = (run(each, x)["y"] for each in (proto, to_onnx(squared)))
    assert compare(actual, expected, tolerance(filters[0].size, "float32", 1)).passed


@pytest.mark.parametrize("seed", FEWER)
def test_all_but_the_convolution_is_for_the_border(seed):
    _, squared = rewritten(network(*drawn(seed)))
    (squares,) = squares_of(squared)
    conv = only_conv(squared)
    assert (squares.source, squares.result) == ("x", conv.inputs[0])
    assert set(squares.ops) == {op.name for op in squared.ops()} - {conv.name}
    assert (conv.name, conv.output, conv.origin) == ("conv", "y", ("conv",))


@pytest.mark.parametrize(
    ("taps", "stride", "pad", "size", "squares", "pads", "ops"),
    [
        (7, 2, 3, 224, 4, (2, 2, 1, 1), 1),
        (3, 2, 1, 224, 2, (1, 1, 0, 0), 1),
        (4, 4, 0, 224, 1, (0, 0, 0, 0), 1),
        (11, 4, 2, 224, 3, (0, 0, 0, 0), 2),
        (4, 2, 1, 32, 2, (0, 0, 0, 0), 2),  # a row of zeros in front saves a tap
        (7, 2, 3, 33, 4, (2, 2, 1, 1), 2),  # a row of zeros behind completes the last squares
    ],
)
def test_windows_over_squares(taps, stride, pad, size, squares, pads, ops):
    attrs = {"strides": [stride] * 2, "pads": [pad] * 4}
    _, graph = rewritten(network((2, 3, size, size), floats(8, 3, taps, taps), attrs))
    window = only_conv(graph).attrs
    assert window["kernel_shape"] == (squares, squares)
    assert (window["strides"], window["pads"]) == ((1, 1), pads)
    assert graph.op_count == ops + 1


CONV = node("Conv", "x w", "y", strides=[2, 2])
SMALL = {"w": floats(8, 3, 5, 5)}
UNCHANGED = {
    "other strides": ([node("Conv", "x w", "y", strides=[2, 1])], SMALL),
    "no stride": ([node("Conv", "x w", "y")], SMALL),
    "dilation": ([node("Conv", "x w", "y", strides=[2, 2], dilations=[2, 2])], SMALL),
    "groups": ([node("Conv", "x w", "y", strides=[2, 2], group=3)], {"w": floats(6, 1, 5, 5)}),
    "large squares": ([node("Conv", "x w", "y", strides=[64, 64], pads=[26] * 4)], {"w": floats(8, 3, 64, 64)}),
    "no fewer steps": ([CONV], {"w": floats(8, 3, 1, 1)}),
    "another reader": ([node("Conv", "x w", "c", strides=[2, 2]), node("Conv", "x w", "y")], SMALL),
    "no input": ([node("Sin", "x", "s"), node("Conv", "s w", "y", strides=[2, 2])], SMALL),
}


@pytest.mark.parametrize("what", UNCHANGED)
def test_other_convolutions_stay(what):
    nodes, constants = UNCHANGED[what]
    outputs = [name for name in ("y", "c") if any(name in each.output for each in nodes)]
    graph, squared = rewritten(model(nodes, (1, 3, 12, 12), constants, outputs=outputs))
    assert squared is graph


def test_kernels_in_single_precision_have_no_steps_to_save():
    graph, squared = rewritten(model([CONV], (1, 3, 12, 12), SMALL), "float32")
    assert squared is graph


def test_an_input_in_half_precision_is_converted_to_squares():
    graph, squared = rewritten(in_half(model([CONV], (1, 3, 12, 12), SMALL)))
    (squares,) = squares_of(squared)
    cast = squared.producer(squares.source)
    assert cast.kind == "Cast"
    assert cast.inputs == ("x",)
    assert graph.op_count + 1 == squared.op_count


# ---- SpaceToDepth in models ------------------------------------------------------------------------------------------
def padded(pads, mode="constant", value=0.0):
    """Squares of a Pad of the input."""
    nodes = [node("Pad", "x pads value", "p", mode=mode), node("SpaceToDepth", "p", "y", blocksize=2)]
    constants = {"pads": np.array(pads), "value": np.array(value, np.float32)}
    return canonicalize(read(model(nodes, (1, 3, 8, 8), constants)))


def test_zeros_around_an_image_are_part_of_the_squares():
    (squares,) = squares_of(padded([0, 0, 1, 3, 0, 0, 1, -1]))
    assert (squares.size, squares.top, squares.left, len(squares.ops)) == (2, 1, 3, 2)


@pytest.mark.parametrize(
    ("pads", "mode", "value"),
    [
        ([0, 0, 1, 1, 0, 0, 1, 1], "reflect", 0.0),
        ([0, 0, 1, 1, 0, 0, 1, 1], "constant", 1.0),
        ([0, 0, -1, 0, 0, 0, 1, 0], "constant", 0.0),
        ([0, 1, 0, 0, 0, 0, 0, 0], "constant", 0.0),
        ([0, 0, 0, 0, 0, 1, 0, 0], "constant", 0.0),
    ],
)
def test_other_pads_run_by_themselves(pads, mode, value):
    assert squares_of(padded(pads, mode, value)) == ()


def test_a_gpu_has_no_step_for_squares_of_an_input():
    _, squared = rewritten(network((1, 3, 33, 33), floats(8, 3, 7, 7), {"strides": [2, 2]}))
    planned = plan_steps(partition(squared, ()), GPUS["sm_90"], "auto", "float16")
    assert "squares of 2x2 pixels of 'x' as channels: written where the input is converted" in str(planned)
    assert len(planned.steps) == 1
