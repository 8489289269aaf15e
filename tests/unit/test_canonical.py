"""Canonical form: every rewrite gives the expected ops, and the result ONNX Runtime gives for the original model."""

import math

import numpy as np
import pytest
from onnx import TensorProto, helper

from blockfuse.errors import InternalError, ModelError, UnsupportedModelError
from blockfuse.frontend import canonicalize, check_canonical, read, to_onnx, with_outputs, zoo
from blockfuse.graph import Graph, Op, Tensor
from tests.canonical_models import DEPTH, canonical, only
from tests.onnx_models import feeds_of, floats, model, node, run

W = {"w": floats(6, 4, 3, 3, seed=2), "b": floats(6, seed=3)}
NORM = {"s": floats(6, seed=4), "t": floats(6, seed=5), "m": floats(6, seed=6), "v": abs(floats(6, seed=7)) + 0.5}
ROOT = np.float32(math.sqrt(2))


# ---- convolutions ----------------------------------------------------------------------------------------------------
def test_conv_says_everything_and_has_a_bias():
    graph = canonical(model([node("Conv", "x w", "y", "conv")], constants=W), "Conv")
    op = only(graph)
    assert dict(op.attrs) == {
        "kernel_shape": (3, 3),
        "strides": (1, 1),
        "pads": (0, 0, 0, 0),
        "dilations": (1, 1),
        "group": 1,
    }
    assert not graph.constant(op.inputs[2]).any()
    assert op.origin == ("conv",)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("size", [7, 8])
@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER", "VALID"])
def test_auto_pad_of_conv(mode, size, stride):
    constants = {"w": floats(6, 4, 4, 3)}
    conv = node("Conv", "x w", "y", auto_pad=mode, strides=[stride, 1])
    graph = canonical(model([conv], (1, 4, size, 9), constants), "Conv")
    assert "auto_pad" not in only(graph).attrs


def test_auto_pad_of_a_dilated_conv():
    # ONNX Runtime has no SAME pads with dilation, so the reference is the same model with its pads spelt out.
    attrs = {"dilations": [2, 2], "strides": [2, 1]}
    auto = read(model([node("Conv", "x w", "y", auto_pad="SAME_UPPER", **attrs)], constants=W))
    assert only(canonicalize(auto)).attrs["pads"] == (1, 2, 2, 2)


@pytest.mark.parametrize("opset", [7, 9, 14, 15, 17])
def test_batch_normalization_folds_into_conv(opset):
    nodes = [node("Conv", "x w b", "c", "conv"), node("BatchNormalization", "c s t m v", "y", "bn", epsilon=0.01)]
    graph = canonical(model(nodes, constants={**W, **NORM}, opset=opset), "Conv")
    assert only(graph).origin == ("conv", "bn")
    assert only(graph).name == "conv"


def test_batch_normalization_folds_into_a_grouped_conv_without_bias():
    nodes = [node("Conv", "x w", "c", group=2), node("BatchNormalization", "c s t m v", "y")]
    canonical(model(nodes, constants={**NORM, "w": floats(6, 2, 3, 3)}), "Conv")


def test_batch_normalization_stays_where_the_conv_is_read_elsewhere():
    nodes = [node("Conv", "x w", "c"), node("BatchNormalization", "c s t m v", "n"), node("Add", "c n", "y")]
    canonical(model(nodes, constants={**W, **NORM}), "Conv", "BatchNormalization", "Add")
    nodes = [node("Conv", "x w", "c"), node("BatchNormalization", "c s t m v", "y")]
    canonical(model(nodes, constants={**W, **NORM}, outputs=("y", "c")), "Conv", "BatchNormalization")


def test_batch_normalization_without_a_conv_stays():
    constants = {name: value[:4] for name, value in NORM.items()}
    graph = canonical(model([node("BatchNormalization", "x s t m v", "y")], constants=constants), "BatchNormalization")
    assert set(only(graph).attrs) == {"epsilon"}


def test_shared_weights_are_folded_apart():
    nodes = [
        node("Conv", "x w b", "c"),
        node("Conv", "x w b", "d"),
        node("BatchNormalization", "c s t m v", "n"),
        node("Mul", "n d", "y"),
    ]
    graph = canonical(model(nodes, constants={**W, **NORM}), "Conv", "Conv", "Mul")
    first, second = (graph.producer(name) for name in ("n", "d"))
    assert first.inputs[1] != second.inputs[1] == "w"


@pytest.mark.parametrize("shape", [(6, 1, 1), (1, 6, 1, 1), (1,), ()])
@pytest.mark.parametrize("kind", ["Mul", "Add"])
@pytest.mark.parametrize("order", ["c k", "k c"])
def test_constants_per_channel_fold_into_conv(kind, shape, order):
    nodes = [node("Conv", "x w b", "c"), node(kind, order, "y")]
    canonical(model(nodes, constants={**W, "k": floats(*shape)}), "Conv")


