"""Graphs of models whose batch is open: what is read, and what is refused because it mixes images."""

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from blockfuse.errors import InternalError, ModelError, UnsupportedModelError
from blockfuse.frontend import canonicalize, check_canonical, for_batch, read, to_onnx
from blockfuse.graph import Graph, Op, Tensor
from tests.onnx_models import floats, model, node

OPEN = ("N", 4, 6, 6)


def ints(*values):
    return np.array(values, np.int64)


def number(value):
    return np.int64(value)


def open_model(nodes, constants=None, shape=OPEN, **more):
    return model(nodes, shape, constants, **more)


@pytest.mark.parametrize("name", ["N", "batch_size", "s0", None])
def test_any_name_stands_for_the_batch(name):
    graph = read(open_model([node("Relu", "x", "y")], shape=(name, 4, 6, 6)))
    assert graph.batch is not None
    assert graph.tensor("y").shape == (graph.batch, 4, 6, 6)
    assert "y [N, 4, 6, 6] = Relu(x)" in str(graph)


def test_fixed_batches_stay_fixed():
    graph = read(open_model([node("Relu", "x", "y")], shape=(1, 4, 6, 6)))
    assert graph.batch is None
    assert read(open_model([node("Relu", "x", "y")]), {"x": (3, 4, 6, 6)}).batch is None


def test_the_batch_of_a_canonical_graph_can_be_changed():
    nodes = [
        node("Reshape", "x split", "a"),
        node("Transpose", "a", "b", perm=[0, 2, 1]),
        node("Reshape", "b whole", "y"),
    ]
    graph = read(open_model(nodes, {"split": ints(0, 4, 36), "whole": ints(-1, 9, 4, 4)}))
    for batch in (1, 7):
        other = for_batch(canonicalize(graph), batch)
        check_canonical(other)
        reshapes = [op for op in other.ops() if op.kind == "Reshape"]
        assert [other.constant(op.inputs[1]).tolist() for op in reshapes] == [[batch, 4, 36], [batch, 9, 4, 4]]
        assert {tensor.shape[0] for tensor in other.tensors if not tensor.is_constant} == {batch}
        x = floats(5, 4, 6, 6)
        expected = x.reshape(5, 4, 36).transpose(0, 2, 1).reshape(5, 9, 4, 4)
        np.testing.assert_array_equal(ReferenceEvaluator(to_onnx(other)).run(None, {"x": x})[0], expected)


def test_the_batch_of_a_fixed_graph_cannot():
    graph = read(open_model([node("Relu", "x", "y")], shape=(1, 4, 6, 6)))
    with pytest.raises(InternalError, match="is fixed"):
        graph.with_batch(2)


def test_a_graph_for_any_batch_has_it_everywhere():
    tensors = [Tensor("x", (5, 3), "float32"), Tensor("y", (3, 5), "float32")]
    graph = Graph("g", ["x"], ["y"], tensors, [Op("Transpose", "t", ("x",), ("y",))], 5)
    with pytest.raises(InternalError, match="takes any batch"):
        graph.check()


def flattened(*, kind):
    """``x.view(n, -1)`` with ``n`` computed in some way from the size of the batch."""
    ways = {
        "plain": [],
        "times": [node("Mul", "n two", "m"), node("Div", "m two", "k")],
        "half": [node("Div", "n two", "k")],
        "squared": [node("Mul", "n n", "k")],
        "limited": [node("Min", "n sixty", "k")],
        "table": [node("Gather", "sizes n", "k", axis=0)],
        "compared": [node("Equal", "n one", "is"), node("Where", "is one n", "k")],
    }[kind]
    nodes = [node("Shape", "x", "s"), node("Gather", "s zero", "n", axis=0), *ways]
    last = "k" if ways else "n"
    nodes += [
        node("Unsqueeze", f"{last} axes", "first"),
        node("Concat", "first minus", "target", axis=0),
        node("Reshape", "x target", "y"),
    ]
    constants = {"zero": number(0), "one": number(1), "two": number(2), "sixty": number(10_000), "axes": ints(0)}
    return open_model(nodes, constants | {"minus": ints(-1), "sizes": np.arange(200)})


@pytest.mark.parametrize("kind", ["plain", "times"])
def test_targets_computed_from_the_batch(kind):
    graph = canonicalize(read(flattened(kind=kind)))
    assert [op.kind for op in graph.ops()] == ["Flatten"]


@pytest.mark.parametrize("kind", ["half", "squared"])
def test_dimensions_that_are_not_the_batch(kind):
    with pytest.raises(ModelError, match=r"the shapes do not fit at .* with 1\d\d images, .*--shape x=1x4x6x6"):
        read(flattened(kind=kind))


