"""Rewrites of operators that few networks have, and of old operator sets, against ONNX Runtime."""

import numpy as np
import pytest
from onnx import TensorProto, helper

from blockfuse.errors import ModelError, UnsupportedModelError
from blockfuse.frontend import canonicalize, read
from tests.canonical_models import canonical, only
from tests.onnx_models import floats, model, node

# ---- transposed convolutions -----------------------------------------------------------------------------------------
TRANSPOSED = {
    "plain": ({}, (3, 3), 1),
    "doubling": ({"strides": (2, 2), "pads": (1, 1, 1, 1), "output_padding": (1, 1)}, (3, 3), 1),
    "doubling 2x2": ({"strides": (2, 2)}, (2, 2), 1),
    "doubling 4x4": ({"strides": (2, 2), "pads": (1, 1, 1, 1)}, (4, 4), 1),
    "three": ({"strides": (3, 3), "pads": (1, 0, 2, 1)}, (5, 4), 1),
    "groups": ({"strides": (2, 2), "pads": (0, 1, 1, 0), "group": 2}, (3, 2), 2),
    "dilated": ({"strides": (2, 2), "dilations": (2, 3), "pads": (1, 1, 1, 1)}, (3, 2), 1),
    "same": ({"strides": (2, 2), "auto_pad": "SAME_UPPER"}, (3, 3), 1),
    "same lower": ({"strides": (2, 2), "auto_pad": "SAME_LOWER"}, (3, 3), 1),
    "shaped": ({"strides": (3, 3), "output_shape": (14, 16)}, (3, 3), 1),
    "window wider than the stride": ({"strides": (4, 4), "output_padding": (3, 3)}, (2, 3), 1),
}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("case", TRANSPOSED)
def test_transposed_convolutions_are_convolutions(case, bias):
    attrs, kernel, group = TRANSPOSED[case]
    constants = {"w": floats(4, 6 // group, *kernel), **({"b": floats(6)} if bias else {})}
    proto = model([node("ConvTranspose", "x w b" if bias else "x w", "y", **attrs)], (2, 4, 5, 6), constants)
    stride = attrs.get("strides", (1, 1))[0]
    kinds = ["Conv"] + (["DepthToSpace"] if stride > 1 else [])
    result = read(proto)
    extent = _extent(attrs, kernel)
    full = tuple((size + -(-taps // stride) - 1) * stride for size, taps in zip((5, 6), extent, strict=True))
    pads = attrs.get("pads", (0,) * 4)
    begins = any(pads[:2]) or "auto_pad" in attrs or "output_shape" in attrs
    if result.tensor("y").shape[2:] != full or begins:
        kinds.append("Slice")
    canonical(proto, *kinds)


def _extent(attrs, kernel):
    return [(size - 1) * step + 1 for size, step in zip(kernel, attrs.get("dilations", (1, 1)), strict=True)]


@pytest.mark.parametrize("group", [1, 2])
def test_batch_norm_and_constants_fold_into_transposed_convolutions(group):
    norm = {name: abs(floats(6, seed=index)) + 0.5 for index, name in enumerate("stmv")}
    constants = {"w": floats(4, 6 // group, 2, 2), **norm, "f": floats(6, 1, 1), "c": floats(6, 1, 1, seed=9)}
    nodes = [
        node("ConvTranspose", "x w", "a", strides=(2, 2), group=group),
        node("BatchNormalization", "a s t m v", "n"),
        node("Mul", "f n", "p"),
        node("Add", "p c", "y"),
    ]
    canonical(model(nodes, (2, 4, 5, 6), constants), "Conv", "DepthToSpace")


def test_transposed_convolutions_that_stay():
    weight = {"w": floats(4, 6, 3, 3)}
    canonical(model([node("ConvTranspose", "x w", "y", strides=(2, 1))], (2, 4, 5, 6), weight), "ConvTranspose")
    canonical(model([node("ConvTranspose", "x w", "y")], (2, 4, 5), {"w": floats(4, 6, 3)}), "ConvTranspose")


@pytest.mark.parametrize(
    ("shape", "attrs", "message"),
    [
        ((3, 6, 3, 3), {}, "is for 3 channels, and the input has 4"),
        ((4, 6, 3, 3), {"group": 3}, "must be divisible by group"),
    ],
)
def test_bad_transposed_convolutions(shape, attrs, message):
    proto = model([node("ConvTranspose", "x w", "y", **attrs)], (2, 4, 5, 6), {"w": floats(*shape)})
    with pytest.raises(ModelError, match=message):
        read(proto)


# ---- fully connected -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("shapes", [((4, 3), (5, 4), (3, 5)), ((4, 3), (5, 4), (5,)), ((4, 3), (5, 4), None)])
def test_gemm_of_computed_matrices(shapes):
    given = {name: shape for name, shape in zip("xwb", shapes, strict=True) if shape}
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in given.items()]
    gemm = node("Gemm", " ".join(given), "y", transA=1, transB=1, alpha=0.5, beta=2.0)
    kinds = ["Transpose", "Transpose", "MatMul", "Mul", *(["Mul", "Add"] if shapes[2] else [])]
    graph = canonicalize(read(model([gemm], inputs=inputs)))
    assert sorted(op.kind for op in graph.ops()) == sorted(kinds)
    canonical(model([gemm], inputs=inputs), *(op.kind for op in graph.ops()))


def test_gemm_plus_a_matrix():
    constants = {"w": floats(4, 5), "b": floats(3, 5)}
    canonical(model([node("Gemm", "x w b", "y", beta=0.5)], (3, 4), constants), "Gemm", "Add")


# ---- old operator sets -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize("axis", [1, 2, -1])
def test_old_softmax_works_on_a_matrix(kind, axis):
    kinds = [kind] if axis == -1 else ["Flatten", kind, "Reshape"] if axis == 1 else ["Reshape", kind, "Reshape"]
    canonical(model([node(kind, "x", "y", axis=axis)], (2, 3, 4, 5), opset=11), *kinds)


def test_old_softmax_of_one_pixel():
    canonical(model([node("Softmax", "x", "y")], (2, 7, 1, 1), opset=9), "Softmax")


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize(
    ("opset", "scales"), [(7, (1, 1, 2, 3)), (9, (1, 1, 2, 2)), (10, (1, 1, 2, 2)), (10, (1, 1, 0.5, 0.6))]
)
def test_upsample_and_old_resize(mode, opset, scales):
    kind = "Resize" if opset == 10 else "Upsample"
    factors = np.array(scales, np.float32)
    given = {"scales": factors.tolist()} if opset == 7 else {}
    upsample = node(kind, "x" if given else "x s", "y", mode=mode, **given)
    graph = canonical(model([upsample], (2, 3, 5, 6), {} if opset == 7 else {"s": factors}, opset), "Resize")
    assert only(graph).attrs["coordinate_transformation_mode"] == "asymmetric"


@pytest.mark.parametrize(("opset", "size"), [(18, 2), (21, 4)])
def test_group_normalization(opset, size):
    constants = {"s": floats(size), "t": floats(size, seed=1)}
    proto = model([node("GroupNormalization", "x s t", "y", num_groups=2)], (2, 4, 3, 5), constants, opset)
    graph = canonicalize(read(proto))
    assert [graph.tensor(name).shape for name in only(graph).inputs[1:]] == [(4,), (4,)]
    if opset == 21:  # ONNX Runtime has no kernel for the old form
        canonical(proto, "GroupNormalization")


def test_bad_groups():
    proto = model([node("GroupNormalization", "x s s", "y", num_groups=3)], (2, 4, 3, 5), {"s": floats(3)}, 18)
    with pytest.raises(ModelError, match="the channels of 2x4x3x5 do not divide into 3 groups"):
        read(proto)


# ---- types -----------------------------------------------------------------------------------------------------------
def test_float64_is_refused():
    proto = model([node("Relu", "x", "y")], dtype=np.float64)
    with pytest.raises(UnsupportedModelError, match=r"^graph 'small': input 'x' is of type float64; export"):
        canonicalize(read(proto))


def test_a_constant_result_is_refused():
    proto = model([node("Relu", "x", "z"), node("Shape", "z", "y")], outputs=("z", "y"))
    with pytest.raises(UnsupportedModelError, match="the output 'y' is a constant"):
        canonicalize(read(proto))


# ---- pads before pools -----------------------------------------------------------------------------------------------
PADS = {"p": np.array([0, 0, 1, 0, 0, 0, 2, 1])}


@pytest.mark.parametrize("first", ["Relu", "Sigmoid"])
def test_zeros_before_a_maximum_of_positive_numbers(first):
    nodes = [
        node(first, "x", "r"),
        node("Pad", "r p", "q"),
        node("MaxPool", "q", "y", kernel_shape=(3, 3), strides=(2, 2)),
    ]
    canonical(model(nodes, constants=PADS), first, "MaxPool")


def test_zeros_before_a_maximum_stay_where_they_matter():
    pool = node("MaxPool", "q", "y", kernel_shape=(3, 3), strides=(2, 2))
    canonical(model([node("Tanh", "x", "r"), node("Pad", "r p", "q"), pool], constants=PADS), "Tanh", "Pad", "MaxPool")
    wide = {"p": np.array([0, 0, 4, 0, 0, 0, 0, 0])}
    canonical(model([node("Relu", "x", "r"), node("Pad", "r p", "q"), pool], constants=wide), "Relu", "Pad", "MaxPool")


@pytest.mark.parametrize(("attrs", "kinds"), [({}, []), ({"pads": (1, 1, 1, 1)}, ["Pad"])])
def test_zeros_before_a_mean_are_counted(attrs, kinds):
    """Which is what a depthwise convolution does."""
    pool = node("AveragePool", "q", "y", kernel_shape=(3, 3), strides=(2, 2), **attrs)
    canonical(model([node("Pad", "x p", "q"), pool], constants=PADS), *kinds, "AveragePool" if attrs else "Conv")
    pool = node("AveragePool", "q", "y", kernel_shape=(3, 3), count_include_pad=1, **attrs)
    canonical(model([node("Pad", "x p", "q"), pool], constants=PADS), "Conv")


# ---- group normalization written out, Mish ---------------------------------------------------------------------------
@pytest.mark.parametrize("order", ["r s", "s r"])
def test_group_normalization_written_out(order):
    """As PyTorch's exporter writes it before opset 18."""
    nodes = [
        node("Reshape", "x shape", "g"),
        node("InstanceNormalization", "g one zero", "n", epsilon=1e-3),
        node("Reshape", "n back", "r"),
        node("Mul", order, "m"),
        node("Add", "m t", "y"),
    ]
    constants = {
        "shape": np.array([0, 3, -1]),
        "back": np.array([2, 6, 5, 4]),
        "one": floats(3, seed=3),
        "zero": floats(3, seed=4),
        "s": floats(6, 1, 1),
        "t": floats(6, 1, 1, seed=1),
    }
    graph = canonical(model(nodes, (2, 6, 5, 4), constants), "GroupNormalization")
    assert dict(only(graph).attrs) == {"num_groups": 3, "epsilon": pytest.approx(1e-3)}


def test_what_is_no_group_normalization():
    nodes = [node("Reshape", "x s", "g"), node("InstanceNormalization", "g one one", "n"), node("Reshape", "n b", "y")]
    constants = {"s": np.array([1, 12, -1]), "b": np.array([2, 6, 5, 4]), "one": floats(12)}
    canonical(model(nodes, (2, 6, 5, 4), constants), "Reshape", "InstanceNormalization", "Reshape")


def test_constants_after_instance_normalization():
    nodes = [node("InstanceNormalization", "x s t", "n"), node("Mul", "n f", "m"), node("Add", "m f", "y")]
    constants = {"s": floats(4), "t": floats(4, seed=1), "f": floats(4, 1, 1, seed=2)}
    canonical(model(nodes, constants=constants), "InstanceNormalization")


@pytest.mark.parametrize("order", ["x t", "t x"])
def test_mish_written_out(order):
    nodes = [node("Softplus", "x", "s"), node("Tanh", "s", "t"), node("Mul", order, "y")]
    canonical(model(nodes), "Mish")
