"""Whole networks on the stand-in device, against ONNX Runtime."""

import numpy as np
import onnx
import pytest

import blockfuse as bf
from blockfuse.frontend import zoo
from blockfuse.verification.compare import compare, tolerance
from blockfuse.verification.depth import path_depths
from blockfuse.verification.verify import canonical_graph, reference_session, seeded_inputs
from tests.half_models import in_half
from tests.onnx_models import floats, model, node, run
from tests.open_batch import open_batch
from tests.standin import OnStandIn, run_network

# Two networks meet the policies, one and several images, recorded and plain launches; each further family and each
# further type occurs once. A type in parentheses is the model's own, which is not asked for.
CASES = [
    ("resnet18", "never", 1, 64, False, "sm_90", "(float32)"),
    ("resnet18", "auto", 1, 64, False, "sm_90", "(float16)"),
    ("mobilenet_v2", "always", 3, 57, True, "sm_90", "float16"),
    ("mobilenet_v2", "auto", 1, 64, False, "sm_90a", "float16"),
    ("resnet50", "auto", 1, 32, False, "sm_86", "float16"),
    ("efficientnet_b0", "auto", 1, 80, True, "sm_90", "float16"),
    ("convnext_tiny", "auto", 1, 32, False, "sm_90", "bfloat16"),
    ("convfirstnet", "auto", 1, 32, False, "sm_80", "float16"),
]
CALLS = 3


def network(name, batch, size):
    return getattr(zoo, name)(batch=batch, size=size, width=0.25, classes=10)


@pytest.mark.parametrize(("name", "fuse", "batch", "size", "graph", "target", "dtype"), CASES)
def test_networks_are_right(compile_to, name, fuse, batch, size, graph, target, dtype):
    model = network(name, batch, size)
    own = dtype.strip("()")
    if dtype == "(float16)":
        model = in_half(model)
    compiled = compile_to(model, target, fuse=fuse, cuda_graph=graph, dtype=None if own != dtype else dtype)
    device = OnStandIn(*compiled, target.split(",")[0].rstrip("a"))
    assert device.report().dtype == own
    assert bf.verify(model, executable=device).passed
    result = device.result
    assert not result.findings
    first, other, last = (outputs["output"] for outputs in result.outputs)
    np.testing.assert_array_equal(first, last)
    assert np.abs(first - other).max() > 0
    assert result.graph_launches == (CALLS - 1 if graph else 0)
    kernels = [sum(launch["call"] == call for launch in result.launches) for call in range(CALLS)]
    casts = 2 - sum(step.kind == "Cast" for step in device.report().steps)  # at both ends, whoever asked for them
    assert kernels == [device.report().kernel_count + casts] * CALLS


def test_one_network_runs_any_batch(compile_to):
    model = open_batch(network("mobilenet_v2", 1, 32))
    reference = reference_session(model, 1, optimised=False)
    executable, container = compile_to(model, fuse="always")
    calls = [seeded_inputs(executable.inputs_for(batch), batch) for batch in (1, 3, 2, 1)]
    result = run_network(container, calls)
    assert not result.error, result.log
    assert not result.findings
    for inputs, outputs in zip(calls, result.outputs, strict=True):
        expected = reference.run(["output"], inputs)[0]
        terms, ops = path_depths(canonical_graph(model, {"input": inputs["input"].shape}))["output"]
        assert compare(outputs["output"], expected, tolerance(terms, "float16", ops)).passed