@pytest.mark.parametrize("kind", ["limited", "table", "compared"])
def test_what_a_few_batches_cannot_tell(kind):
    """The result is the batch for all that are tried, and another thing for larger ones."""
    with pytest.raises(UnsupportedModelError, match=r"computes a constant from the open batch; .*--shape x=1x4x6x6"):
        read(flattened(kind=kind))


def test_other_results_for_one_image():
    with pytest.raises(UnsupportedModelError, match="whose first dimension is not the batch"):
        read(open_model([node("GlobalAveragePool", "x", "a"), node("Squeeze", "a", "y")]))


MIXING = {
    "softmax over images": ([node("Softmax", "x", "y", axis=0)], {}),
    "concatenation of images": ([node("Concat", "x x", "y", axis=0)], {}),
    "mean over images": ([node("ReduceMean", "x", "y", axes=[0, 2], keepdims=1)], {}),
    "mean over everything": ([node("ReduceMean", "x", "y", keepdims=1)], {}),
    "transposition": ([node("Transpose", "x", "y", perm=[1, 0, 2, 3])], {}),
    "images in reverse": (
        [node("Slice", "x a b c d", "y")],
        {"a": ints(-1), "b": ints(-999), "c": ints(0), "d": ints(-1)},
    ),
    "the first images": ([node("Slice", "x a b c", "y")], {"a": ints(0), "b": ints(1), "c": ints(0)}),
    "picked images": ([node("Gather", "x i", "y", axis=0)], {"i": ints(0)}),
    "padded batch": ([node("Pad", "x p", "y")], {"p": ints(0, 0, 0, 0, 1, 0, 0, 0)}),
    "merged with rows": ([node("Reshape", "x t", "y")], {"t": ints(-1, 36)}),
    "batch moved": ([node("Reshape", "x t", "y")], {"t": ints(4, -1, 6, 6)}),
    "one constant per image": (
        [node("Shape", "x", "s"), node("Expand", "c s", "e"), node("Add", "x e", "y")],
        {"c": floats(6)},
    ),
    "matrices of images": ([node("Flatten", "x", "f"), node("Transpose", "f", "t"), node("MatMul", "f t", "y")], {}),
    "images against pixels": (
        [node("GlobalAveragePool", "x", "a"), node("Flatten", "a", "f"), node("Add", "x f", "y")],
        {},
    ),
    "sums along the batch": ([node("CumSum", "x a", "y")], {"a": number(0)}),
    "an unknown operator": ([node("Det", "x", "y")], {}),
    "mean and variance of all images": ([node("MeanVarianceNormalization", "x", "y")], {}),
    "a larger batch": ([node("Tile", "x r", "y")], {"r": ints(2, 1, 1, 1)}),
    "scaled batch": ([node("Resize", "x - s", "y")], {"s": np.array([2, 1, 1, 1], np.float32)}),
    "a constant output": ([node("Relu", "x", "r"), node("Identity", "c", "y")], {"c": floats(3)}),
    "a count of images": ([node("Size", "x", "y")], {}),
}


@pytest.mark.parametrize("name", MIXING)
def test_what_mixes_images_is_refused(name):
    nodes, constants = MIXING[name]
    with pytest.raises(ModelError) as caught:
        read(open_model(nodes, constants))
    message = str(caught.value)
    assert "--shape x=1x4x6x6" in message
    assert "\n" not in message
    assert "batch" in message


@pytest.mark.parametrize("name", sorted(MIXING.keys() - {"images against pixels"}))  # which fit no batch
def test_and_can_be_read_for_a_fixed_batch(name):
    nodes, constants = MIXING[name]
    assert read(open_model(nodes, constants), {"x": (4, 4, 6, 6)}).batch is None


def test_sizes_by_the_smallest_ratio_are_refused():
    """The ratio of the batch, which is 1, would be one of them."""
    nodes = [node("Shape", "x", "s"), node("Resize", "x - - s", "y", keep_aspect_ratio_policy="not_larger")]
    with pytest.raises(UnsupportedModelError, match="Resize 'Resize_y' does not compute images one by one"):
        read(open_model(nodes, opset=19))


def test_a_fixed_input_beside_an_open_one():
    shapes = {"x": OPEN, "z": (1, 4, 6, 6)}
    inputs = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    with pytest.raises(
        UnsupportedModelError, match=r"'x' has the symbolic dimension N; .*: the batch of input 'z' is fixed"
    ):
        read(model([node("Add", "x z", "y")], inputs=inputs))


def test_sizes_are_limited_per_image():
    shape = ("N", 64, 2048, 2048)
    assert read(open_model([node("Relu", "x", "y")], shape=shape)).batch is not None
    with pytest.raises(UnsupportedModelError, match="at most 2147483647 elements"):
        read(open_model([node("Relu", "x", "y")], shape=("N", 64, 8192, 8192)))