@pytest.mark.parametrize("shape", [(6,), (6, 6), (2, 6, 1, 1)])
def test_other_constants_do_not_fold_into_conv(shape):
    nodes = [node("Conv", "x w", "c"), node("Add", "c k", "y")]
    canonical(model(nodes, constants={**W, "k": floats(*shape)}), "Conv", "Add")


PADS = np.array([0, 0, 1, 0, 0, 0, 2, 3])


@pytest.mark.parametrize(
    ("pad", "opset"),
    [
        (node("Pad", "x", "p", pads=PADS.tolist()), 9),
        (node("Pad", "x pads", "p"), 13),
        (node("Pad", "x pads zero", "p"), 13),
        (node("Pad", "x few - axes", "p"), 18),
    ],
)
def test_zero_pads_fold_into_conv(pad, opset):
    constants = {**W, "zero": np.float32(0)}
    extra = {"pads": PADS, "few": np.array([3, 1, 0, 2]), "axes": np.array([-1, 2])}
    used = {name: value for name, value in {**constants, **extra}.items() if name in (*pad.input, "w")}
    proto = model([pad, node("Conv", "p w", "y", pads=[1, 0, 0, 1])], constants=used, opset=opset)
    pads = only(canonical(proto, "Conv")).attrs["pads"]
    assert pads == ((2, 0, 2, 4) if opset < 18 else (2, 3, 2, 1))


@pytest.mark.parametrize(
    ("pads", "value", "mode"),
    [
        (PADS, 1, "constant"),
        (PADS, 0, "reflect"),
        (np.array([0, 0, -1, 0, 0, 0, 0, 0]), 0, "constant"),
        (np.array([0, 1, 0, 0, 0, 1, 0, 0]), 0, "constant"),
    ],
)
def test_other_pads_do_not_fold_into_conv(pads, value, mode):
    constants = {"w": floats(6, 4 + pads[1] + pads[5], 3, 3), "pads": pads, "value": np.float32(value)}
    inputs = "x pads value" if mode == "constant" else "x pads"
    nodes = [node("Pad", inputs, "p", mode=mode), node("Conv", "p w", "y")]
    canonical(model(nodes, constants=constants), "Pad", "Conv")


def test_a_pad_read_elsewhere_folds_and_stays():
    nodes = [node("Pad", "x pads", "p"), node("Conv", "p w", "c"), node("GlobalMaxPool", "p", "y")]
    proto = model(nodes, constants={**W, "pads": PADS}, outputs=("y", "c"))
    assert {op.kind for op in canonicalize(read(proto)).ops()} == {"Pad", "Conv", "GlobalMaxPool"}


# ---- elementwise and activations -------------------------------------------------------------------------------------
def test_sum_of_two_three_and_one():
    pair = [node("Abs", "x", "a"), node("Sum", "x a", "y")]
    canonical(model(pair), "Abs", "Add")
    three = [node("Abs", "x", "a"), node("Neg", "a", "n"), node("Sum", "x c n", "y")]
    graph = canonical(model(three, constants={"c": floats(4, 1, 1)}), "Abs", "Neg", "Add", "Add")
    assert {op.origin for op in graph.ops() if op.kind == "Add"} == {("Sum_y",)}
    canonical(model([node("Abs", "x", "a"), node("Sum", "a", "y")]), "Abs")


def clip_model(low, high, opset):
    """A Clip with attributes before opset 11, with inputs from then on."""
    bounds = {"min": low, "max": high}
    if opset < 11:
        return model([node("Clip", "x", "y", **{k: float(v) for k, v in bounds.items() if v is not None})], opset=opset)
    constants = {key: np.float32(value) for key, value in bounds.items() if value is not None}
    names = [key if key in constants else "-" for key in bounds]
    return model([node("Clip", f"x {' '.join(names)}", "y")], constants=constants, opset=opset)


@pytest.mark.parametrize("opset", [9, 11, 17])
@pytest.mark.parametrize(("low", "high"), [(0, 6), (None, 1), (-1, None), (-0.5, 0.5)])
def test_clip_has_its_bounds_as_attributes(low, high, opset):
    op = only(canonical(clip_model(low, high, opset), "Clip"))
    assert dict(op.attrs) == {
        "min": -math.inf if low is None else low,
        "max": math.inf if high is None else high,
    }
    assert op.inputs == ("x",)


@pytest.mark.parametrize("opset", [9, 11, 17])
@pytest.mark.parametrize("high", [None, np.finfo(np.float32).max])
def test_clip_from_zero_is_relu(opset, high):
    canonical(clip_model(0, high, opset), "Relu")


def test_clip_without_bounds_vanishes():
    nodes = [node("Abs", "x", "a"), node("Clip", "a", "y")]
    canonical(model(nodes), "Abs")


def test_clip_bounds_from_constant_nodes():
    bound = {"value": helper.make_tensor("", TensorProto.FLOAT, [], [6.0])}
    nodes = [node("Constant", "", "six", **bound), node("Clip", "x - six", "y")]
    assert only(canonical(model(nodes), "Clip")).attrs["max"] == 6


