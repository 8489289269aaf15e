"""Tolerances, comparisons, and what verification says when a result is wrong."""

import json
import math
import sys

import numpy as np
import pytest
from onnx import helper, numpy_helper

import blockfuse
from blockfuse.errors import BlockfuseError, UsageError, VerificationError
from blockfuse.frontend import canonicalize, with_outputs
from blockfuse.frontend.reading import read
from blockfuse.report import KernelRecord, Report, StepRecord
from blockfuse.runtime.library import Port
from blockfuse.verification.depth import path_depths
from blockfuse.verification.verify import compare, reference_session, seeded_inputs, tolerance, verify
from tests import onnx_models


# ---- tolerance -------------------------------------------------------------------------------------------------------
def test_tolerance_grows_with_the_root_of_the_depth():
    assert tolerance(40_000) == pytest.approx(2 * tolerance(10_000), rel=0.01)
    assert tolerance(10_000) > tolerance(9_999) > tolerance(1) > 0


def test_whole_networks_stay_below_1e_4():
    assert 1e-5 < tolerance(31_000, stages=50) < 5e-5  # ResNet-18
    assert tolerance(250_000, stages=500) < 1e-4  # deeper than ResNet-152


def test_rounding_between_stages_decides_for_float16():
    eps = float(np.finfo(np.float16).eps)
    assert eps / 2 < tolerance(576, "float16") < 2 * eps
    assert tolerance(576, "float16", stages=4) == pytest.approx(2 * tolerance(576, "float16"), rel=0.05)
    assert tolerance(576, "bfloat16") > 5 * tolerance(576, "float16")
    assert tolerance(576, "float64") < 1e-6 * tolerance(576, "float32")


@pytest.mark.parametrize("depth", [9, 147, 4608, 20_000])
@pytest.mark.parametrize("seed", range(3))
def test_rounding_errors_are_allowed_with_a_margin_that_means_something(depth, seed):
    """Products added up one after the other: the order with the largest errors that a kernel might use."""
    rng = np.random.default_rng(seed)
    x, w = (rng.standard_normal((depth, 256)).astype(np.float32) for _ in range(2))
    x = np.maximum(x, 0)  # as after a Relu
    total = np.zeros(256, np.float32)
    for i in range(depth):
        total += x[i] * w[i]
    found = compare(total, (x.astype(np.float64) * w).sum(0), tolerance(depth))
    assert found.passed
    assert found.max_rel > tolerance(depth) / 50


@pytest.mark.parametrize("stages", [1, 8, 30])
def test_rounding_of_stages_to_float16_is_allowed(stages):
    rng = np.random.default_rng(stages)
    exact = rng.standard_normal(128)
    rounded = exact.astype(np.float16)
    for _ in range(stages):
        weight = np.linalg.qr(rng.standard_normal((128, 128)))[0]
        exact = weight @ exact
        rounded = (weight @ rounded.astype(np.float64)).astype(np.float16)
    assert compare(rounded, exact, tolerance(128 * stages, "float16", stages)).passed
    assert not compare(rounded, exact, tolerance(128 * stages)).passed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((1, "int8"), "no tolerance for 'int8'"), ((0,), "at least 1, not 0 and 1"), ((3, "float32", 0), "not 3 and 0")],
)
def test_tolerance_refuses_what_makes_no_sense(arguments, message):
    with pytest.raises(UsageError, match=message):
        tolerance(*arguments)


# ---- compare ---------------------------------------------------------------------------------------------------------
def test_comparison_of_two_small_arrays():
    expected = np.array([[1.0, -4.0], [2.0, 0.0]], np.float32)
    actual = np.array([[1.0, -4.0], [2.5, 0.25]], np.float32)
    found = compare(actual, expected, 0.1)
    assert (found.max_abs, found.max_rel, found.p99) == (0.5, 0.125, 0.5)
    assert (found.worst, found.actual, found.expected) == ((1, 0), 2.5, 2.0)
    assert found.cosine == pytest.approx(22 / (np.sqrt(1 + 16 + 6.25 + 0.0625) * np.sqrt(21)))
    assert not found.passed
    assert compare(actual, expected, 0.125).passed


def test_p99_leaves_out_one_percent():
    expected = np.ones(1000)
    actual = expected.copy()
    actual[:10] += 1
    assert compare(actual, expected, 1).p99 == 0
    actual[10] += 1
    assert compare(actual, expected, 1).p99 == 1


@pytest.mark.parametrize(("value", "counts"), [(np.nan, (1, 0)), (np.inf, (0, 1)), (-np.inf, (0, 1))])
def test_one_element_that_is_not_finite_fails(value, counts):
    expected = np.ones((2, 3, 4), np.float32)
    actual = expected.copy()
    actual[1, 2, 3] = value
    found = compare(actual, expected, 1e9)
    assert (found.nan, found.inf) == counts
    assert found.worst == (1, 2, 3)
    assert not found.passed
    assert not compare(expected, actual, 1e9).passed  # nor does a reference like that vouch for anything
    assert not compare(actual, actual, 1e9).passed
    document = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert document["max_rel"] is None
    assert document["passed"] is False
    assert "infinite of 24 elements; worst at [1, 2, 3]" in str(found)
    assert f"{value:g}, and the reference is no finite number: {value:g}" in str(compare(actual, actual, 1e9))


