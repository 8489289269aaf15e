"""Reducing a model that fails: what is tried, what counts as the same failure, and when it stops."""

import itertools

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from blockfuse.errors import ModelError, UsageError
from blockfuse.frontend import shrink, zoo
from blockfuse.tools import reduce as reducing
from blockfuse.tools.reduce import Failure, reduce
from tests.fuzz.networks import random_network
from tests.onnx_models import floats, model, node

WRONG = Failure("InternalError", "it is wrong", place="here.py, it")


def kinds(proto):
    return [one.op_type for one in proto.graph.node]


def fails_with(*needed):
    """A compiler with a bug in valid models that have all these operators."""

    def trial(proto):
        try:
            onnx.checker.check_model(onnx.shape_inference.infer_shapes(proto), full_check=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            return Failure("ModelError", str(error))
        return WRONG if set(needed) <= set(kinds(proto)) else None

    return trial


def test_one_operator_of_a_large_model_is_left():
    proto = zoo.mobilenet_v2(size=32, width=0.25)
    found = reduce(proto, fails_with("GlobalAveragePool"))
    assert kinds(found.model) == ["GlobalAveragePool"]
    assert found.nodes == (len(proto.graph.node), 1)
    assert found.is_complete
    assert found.failure == WRONG
    assert not found.model.graph.initializer
    assert found.trials < 60


@pytest.mark.parametrize("seed", range(5))
def test_operators_that_fail_together_are_left_together(seed):
    proto = random_network(seed)
    needed = list(dict.fromkeys(kinds(proto)))[:: max(1, seed)][:3]
    found = reduce(proto, fails_with(*needed))
    assert set(kinds(found.model)) >= set(needed)
    assert len(found.model.graph.node) <= len(needed) + 4


def test_the_result_has_one_small_image_and_other_weights():
    nodes = [node("Conv", "x w", "a", pads=[1] * 4), node("Relu", "a", "y")]
    proto = model(nodes, (8, 6, 20, 30), {"w": floats(12, 6, 3, 3)})
    found = reduce(proto, fails_with("Conv"))
    assert kinds(found.model) == ["Conv"]
    dims = [dim.dim_value for dim in found.model.graph.input[0].type.tensor_type.shape.dim]
    assert dims == [1, 6, 1, 1]
    assert not np.array_equal(numpy_helper.to_array(found.model.graph.initializer[0]), floats(12, 6, 3, 3))
    assert found.model == reduce(proto, fails_with("Conv")).model


def test_weights_that_matter_stay():
    weight = floats(12, 6, 3, 3)

    def trial(proto):
        same = [t for t in proto.graph.initializer if np.array_equal(numpy_helper.to_array(t), weight)]
        return WRONG if same else None

    found = reduce(model([node("Conv", "x w", "y")], (1, 6, 9, 9), {"w": weight}), trial)
    np.testing.assert_array_equal(numpy_helper.to_array(found.model.graph.initializer[0]), weight)


def test_one_output_of_several_is_enough():
    nodes = [node("Relu", "x", "a"), node("Abs", "x", "b"), node("Neg", "b", "c")]
    found = reduce(model(nodes, outputs=("a", "b", "c")), fails_with("Abs"))
    assert [value.name for value in found.model.graph.output] == ["b"]


def test_functions_are_inlined_where_that_still_fails():
    proto = model([onnx.helper.make_node("f", ["x"], ["y"], domain="local")])
    body = [node("Abs", "a", "c"), node("Neg", "c", "b")]
    proto.opset_import.append(onnx.helper.make_opsetid("local", 1))
    proto.functions.append(onnx.helper.make_function("local", "f", ["a"], ["b"], body, list(proto.opset_import)))
    either = lambda tried: WRONG if {"f", "Neg"} & set(kinds(tried)) else None  # noqa: E731
    assert kinds(reduce(proto, either).model) == ["Neg"]
    assert reduce(proto, fails_with("f")).nodes == (1, 1)


def test_a_model_that_does_not_fail_has_nothing_to_reduce():
    assert reduce(model([node("Relu", "x", "y")]), lambda _: None) is None


def test_other_failures_do_not_count():
    nodes = [node("Relu", "x", "a"), node("Abs", "a", "b"), node("Neg", "b", "y")]

    def trial(proto):
        return WRONG if len(kinds(proto)) > 1 else Failure("InternalError", "it is wrong", place="there.py, it")

    assert len(reduce(model(nodes), trial).model.graph.node) == 2


def test_it_stops_when_the_time_is_up(monkeypatch):
    clock = itertools.count()
    monkeypatch.setattr(reducing.time, "monotonic", lambda: next(clock))
    proto = zoo.mobilenet_v2(size=32, width=0.25)
    found = reduce(proto, fails_with("GlobalAveragePool"), seconds=3)
    assert found.trials == 4
    assert not found.is_complete
    assert 1 < found.nodes[1] < found.nodes[0]
    assert "the time was up" in str(found)


REFUSED = ("UnsupportedModelError", "Foo 'c': no Foo")
REFUSED_TWICE = ("UnsupportedModelError", "Det 'a': no Det; Foo 'b': no Foo")


@pytest.mark.parametrize(
    ("first", "second", "alike"),
    [
        (("ModelError", "Conv 'a': the bias 5 is wrong"), ("ModelError", "Conv 'b': the bias 16 is wrong"), True),
        (("ModelError", "Conv 'a': the bias 5 is wrong"), ("ModelError", "Conv 'b': no groups"), False),
        (("ModelError", "x: wrong"), ("UnsupportedModelError", "x: wrong"), False),
        (REFUSED_TWICE, REFUSED, True),
        (REFUSED, REFUSED_TWICE, False),
        (("VerificationError", "a: 0.5"), ("VerificationError", "b: 7"), True),
        (("TypeError", "None", "a.py, f"), ("TypeError", "int", "a.py, f"), True),
        (("TypeError", "None", "a.py, f"), ("TypeError", "None", "a.py, g"), False),
    ],
)
def test_the_same_way_of_failing(first, second, alike):
    assert Failure(*second).is_like(Failure(*first)) == alike


def test_what_is_no_model_cannot_be_reduced(tmp_path):
    (tmp_path / "a.onnx").write_bytes(b"\xff" * 100)
    with pytest.raises(ModelError, match=r"a\.onnx: this is not an ONNX model"):
        shrink.load_whole(tmp_path / "a.onnx")
    with pytest.raises(ModelError, match=r"b\.onnx: the file cannot be opened"):
        shrink.load_whole(tmp_path / "b.onnx")
    with pytest.raises(UsageError, match="'z'"):
        shrink.with_shapes(model([node("Relu", "x", "y")]), {"z": (1,)})