def test_extrema_with_a_constant_are_clips():
    constants = {"low": np.float32(-0.5), "high": np.array([0.5], np.float32)}
    nodes = [node("Max", "low x", "a"), node("Min", "a high", "y")]
    op = only(canonical(model(nodes, constants=constants), "Clip"))
    assert dict(op.attrs) == {"min": -0.5, "max": 0.5}
    canonical(model([node("Abs", "x", "a"), node("Max", "x a", "y")]), "Abs", "Max")
    canonical(model([node("Max", "x k", "y")], constants={"k": floats(8)}), "Max")


@pytest.mark.parametrize(
    ("inner", "outer", "kinds"),
    [((0, None), (None, 6), "Clip"), ((-1, 1), (0, None), "Clip"), ((-1, None), (0, None), "Relu")],
)
def test_clips_of_clips_are_one(inner, outer, kinds):
    bounds = {"a": inner[0], "b": inner[1], "c": outer[0], "d": outer[1]}
    constants = {name: np.float32(value) for name, value in bounds.items() if value is not None}
    names = {name: name if name in constants else "-" for name in bounds}
    nodes = [node("Clip", f"x {names['a']} {names['b']}", "i"), node("Clip", f"i {names['c']} {names['d']}", "y")]
    canonical(model(nodes, constants=constants), kinds)


@pytest.mark.parametrize("order", ["x s", "s x"])
def test_swish(order):
    nodes = [node("Sigmoid", "x", "s", "sig"), node("Mul", order, "y", "mul")]
    op = only(canonical(model(nodes), "Swish"))
    assert op.origin == ("sig", "mul")
    assert not op.attrs


def test_a_gate_of_something_else_is_no_swish():
    nodes = [node("Abs", "x", "a"), node("Sigmoid", "a", "s"), node("Mul", "x s", "y")]
    canonical(model(nodes), "Abs", "Sigmoid", "Mul")


@pytest.mark.parametrize(("alpha", "kinds"), [(1.0, ["Swish"]), (1.5, ["Mul", "Sigmoid", "Mul"])])
def test_swish_of_opset_24(alpha, kinds):
    proto = model([node("Swish", "x", "y", alpha=alpha)], opset=24)
    result = canonicalize(read(proto))
    check_canonical(result)
    assert [op.kind for op in result.ops()] == kinds
    x = floats(1, 4, 8, 8)
    eps = np.finfo(np.float32).eps
    actual = run(to_onnx(result), {"x": x})["y"]
    np.testing.assert_allclose(actual, x / (1 + np.exp(-alpha * x)), rtol=0, atol=8 * eps * abs(x).max())


def test_hard_sigmoid_says_its_numbers():
    op = only(canonical(model([node("HardSigmoid", "x", "y", alpha=0.25)]), "HardSigmoid"))
    assert dict(op.attrs) == {"alpha": 0.25, "beta": 0.5}


def test_graphs_that_were_not_read_need_not_spell_out_defaults():
    op = only(canonicalize(graph_of("HardSigmoid", {"beta": 0.25}, IMAGE)))
    assert dict(op.attrs) == {"alpha": 0.2, "beta": 0.25}
    op = only(canonicalize(graph_of("Conv", {}, IMAGE, (4, 4, 3, 3), result=(1, 4, 6, 6), constants=1)))
    assert op.attrs["strides"] == (1, 1)


HARD = {"three": np.float32(3), "zero": np.float32(0), "six": np.float32(6), "sixth": np.float32(1 / 6)}
GATE = [node("Add", "x three", "a"), node("Clip", "a zero six", "g")]


@pytest.mark.parametrize("last", [node("Div", "g six", "y"), node("Mul", "sixth g", "y")])
def test_hard_sigmoid_written_out(last):
    op = only(canonical(model([*GATE, last], constants=HARD), "HardSigmoid"))
    assert (op.attrs["alpha"], op.attrs["beta"]) == pytest.approx((1 / 6, 0.5))


@pytest.mark.parametrize(
    "rest",
    [
        [node("Mul", "x g", "p"), node("Div", "p six", "y")],
        [node("Div", "g six", "p"), node("Mul", "x p", "y")],
        [node("Mul", "g sixth", "p"), node("Mul", "p x", "y")],
        [node("Mul", "x sixth", "p"), node("Mul", "p g", "y")],
        [node("HardSigmoid", "x", "p", alpha=1 / 6), node("Mul", "p x", "y")],
    ],
)
def test_hard_swish_written_out(rest):
    op = only(canonical(model([*GATE, *rest], constants=HARD), "HardSwish"))
    assert op.inputs == ("x",)
    assert len(op.origin) >= 2


def test_hard_swish_op_and_near_misses():
    canonical(model([node("HardSwish", "x", "y")]), "HardSwish")
    near = [node("HardSigmoid", "x", "p", alpha=0.2), node("Mul", "p x", "y")]
    canonical(model(near), "HardSigmoid", "Mul")
    near = [*GATE, node("Div", "g three", "y")]
    canonical(model(near, constants=HARD), "Add", "Clip", "Div")