def test_zeros_are_equal_to_zeros_only():
    zeros = np.zeros(4, np.float32)
    same = compare(zeros, zeros, 1e-6)
    assert (same.max_rel, same.cosine, same.passed) == (0, 1, True)
    assert not compare(np.full(4, 1e-30), zeros, 1e-6).passed


@pytest.mark.parametrize("shapes", [((2, 3), (3, 2)), ((6,), (2, 3)), ((0,), (0,))])
def test_shapes_that_differ_are_not_compared(shapes):
    with pytest.raises(UsageError, match="cannot be compared"):
        compare(np.zeros(shapes[0]), np.zeros(shapes[1]), 1)


# ---- depths ----------------------------------------------------------------------------------------------------------
def model(channels=8, size=6, *, with_norm=False):
    """Two residual blocks; with ``with_norm`` as exporters write them: batch normalisation, Identity, Dropout."""
    rng = np.random.default_rng(0)
    nodes, weights = [], []

    def constant(name, value):
        weights.append(numpy_helper.from_array(value.astype(np.float32), name))
        return name

    def conv(x, name, kernel=3):
        weight = constant(
            f"{name}.w", rng.standard_normal((channels, channels, kernel, kernel)) / (channels * 9) ** 0.5
        )
        bias = constant(f"{name}.b", rng.standard_normal(channels) / 10)
        nodes.append(helper.make_node("Conv", [x, weight, bias], [name], name, pads=[kernel // 2] * 4))
        if not with_norm:
            return name
        names = [constant(f"{name}.{i}", 1 + abs(rng.standard_normal(channels))) for i in range(4)]
        nodes.append(helper.make_node("BatchNormalization", [name, *names], [f"{name}.norm"], f"{name}.norm"))
        nodes.append(helper.make_node("Identity", [f"{name}.norm"], [f"{name}.same"], f"{name}.same"))
        return f"{name}.same"

    def op(kind, inputs, name):
        nodes.append(helper.make_node(kind, inputs, [name], name))
        return name

    x = "x"
    for block in "ab":
        y = op("Relu", [conv(x, f"{block}1")], f"{block}.relu")
        y = op("Add", [x, conv(y, f"{block}2")], f"{block}.add")
        x = op("Relu", [y], f"{block}.out")
        if with_norm:
            x = op("Dropout", [x], f"{block}.dropped")
    op("GlobalAveragePool", [x], "y")
    shapes = {"x": (1, channels, size, size), "y": (1, channels, 1, 1)}
    ports = [[helper.make_tensor_value_info(name, 1, shape)] for name, shape in shapes.items()]
    graph = helper.make_graph(nodes, "net", *ports, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_depth_follows_the_deepest_path():
    depths = path_depths(canonicalize(read(model())))
    taps = 8 * 9
    assert depths["x"] == (0, 0)
    assert depths["a1"] == (taps, 1)
    assert depths["a.out"] == (2 * taps + 3, 5)
    assert depths["y"] == (2 * (2 * taps + 3) + 36, 11)


def test_inputs_are_seeded_and_normal():
    ports = (Port("a", (1000,)), Port("b", (1000,)))
    one, same, other = seeded_inputs(ports, 1), seeded_inputs(ports, 1), seeded_inputs(ports, 2)
    assert all(np.array_equal(one[name], same[name]) for name in "ab")
    assert not np.array_equal(one["a"], one["b"])
    assert not np.array_equal(one["a"], other["a"])
    assert one["a"].dtype == np.float32
    assert one["a"].std() == pytest.approx(1, abs=0.1)


# ---- verify ----------------------------------------------------------------------------------------------------------
class Replay:
    """Stands for a compiled network: gives what ONNX Runtime gives, after somebody has damaged it."""

    threads = 1

    def __init__(self, damage=id, taps=("a.out", "b.out"), dtype="float32", **shapes):
        self.taps = taps
        self.damage = damage
        sizes = {"x": (1, 8, 6, 6), "y": (1, 8, 1, 1), "a.out": (1, 8, 6, 6), "b.out": (1, 8, 6, 6), **shapes}
        self.inputs = (Port("x", sizes["x"], dtype),)
        self.outputs = tuple(Port(name, sizes[name]) for name in ("y", *taps))

    def inputs_for(self, batch):
        assert batch is None
        return self.inputs

    def start(self):
        return self

    def run(self, inputs):
        session = reference_session(with_outputs(model(), self.taps), 1, optimised=False)
        outputs = dict(zip(("y", *self.taps), session.run(None, inputs), strict=True))
        self.damage(outputs)
        return outputs

    def report(self):
        kernels = (KernelRecord("k", "", 1, 1.0, 1, 1, 1.0, "memory"),)
        return Report("net", "cpu", steps=tuple(StepRecord(n, "basic", f"{n}.out", (), kernels) for n in "ab"))


def test_right_results_pass():
    found = verify(model(), executable=Replay(), per_block=True)
    assert found.passed
    assert [(check.tensor, check.block, check.is_output) for check in found.checks] == [
        ("a.out", "a", False),
        ("b.out", "b", False),
        ("y", "", True),
    ]
    assert found.max_rel == 0
    document = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert document["passed"] is True
    assert document["checks"][0]["block"] == "a"
    assert "passed" in str(found).splitlines()[0]


def add(name, index, value):
    def damage(outputs):
        outputs[name][index] += value

    return damage


def test_the_error_names_the_worst_block_and_element():
    with pytest.raises(VerificationError) as caught:
        verify(model(), executable=Replay(add("b.out", (0, 3, 2, 1), 0.5)), per_block=True)
    found = caught.value.verification
    assert found.worst.block == "b"
    assert found.worst.comparison.worst == (0, 3, 2, 1)
    assert found.first_wrong is found.worst
    assert not found.passed
    assert str(caught.value).startswith("net: block b (b.out): max error")
    assert "worst at [0, 3, 2, 1]" in str(caught.value)
    assert "FAILED" in str(found)


def test_the_error_also_says_where_it_starts():
    def damage(outputs):
        outputs["a.out"] += 0.01
        outputs["y"] += 1

    with pytest.raises(VerificationError, match=r"^net: output y: .*; it starts at block a$"):
        verify(model(), executable=Replay(damage), per_block=True)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_element_that_was_never_written_is_found(value):
    with pytest.raises(VerificationError, match="of 8 elements; worst at"):
        verify(model(), executable=Replay(add("y", (0, 5, 0, 0), value), taps=()))


def cancelling(offset):
    """y = (x + offset) - offset, of 200,000 numbers, so that some lie beside a half of a step."""
    nodes = [helper.make_node("Add", ["x", "c"], ["t"]), helper.make_node("Sub", ["t", "c"], ["y"])]
    x, y = (helper.make_tensor_value_info(name, 1, [1, 8, 160, 160]) for name in "xy")
    constant = numpy_helper.from_array(np.float32(offset), "c")
    graph = helper.make_graph(nodes, "net", [x], [y], [constant])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def test_where_rounding_alone_moves_the_reference_the_error_says_so():
    with pytest.raises(VerificationError, match="ill-conditioned: inputs that differ by one rounding") as caught:
        verify(cancelling(4096.0), executable=blockfuse.compile(cancelling(8192.0)))
    assert caught.value.verification.is_undecided
    with pytest.raises(VerificationError) as caught:
        verify(model(), executable=Replay(add("y", (0, 3, 0, 0), 0.5), taps=()))
    assert not caught.value.verification.is_undecided
    assert "ill-conditioned" not in str(caught.value)


def test_an_error_just_above_rounding_is_found():
    scale = 1 + 4 * tolerance(300, stages=11)
    with pytest.raises(VerificationError):
        verify(model(), executable=Replay(lambda outputs: outputs.update(y=outputs["y"] * np.float32(scale)), taps=()))


@pytest.mark.parametrize(
    ("executable", "message"),
    [
        (Replay(taps=()), "compile it with taps=True"),
        (Replay(taps=("a.out",)), "compile it with taps=True"),
        (Replay(y=(1, 8)), r"no output 'y' of shape \[1, 8, 1, 1\]"),
        (Replay(x=(1, 8, 6)), "has 3 dimensions, not 4"),
        (Replay(dtype="float16"), "takes x float16 and the model x float32: it is one of another model"),
    ],
)
def test_an_executable_that_does_not_fit_is_refused(executable, message):
    with pytest.raises(UsageError, match=message):
        verify(model(), executable=executable, per_block=True)


def test_without_onnxruntime_the_message_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BlockfuseError, match=r"pip install 'blockfuse\[verify\]'"):
        verify(model(), executable=Replay())


def test_a_model_onnxruntime_refuses_is_an_error_of_one_line():
    broken = model()
    broken.graph.node[0].op_type = "Convolution"
    with pytest.raises(BlockfuseError, match="ONNX Runtime cannot run the model") as caught:
        reference_session(broken, 1, optimised=False)
    assert "\n" not in str(caught.value)


def test_blocks_are_compared_under_the_names_they_have_in_the_model():
    """Whatever an exporter puts around them: canonicalisation keeps the names of blocks' results."""
    found = verify(model(with_norm=True), per_block=True, threads=1)
    assert [check.tensor for check in found.blocks] == ["a.out", "b.out"]
    assert not found.unchecked
    assert found.passed
    assert math.isclose(found.blocks[0].comparison.cosine, 1, rel_tol=1e-9)


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("size", [(6, 10), (29, 3)])
def test_resizing_is_as_exact_as_its_coordinates(mode, size):
    """ONNX Runtime computes them in float32, and weights from them."""
    nodes = [onnx_models.node("Resize", "x - - s", "y", mode=mode, coordinate_transformation_mode="align_corners")]
    proto = onnx_models.model(nodes, (1, 2, *size), {"s": np.array([1, 2, 37, 41])}, opset=18)
    assert verify(proto, threads=1).passed