def stem(batch, size, *, stride=2, taps=7, pads=(3, 3, 3, 3), channels=3):
    """A convolution with strides, Relu, and a pool."""
    weights = {"w": floats(24, channels, taps, taps, seed=1) / taps, "b": floats(24, seed=2)}
    nodes = [
        node("Conv", "x w b", "a", pads=pads, strides=[stride, stride]),
        node("Relu", "a", "r"),
        node("MaxPool", "r", "y", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    ]
    return onnx.shape_inference.infer_shapes(model(nodes, (batch, channels, *size), weights))


STEMS = {
    "odd sizes": ({}, (37, 45), "bfloat16", np.float32),
    "patches": ({"stride": 4, "taps": 4, "pads": (0, 0, 0, 0)}, (35, 30), "float16", np.float32),
    "zeros in front": ({"taps": 6, "pads": (1, 3, 0, 1), "channels": 2}, (33, 24), "float16", np.float32),
    "a model in half precision": ({"pads": (3, 2, 1, 0), "channels": 1}, (30, 29), None, np.float16),
}


@pytest.mark.parametrize("what", STEMS)
def test_a_stem_reads_squares_of_pixels(compile_to, what):
    """One kernel between those at the border, of which the first makes the squares."""
    form, size, dtype, own = STEMS[what]
    proto = stem(2, size, **form)
    proto = proto if own is np.float32 else in_half(proto)
    device = OnStandIn(*compile_to(proto, dtype=dtype, fuse="always", taps=True))
    report = device.report()
    (step,) = (step for step in report.steps if step.kernels)
    assert "reads squares of" in step.note
    assert report.kernel_count - sum(step.kind == "Cast" for step in report.steps) == 1
    assert bf.verify(proto, executable=device).passed
    assert not device.result.findings


def right_at_any_batch(container, make, shape, allowed):
    """One, three and two images, each compared with the network made for as many."""
    calls = [{"x": floats(batch, *shape, seed=batch)} for batch in (1, 3, 2)]
    result = run_network(container, calls)
    assert not result.error, result.log
    assert not result.findings
    for inputs, outputs in zip(calls, result.outputs, strict=True):
        expected = run(make(len(inputs["x"])), inputs)["y"]
        assert compare(outputs["y"], expected, allowed).passed
    return result


def test_squares_of_any_batch(compile_to):
    executable, container = compile_to(open_batch(stem(1, (37, 45))), fuse="always")
    assert executable.report().kernel_count == 1
    right_at_any_batch(container, lambda batch: stem(batch, (37, 45)), (3, 37, 45), tolerance(3 * 49, "float16", 3))


def gated_network(batch, height=37, width=34):
    """A depthwise convolution whose result is gated, and a projection of that added to the input."""
    weights = {"d": floats(40, 1, 3, 3, seed=1) / 3, "e": floats(40, 24, 1, 1, seed=2) / 5}
    weights |= {"r": floats(6, 40, 1, 1, seed=3), "s": floats(40, 6, 1, 1, seed=4), "p": floats(24, 40, 1, 1) / 6}
    nodes = [
        node("Conv", "x e", "a"),
        node("Relu", "a", "b"),
        node("Conv", "b d", "c", group=40, pads=[1, 1, 1, 1]),
        node("GlobalAveragePool", "c", "m"),
        node("Conv", "m r", "f"),
        node("Relu", "f", "g"),
        node("Conv", "g s", "h"),
        node("Sigmoid", "h", "i"),
        node("Mul", "c i", "j"),
        node("Conv", "j p", "k"),
        node("Add", "k x", "y"),
    ]
    return model(nodes, (batch, 24, height, width), weights)


def test_gates_of_any_batch_are_made_of_sums_of_tiles(compile_to):
    """The image that is gated passes through memory once, and its sums in float32 beside it."""
    executable, container = compile_to(open_batch(onnx.shape_inference.infer_shapes(gated_network(1))), fuse="always")
    assert executable.report().kernel_count == 2
    allowed = tolerance(24 + 9 + 40 + 6 + 40, "float16", 8)
    result = right_at_any_batch(container, gated_network, (24, 37, 34), allowed)
    parts = [launch["memory"].get("result_parts_ptr", 0) for launch in result.launches]
    one, three, two = filter(None, parts)
    assert 40 * 4 <= one < two < three


def test_every_block_is_right(compile_to):
    model = network("mobilenet_v2", 1, 64)
    device = OnStandIn(*compile_to(model, taps=True))
    found = bf.verify(model, executable=device, per_block=True)
    assert len(found.blocks) == len(device.report().blocks) == 17


def test_values_of_a_fused_block_have_no_memory(compile_to):
    """The hidden images are six times as large as those between blocks."""
    model = network("mobilenet_v2", 1, 64)
    largest = {}
    for fuse in ("always", "never"):
        _, container = compile_to(model, fuse=fuse)
        launches = run_network(container, [{"input": np.zeros((1, 3, 64, 64), np.float32)}]).launches
        largest[fuse] = max(launch["memory"].get("result_ptr", 0) for launch in launches)
    hidden = 2 * 32 * 32 * 48  # bytes of the widest image, in the second block
    assert largest["never"] >= hidden > largest["always"]