HALF = {"half": np.float32(0.5), "one": np.float32(1), "root": ROOT, "inverse": np.float32(1 / ROOT)}
CURVE = [node("Div", "x root", "d"), node("Erf", "d", "e"), node("Add", "e one", "f")]
TANH = {
    "half": np.float32(0.5),
    "one": np.float32(1),
    "three": np.float32(3),
    "c": np.float32(0.044715),
    "k": np.float32(math.sqrt(2 / math.pi)),
}
TANH_END = [
    node("Add", "x q", "r"),
    node("Mul", "r k", "t"),
    node("Tanh", "t", "u"),
    node("Add", "u one", "f"),
    node("Mul", "x half", "h"),
    node("Mul", "h f", "y"),
]


@pytest.mark.parametrize(
    "nodes",
    [
        [*CURVE, node("Mul", "half x", "h"), node("Mul", "h f", "y")],  # dynamo
        [*CURVE, node("Mul", "x f", "h"), node("Mul", "h half", "y")],  # legacy
        [*CURVE, node("Mul", "f half", "h"), node("Mul", "h x", "y")],
        [node("Mul", "inverse x", "d"), *CURVE[1:], node("Mul", "x f", "h"), node("Mul", "h half", "y")],
    ],
)
def test_gelu_by_erf(nodes):
    op = only(canonical(model(nodes, constants=HALF), "Gelu"))
    assert (op.inputs, dict(op.attrs)) == (("x",), {"approximate": "none"})


@pytest.mark.parametrize(
    "cubic",
    [
        [node("Pow", "x three", "p"), node("Mul", "c p", "q")],
        [node("Mul", "x x", "p"), node("Mul", "p x", "p3"), node("Mul", "p3 c", "q")],
    ],
)
def test_gelu_by_tanh(cubic):
    assert only(canonical(model([*cubic, *TANH_END], constants=TANH), "Gelu")).attrs["approximate"] == "tanh"


def test_gelu_op_and_near_miss():
    assert only(canonical(model([node("Gelu", "x", "y")], opset=20), "Gelu")).attrs["approximate"] == "none"
    nodes = [*CURVE, node("Mul", "x f", "y")]
    canonical(model(nodes, constants=HALF), "Div", "Erf", "Add", "Mul")


# ---- pooling ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("nodes", "opset"),
    [
        ([node("GlobalAveragePool", "x", "y")], 17),
        ([node("ReduceMean", "x", "y", axes=[2, 3])], 13),
        ([node("ReduceMean", "x", "y", axes=[-1, -2], keepdims=1)], 13),
        ([node("ReduceMean", "x axes", "y", keepdims=1)], 18),
        ([node("AveragePool", "x", "y", kernel_shape=[8, 6])], 17),
        ([node("AveragePool", "x", "y", kernel_shape=[8, 6], strides=[8, 6], count_include_pad=1)], 17),
    ],
)
def test_mean_over_the_image(nodes, opset):
    constants = {"axes": np.array([-1, 2])} if opset == 18 else {}
    canonical(model(nodes, (2, 4, 8, 6), constants, opset), "GlobalAveragePool")


@pytest.mark.parametrize("opset", [13, 18])
def test_mean_without_keeping_axes(opset):
    mean = node("ReduceMean", "x axes" if opset == 18 else "x", "y", "mean", keepdims=0)
    if opset < 18:
        mean.attribute.append(helper.make_attribute("axes", [2, 3]))
    constants = {"axes": np.array([3, 2])} if opset == 18 else {}
    graph = canonical(model([mean], (2, 4, 8, 6), constants, opset), "GlobalAveragePool", "Flatten")
    assert all(op.origin == ("mean",) for op in graph.ops())


@pytest.mark.parametrize("axes", [[1], [3], [1, 2, 3]])
def test_other_means_stay(axes):
    canonical(model([node("ReduceMean", "x", "y", axes=axes)], opset=13), "ReduceMean")


def test_bounds_of_old_slices_become_inputs():
    canonical(model([node("Slice", "x", "y", starts=[1, -3], ends=[3, 9], axes=[1, 2])], opset=9), "Slice")
    canonical(model([node("Slice", "x", "y", starts=[0, 1], ends=[1, 9])], opset=9), "Slice")


@pytest.mark.parametrize("kind", ["ReduceSum", "ReduceMax"])
def test_axes_of_other_reductions_become_inputs(kind):
    canonical(model([node(kind, "x", "y", axes=[1], keepdims=0)], opset=11), kind)


def test_pools_say_everything():
    op = only(canonical(model([node("MaxPool", "x", "y", kernel_shape=[3, 2])]), "MaxPool"))
    window = {"kernel_shape": (3, 2), "strides": (1, 1), "pads": (0,) * 4, "dilations": (1, 1), "ceil_mode": 0}
    assert dict(op.attrs) == window
    op = only(canonical(model([node("AveragePool", "x", "y", kernel_shape=[3, 2])]), "AveragePool"))
    assert dict(op.attrs) == {**window, "count_include_pad": 0}


@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize("kind", ["MaxPool", "AveragePool"])
def test_auto_pad_of_pools(kind, mode):
    pool = node(kind, "x", "y", kernel_shape=[3, 2], strides=[2, 2], auto_pad=mode)
    assert any(only(canonical(model([pool], (1, 4, 8, 7)), kind)).attrs["pads"])


@pytest.mark.parametrize("size", [7, 8, 9, 10])
@pytest.mark.parametrize("pads", [[0] * 4, [1] * 4])
@pytest.mark.parametrize(("kind", "counted"), [("MaxPool", 0), ("AveragePool", 0), ("AveragePool", 1)])
def test_rounding_up(kind, counted, pads, size):
    attrs = {"kernel_shape": [3, 3], "strides": [2, 3], "pads": pads, "ceil_mode": 1}
    if kind == "AveragePool":
        attrs["count_include_pad"] = counted
    proto = model([node(kind, "x", "y", **attrs)], (1, 2, size, size))
    if counted and any(pads) and size == 7:  # the windows end where the padding does
        canonical(proto, "Conv")
        return
    op = only(canonical(proto, kind))
    assert op.attrs["ceil_mode"] in ({0, 1} if counted and any(pads) else {0})


def test_a_pool_with_indices_is_refused():
    proto = model([node("MaxPool", "x", "y i", "pool", kernel_shape=[2, 2])], outputs=("y", "i"))
    with pytest.raises(UnsupportedModelError, match=r"MaxPool 'pool' returns indices"):
        canonicalize(read(proto))


# ---- shapes ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("change", "constants", "shape"),
    [
        (node("Flatten", "x", "y"), {}, (2, 4, 8, 8)),
        (node("Flatten", "x", "y", axis=-3), {}, (2, 4, 8, 8)),
        (node("Reshape", "x s", "y"), {"s": np.array([2, -1])}, (2, 4, 8, 8)),
        (node("Reshape", "x s", "y"), {"s": np.array([0, 256])}, (2, 4, 8, 8)),
        (node("Reshape", "x s", "y"), {"s": np.array([-1, 256])}, (2, 4, 8, 8)),
        (node("Squeeze", "x s", "y"), {"s": np.array([2, -1])}, (2, 4, 1, 1)),
        (node("Squeeze", "x", "y"), {}, (2, 4, 1, 1)),
    ],
)
def test_flatten(change, constants, shape):
    assert only(canonical(model([change], shape, constants), "Flatten")).attrs["axis"] == 1


@pytest.mark.parametrize(
    ("change", "constants", "shape"),
    [
        (node("Flatten", "x", "y", axis=2), {}, (2, 4, 8, 8)),
        (node("Flatten", "x", "y", axis=0), {}, (2, 4, 8, 8)),
        (node("Reshape", "x s", "y"), {"s": np.array([0, 0, -1])}, (2, 4, 8, 8)),
        (node("Unsqueeze", "x s", "y"), {"s": np.array([2, 3])}, (2, 4)),
        (node("Squeeze", "x", "y"), {}, (1, 4, 1, 1)),
    ],
)
def test_other_changes_of_shape_are_reshapes(change, constants, shape):
    graph = canonical(model([change], shape, constants), "Reshape")
    assert tuple(graph.constant(only(graph).inputs[1])) == graph.tensor("y").shape


def test_flatten_of_a_matrix_and_reshape_to_the_same_shape_vanish():
    canonical(model([node("Relu", "x", "a"), node("Flatten", "a", "y")], (2, 4)), "Relu")
    canonical(
        model([node("Relu", "x", "a"), node("Reshape", "a s", "y")], constants={"s": np.array([0, 4, 8, 8])}), "Relu"
    )


def test_chains_of_reshapes_are_one():
    nodes = [
        node("Flatten", "x", "a"),
        node("Reshape", "a s", "b"),
        node("Unsqueeze", "b t", "c"),
        node("Relu", "c", "y"),
    ]
    constants = {"s": np.array([2, 4, 64]), "t": np.array([0])}
    canonical(model(nodes, (2, 4, 8, 8), constants), "Reshape", "Relu")
    back = [node("Flatten", "x", "a"), node("Reshape", "a s", "b"), node("Relu", "b", "y")]
    canonical(model(back, (2, 4, 8, 8), {"s": np.array([2, 4, 8, 8])}), "Relu")


def test_a_strided_view_by_gather_is_the_identity():
    nodes = [
        node("ReduceMean", "x axes", "m", keepdims=1),
        node("Reshape", "m flat", "f"),
        node("Gather", "f all", "g"),
        node("Reshape", "g two", "h"),
        node("Relu", "h", "y"),
    ]
    constants = {"axes": np.array([-1, -2]), "flat": np.array([-1]), "two": np.array([1, 4])}
    constants["all"] = np.arange(4).reshape(1, 4, 1, 1)
    canonical(model(nodes, constants=constants, opset=18), "GlobalAveragePool", "Flatten", "Relu")


def test_other_gathers_stay():
    for indices in ([1, 0, 2, 3], [0, 1]):
        proto = model([node("Gather", "x k", "y", axis=1)], constants={"k": np.array(indices)})
        canonical(proto, "Gather")


# ---- fully connected -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("bias", [None, (5,), (1, 5), (1,), ()])
@pytest.mark.parametrize("attrs", [{}, {"transB": 1}, {"alpha": 0.5, "beta": 2.0}, {"transB": 1, "alpha": -2.0}])
def test_gemm(attrs, bias):
    constants = {"w": floats(*((5, 4) if attrs.get("transB") else (4, 5)))}
    if bias is not None:
        constants["b"] = floats(*bias)
    gemm = node("Gemm", "x w b" if bias is not None else "x w", "y", "fc", **attrs)
    graph = canonical(model([gemm], (3, 4), constants), "Gemm")
    op = only(graph)
    assert (dict(op.attrs), op.origin) == ({"transB": 1}, ("fc",))
    assert [graph.tensor(name).shape for name in op.inputs] == [(3, 4), (5, 4), (5,)]


@pytest.mark.parametrize("order", ["m b", "b m"])
def test_matmul_and_add_are_gemm(order):
    nodes = [node("MatMul", "x w", "m", "mm"), node("Add", order, "y", "add")]
    graph = canonical(model(nodes, (3, 4), {"w": floats(4, 5), "b": floats(5)}), "Gemm")
    assert only(graph).origin == ("mm", "add")


def test_matmul_and_other_additions():
    constants = {"w": floats(4, 5), "b": floats(3, 1)}
    canonical(model([node("MatMul", "x w", "m"), node("Add", "m b", "y")], (3, 4), constants), "Gemm", "Add")
    canonical(model([node("MatMul", "x w", "y")], (2, 3, 4), {"w": floats(4, 5)}), "MatMul")


def test_computed_filters_and_matrices_stay():
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (3, 3, 3, 3)) for name in "xw"]
    canonical(model([node("Conv", "x w", "y")], inputs=inputs), "Conv")
    flat = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (3, 3)) for name in "xw"]
    canonical(model([node("Gemm", "x w", "y", transB=1)], inputs=flat), "Transpose", "MatMul")


# ---- what changes nothing --------------------------------------------------------------------------------------------
NOTHING = {
    "Identity": ([node("Identity", "a", "b")], {}, 17),
    "Identities": ([node("Identity", "a", "i"), node("Identity", "i", "b")], {}, 17),
    "Dropout": ([node("Dropout", "a", "b")], {}, 11),
    "Dropout with a ratio": ([node("Dropout", "a r", "b mask")], {"r": np.float32(0.5)}, 13),
    "Dropout not in training": ([node("Dropout", "a r f", "b")], {"r": np.float32(0.5), "f": np.array(False)}, 13),
    "Cast": ([node("Cast", "a", "b", to=TensorProto.FLOAT)], {}, 17),
    "Pad": ([node("Pad", "a p", "b")], {"p": np.zeros(8, np.int64)}, 17),
    "old Pad": ([node("Pad", "a", "b", pads=[0] * 8)], {}, 9),
    "Expand": ([node("Expand", "a s", "b")], {"s": np.array([4, 1, 1])}, 17),
    "Slice": ([node("Slice", "a s e", "b")], {"s": np.array([0, 0]), "e": np.array([1, 99])}, 17),
    "old Slice": ([node("Slice", "a", "b", starts=[0], ends=[99])], {}, 9),
    "Concat": ([node("Concat", "a", "b", axis=1)], {}, 17),
    "Transpose": ([node("Transpose", "a", "b", perm=[0, 1, 2, 3])], {}, 17),
    "Gather": ([node("Gather", "a k", "b", axis=1)], {"k": np.arange(4)}, 17),
}


@pytest.mark.parametrize("name", NOTHING)
@pytest.mark.parametrize("place", ["inside", "before the output", "after the input", "between"])
def test_nothing(name, place):
    nodes, constants, opset = NOTHING[name]
    before, after = node("Neg", "x", "a"), node("Abs", "b", "y")
    if place == "before the output":
        canonical(renamed([before, *nodes], constants, opset, b="y"), "Neg")
    elif place == "after the input":
        canonical(renamed([*nodes, after], constants, opset, a="x"), "Abs")
    elif place == "between":
        canonical(renamed(nodes, constants, opset, a="x", b="y"), "Identity")
    else:
        canonical(renamed([before, *nodes, after], constants, opset), "Neg", "Abs")


def renamed(nodes, constants, opset, **names):
    copies = []
    for original in nodes:
        copy = type(original)()
        copy.CopyFrom(original)
        copy.input[:] = [names.get(name, name) for name in original.input]
        copy.output[:] = [names.get(name, name) for name in original.output]
        copies.append(copy)
    return model(copies, constants=constants, opset=opset)


def test_identity_between_input_and_output_stays():
    canonical(model([node("Identity", "x", "y")]), "Identity")
    canonical(model([node("Relu", "x", "y"), node("Identity", "y", "z")], outputs=("y", "z")), "Relu", "Identity")


def test_an_output_keeps_its_name_when_its_producer_is_read_elsewhere():
    nodes = [node("Relu", "x", "a"), node("Identity", "a", "y"), node("Neg", "a", "z")]
    graph = canonical(model(nodes, outputs=("y", "z")), "Relu", "Neg")
    assert graph.producer("y").kind == "Relu"


def test_what_looks_like_nothing_and_is_not_stays():
    crop = {"p": np.array([0, 0, 1, 0, 0, 0, -1, 0])}
    canonical(model([node("Pad", "x p", "y")], constants=crop), "Pad")
    back = {"s": np.array([-1]), "e": np.array([-99]), "a": np.array([3]), "t": np.array([-1])}
    canonical(model([node("Slice", "x s e a t", "y")], constants=back), "Slice")
    canonical(model([node("Transpose", "x", "y", perm=[0, 1, 3, 2])]), "Transpose")
    canonical(model([node("Cast", "x", "y", to=TensorProto.FLOAT16)]), "Cast")


def test_dropout_in_training_is_refused():
    constants = {"r": np.float32(0.5), "t": np.array(True)}
    with pytest.raises(UnsupportedModelError, match="Dropout 'drop'"):
        canonicalize(read(model([node("Dropout", "x r t", "y", "drop")], constants=constants)))


# ---- whole models ----------------------------------------------------------------------------------------------------
def exporter_block(style):
    """An inverted residual block and a head as each of PyTorch's exporters writes them."""
    constants = {
        "w1": floats(8, 4, 1, 1),
        "w2": floats(8, 1, 3, 3),
        "w3": floats(4, 8, 1, 1),
        "b": floats(8),
        "fc": floats(5, 4),
        "fb": floats(5),
    }
    if style == "dynamo":
        constants |= {"low": np.float32(0), "high": np.float32(6), "axes": np.array([-1, -2]), "s": np.array([1, 4])}
        low = [("low", "high")] * 2
        head = [node("ReduceMean", "r axes", "m", keepdims=1), node("Reshape", "m s", "f", allowzero=1)]
        bounds, add, opset = [], "e x", 18
    else:
        values = {"low": 0.0, "high": 6.0}
        low = [("low0", "high0"), ("low1", "high1")]
        bounds = [
            node("Constant", "", f"{key}{i}", value=helper.make_tensor("", TensorProto.FLOAT, [], [value]))
            for i in range(2)
            for key, value in values.items()
        ]
        bounds.append(node("Identity", "b", "b2"))
        head = [node("GlobalAveragePool", "r", "m"), node("Flatten", "m", "f", axis=1)]
        add, opset = "x e", 17
    second = "b2" if style == "legacy" else "b"
    nodes = [
        *bounds,
        node("Conv", "x w1 b", "c1"),
        node("Clip", f"c1 {low[0][0]} {low[0][1]}", "a1"),
        node("Conv", f"a1 w2 {second}", "c2", group=8, pads=[1] * 4),
        node("Clip", f"c2 {low[1][0]} {low[1][1]}", "a2"),
        node("Conv", "a2 w3", "e"),
        node("Add", add, "r"),
        *head,
        node("Gemm", "f fc fb", "y", transB=1),
    ]
    return model(nodes, constants=constants, opset=opset)


@pytest.mark.parametrize("style", ["dynamo", "legacy"])
def test_both_exporters_end_in_one_form(style):
    graph = canonical(
        exporter_block(style),
        *["Conv", "Clip", "Conv", "Clip", "Conv", "Add", "GlobalAveragePool", "Flatten", "Gemm"],
        depth=4 * DEPTH,
    )
    assert all(op.attrs["max"] == 6 for op in graph.ops() if op.kind == "Clip")


@pytest.mark.parametrize("build", [zoo.resnet18, zoo.resnet50, zoo.mobilenet_v2])
def test_zoo_models_are_canonical_up_to_spelling(build):
    proto = build(size=32, width=0.25, classes=7)
    kinds = [op.kind for op in read(proto).ops()]
    canonical(proto, *kinds, depth=4096)


# ---- the check -------------------------------------------------------------------------------------------------------
def graph_of(kind, attrs, *shapes, result=(1, 4, 8, 8), constants=0):
    """A graph of one op, whose last inputs are constants."""
    names = [f"t{index}" for index in range(len(shapes))]
    tensors = [
        Tensor(name, shape, "float32", np.zeros(shape, np.float32) if index >= len(shapes) - constants else None)
        for index, (name, shape) in enumerate(zip(names, shapes, strict=True))
    ]
    inputs = names[: len(names) - constants]
    return Graph("g", inputs, ["y"], [*tensors, Tensor("y", result, "float32")], [Op(kind, "op", names, ("y",), attrs)])


IMAGE = (1, 4, 8, 8)
WINDOW = {"kernel_shape": (1, 1), "strides": (1, 1), "pads": (0,) * 4, "dilations": (1, 1)}


@pytest.mark.parametrize(
    "graph",
    [
        graph_of("Conv", WINDOW, IMAGE, (4, 4, 1, 1), (4,), constants=2),
        graph_of("Conv", {**WINDOW, "group": 1}, IMAGE, (4, 4, 1, 1), constants=1),
        graph_of("Conv", {**WINDOW, "group": 1}, IMAGE, (4, 4, 1, 1), (3,), constants=2),
        graph_of("Conv", {**WINDOW, "group": 1}, IMAGE, (4, 4, 3, 3), (4,), constants=2),
        graph_of("MaxPool", WINDOW, IMAGE),
        graph_of("AveragePool", {**WINDOW, "ceil_mode": 0}, IMAGE),
        graph_of("Gemm", {}, (1, 4), (4, 4), (4,), constants=2),
        graph_of("Gemm", {"transB": 1}, (1, 4), (4, 4), constants=1),
        graph_of("Gemm", {"transB": 1}, (1, 4), (4, 4), (1, 4), constants=2),
        graph_of("Clip", {"min": 0.0}, IMAGE),
        graph_of("Clip", {"min": 0.0, "max": 1.0}, IMAGE, (), constants=1),
        graph_of("Add", {}, IMAGE),
        graph_of("Flatten", {"axis": 1}, (1, 4), result=(1, 4)),
        graph_of("GlobalAveragePool", {}, IMAGE),
        graph_of("HardSigmoid", {}, IMAGE),
        graph_of("Swish", {"alpha": 1.0}, IMAGE),
        graph_of("Sum", {}, IMAGE),
        graph_of("Mul", {}, IMAGE, IMAGE, IMAGE),
        graph_of("BatchNormalization", {}, IMAGE),
        graph_of("Gelu", {}, IMAGE),
        graph_of("HardSwish", {"alpha": 1.0}, IMAGE),
        graph_of("Relu", {"alpha": 1.0}, IMAGE),
        graph_of("Squeeze", {}, IMAGE),
        graph_of("Unsqueeze", {}, IMAGE),
        graph_of("Dropout", {}, IMAGE),
        graph_of("LayerNormalization", {"axes": (1,)}, IMAGE, (4,), (4,), constants=2),
        graph_of("LayerNormalization", {"axes": (2,), "epsilon": 1e-5}, IMAGE, (4,), (4,), constants=2),
        graph_of("LayerNormalization", {"axes": (1,), "epsilon": 1e-5}, IMAGE, (4,), constants=1),
        graph_of("LayerNormalization", {"axes": (1,), "epsilon": 1e-5}, IMAGE, (4,), (4,), constants=1),
        graph_of("LayerNormalization", {"axes": (1,), "epsilon": 1e-5}, IMAGE, (8,), (8,), constants=2),
    ],
    ids=str,
)
def test_the_check_sees(graph):
    with pytest.raises(InternalError, match=r"not canonical: \w+ 'op' \w+"):
        check_canonical(graph)


# ---- writing ---------------------------------------------------------------------------------------------------------
def test_more_outputs():
    proto = zoo.resnet18(size=32, width=0.125)
    before = proto.SerializeToString()
    more = with_outputs(proto, ["relu1", "output", "relu1", "input"])
    assert proto.SerializeToString() == before
    graph = read(proto)
    results = run(more, feeds_of(graph))
    assert list(results) == ["output", "relu1", "input"]
    assert results["relu1"].shape == graph.tensor("relu1").shape
    with pytest.raises(ModelError, match="no tensor 'nothing'"):
        with_outputs(proto, ["nothing"])


def test_written_names_are_not_taken_twice():
    scale = {"s": floats(4), "t": floats(4)}
    norm = [node("LayerNormalization", "l s t", "n", "norm"), node("Transpose", "n", "y", perm=[0, 3, 1, 2])]
    nodes = [
        node("Softmax", "x", "f", "norm.first"),
        node("Transpose", "f", "l", "norm.last", perm=[0, 2, 3, 1]),
        *norm,
    ]
    canonical(model(nodes, constants=scale), "Softmax", "LayerNormalization")
    nodes = [node("Softmax", "x", "f", "s.gate"), node("Sigmoid", "f", "g", "g"), node("Mul", "f g", "y", "s")]
    canonical(model(nodes), "Softmax", "Swish")


def test_constants_of_no_dimension_are_written_as_such():
    nodes = [node("Gather", "x k", "g", axis=2), node("MatMul", "g w", "y")]
    canonical(model(nodes, constants={"k": np.array(3), "w": floats(8, 5)}), "Gather", "MatMul")


def test_writing_what_onnx_lacks_is_refused():
    with pytest.raises(UnsupportedModelError, match="Fuse 'op' is no operator"):
        to_onnx(graph_of("Fuse", {}, IMAGE))
    with pytest.raises(UnsupportedModelError, match="'slope'"):
        to_onnx(graph_of("Relu", {"slope": 1.0}, IMAGE))
