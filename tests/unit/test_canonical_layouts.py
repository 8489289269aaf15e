"""Canonical form of normalizations, of images with channels last, and of fully connected layers of images."""

import numpy as np
import pytest

from blockfuse.frontend import canonicalize, read
from tests.canonical_models import canonical, only
from tests.onnx_models import floats, model, node

TO_LAST, TO_FIRST = [0, 2, 3, 1], [0, 3, 1, 2]
LAST = node("Transpose", "x", "l", perm=TO_LAST)


def first(name):
    """The transposition of a tensor back to N, C, H, W, which makes the output."""
    return node("Transpose", name, "y", perm=TO_FIRST)


# ---- layer normalization ---------------------------------------------------------------------------------------------
NORM = {"s": floats(4, seed=1), "t": floats(4, seed=2)}


def test_normalization_between_transposes():
    nodes = [LAST, node("LayerNormalization", "l s t", "n", "norm", axis=-1, epsilon=1e-3), first("n")]
    graph = canonical(model(nodes, constants=NORM), "LayerNormalization")
    op = only(graph)
    assert dict(op.attrs) == {"axes": (1,), "epsilon": pytest.approx(1e-3)}
    assert (op.inputs[0], op.origin) == ("x", ("norm",))


def test_normalization_without_a_shift_and_over_the_third_axis():
    nodes = [LAST, node("LayerNormalization", "l s", "n", axis=3), first("n")]
    graph = canonical(model(nodes, constants={"s": NORM["s"]}), "LayerNormalization")
    assert not graph.constant(only(graph).inputs[2]).any()


def test_normalization_of_a_matrix():
    proto = model([node("LayerNormalization", "x s t", "y")], (3, 4), NORM)
    assert only(canonical(proto, "LayerNormalization")).attrs["axes"] == (1,)


@pytest.mark.parametrize(("axis", "scale"), [(1, (4, 8, 8)), (2, (8, 8)), (-1, (8,))])
def test_normalizations_over_other_axes_stay(axis, scale):
    constants = {"s": floats(*scale), "t": floats(*scale)}
    graph = canonical(
        model([node("LayerNormalization", "x s t", "y", axis=axis)], constants=constants), "LayerNormalization"
    )
    assert "axes" not in only(graph).attrs


def written_out(axis, style, x="x"):
    """The nodes of a layer normalization as exporters wrote it before opset 17, and as people write it in a model."""
    mean = [node("ReduceMean", x, "m", axes=[axis]), node("Sub", f"{x} m", "d")]
    square = {
        "legacy": [node("Pow", "d two", "q")],
        "product": [node("Mul", "d d", "q")],
        "again": [node("Sub", f"{x} m", "d2"), node("Pow", "d2 two", "q")],
        "means": [node("ReduceMean", x, "m2", axes=[axis]), node("Sub", f"{x} m2", "d2"), node("Mul", "d2 d2", "q")],
    }.get(style, [node("Pow", "d two", "q")])
    spread = [node("ReduceMean", "q", "v", axes=[axis]), node("Add", "eps v", "e")]
    last = {
        "reciprocal": [node("Sqrt", "e", "r"), node("Reciprocal", "r", "i"), node("Mul", "i d", "n")],
        "one over": [node("Sqrt", "e", "r"), node("Div", "one r", "i"), node("Mul", "d i", "n")],
        "power": [node("Pow", "e minus", "i"), node("Mul", "d i", "n")],
    }.get(style, [node("Sqrt", "e", "r"), node("Div", "d r", "n")])
    return [*mean, *square, *spread, *last]


NUMBERS = {
    "two": np.float32(2),
    "one": np.float32(1),
    "minus": np.float32(-0.5),
    "eps": np.float32(1e-6),
    "s": NORM["s"].reshape(4, 1, 1),
    "t": NORM["t"].reshape(4, 1, 1),
}
STYLES = ["legacy", "product", "again", "means", "reciprocal", "one over", "power"]


@pytest.mark.parametrize("style", STYLES)
def test_normalization_written_out(style):
    nodes = [*written_out(1, style), node("Mul", "s n", "p"), node("Add", "p t", "y")]
    op = only(canonical(model(nodes, constants=NUMBERS, opset=13), "LayerNormalization"))
    assert dict(op.attrs) == {"axes": (1,), "epsilon": pytest.approx(1e-6)}
    assert len(op.origin) == len(nodes)


@pytest.mark.parametrize("style", STYLES)
def test_normalization_written_out_with_channels_last(style):
    nodes = [LAST, *written_out(-1, style, "l"), node("Mul", "n s", "p"), node("Add", "p t", "z"), first("z")]
    constants = {**NUMBERS, **NORM}
    assert only(canonical(model(nodes, constants=constants, opset=13), "LayerNormalization")).inputs[0] == "x"


def test_normalization_over_the_last_of_three_axes():
    nodes = [*written_out(2, "legacy"), node("Mul", "n k", "y")]
    constants = {"two": np.float32(2), "eps": np.float32(1e-6), "k": floats(6)}
    op = only(canonical(model(nodes, (2, 5, 6), constants, opset=13), "LayerNormalization"))
    assert op.attrs["axis"] == -1


def test_a_summand_before_a_factor_is_scaled_too():
    nodes = [*written_out(1, "legacy"), node("Add", "n t", "p"), node("Mul", "p s", "y")]
    canonical(model(nodes, constants=NUMBERS, opset=13), "LayerNormalization")


NEAR_MISSES = {
    "the variance along another axis": ("legacy", 3, node("ReduceMean", "q", "v", axes=[2])),
    "no square": ("legacy", 2, node("Pow", "d one", "q")),
    "another mean": ("legacy", 0, node("ReduceMean", "eps", "m", axes=[0])),
    "a mean that broadcasts over the images": ("legacy", 0, node("ReduceMean", "x", "m", axes=[1], keepdims=0)),
    "an epsilon per channel": ("legacy", 4, node("Add", "v t", "e")),
    "the variance of something else": ("again", 2, node("Sub", "w m", "d2")),
}


@pytest.mark.parametrize("miss", NEAR_MISSES)
def test_what_looks_like_a_normalization_stays(miss):
    style, position, other = NEAR_MISSES[miss]
    nodes = written_out(1, style)
    nodes[position] = other
    constants = {"two": np.float32(2), "one": np.float32(1), "eps": np.full((1, 1, 1, 1), 20, np.float32)}
    constants |= {"t": abs(floats(4, 1, 1)) + 0.5, "w": floats(4, 4, 8, 8)}
    graph = canonicalize(read(model(nodes, (4, 4, 8, 8), constants, opset=13, outputs=("n",))))
    assert "LayerNormalization" not in [op.kind for op in graph.ops()]


def test_a_factor_of_another_shape_stays_behind_the_normalization():
    nodes = [*written_out(1, "legacy"), node("Mul", "n k", "y")]
    proto = model(nodes, constants={**NUMBERS, "k": floats(8)}, opset=13)
    canonical(proto, "LayerNormalization", "Mul")


# ---- channels last ---------------------------------------------------------------------------------------------------
def test_a_matrix_product_over_channels_is_a_pointwise_convolution():
    nodes = [LAST, node("MatMul", "l w", "m", "mm"), node("Add", "b m", "a", "add"), first("a")]
    op = only(canonical(model(nodes, constants={"w": floats(4, 6), "b": floats(6)}), "Conv"))
    assert (op.attrs["kernel_shape"], op.origin) == ((1, 1), ("mm", "add"))


@pytest.mark.parametrize("constant", [(), (1,), (4,), (1, 1, 4), (1, 8, 1, 4)])
@pytest.mark.parametrize("order", ["l k", "k l"])
@pytest.mark.parametrize("kind", ["Sub", "Div", "Add"])
def test_arithmetic_with_constants(kind, order, constant):
    nodes = [LAST, node(kind, order, "a"), first("a")]
    canonical(model(nodes, constants={"k": abs(floats(*constant)) + 0.5}), kind)


@pytest.mark.parametrize("kind", ["Relu", "Sigmoid", "Tanh", "HardSwish", "LeakyRelu", "Elu"])
def test_activations(kind):
    canonical(model([LAST, node(kind, "l", "a"), first("a")]), kind)


def test_a_transpose_with_several_readers_and_sums_of_two():
    other = node("Transpose", "r", "k", perm=TO_LAST)
    nodes = [LAST, node("Relu", "x", "r"), other, node("Sigmoid", "l", "g"), node("Add", "g k", "z"), first("z")]
    canonical(model(nodes), "Relu", "Sigmoid", "Add")


def test_transposes_that_meet_no_inverse_stay():
    canonical(model([LAST, node("Relu", "l", "y")]), "Relu", "Transpose")
    canonical(model([LAST, node("Softsign", "l", "s"), first("s")]), "Transpose", "Softsign", "Transpose")
    canonical(model([LAST, node("Add", "l x", "y")], (1, 4, 4, 4)), "Transpose", "Add")
    canonical(model([LAST, node("Relu", "l", "r"), node("Transpose", "r", "y", perm=TO_LAST)]), "Relu", "Transpose")
    canonical(model([LAST, node("MatMul", "x l", "y")], (1, 4, 4, 4)), "Transpose", "MatMul")
    rows = {"s": floats(8, 4), "t": floats(8, 4)}
    nodes = [LAST, node("LayerNormalization", "l s t", "n", axis=2), first("n")]
    canonical(model(nodes, constants=rows), "Transpose", "LayerNormalization", "Transpose")


def test_transposes_without_a_permutation_turn_all_axes_around():
    nodes = [node("Transpose", "x", "a"), node("Transpose", "a", "b"), node("Relu", "b", "y")]
    canonical(model(nodes), "Relu")
    nodes = [node("Transpose", "x", "a"), node("Transpose", "a", "y", perm=[1, 0, 2, 3])]
    assert only(canonical(model(nodes), "Transpose")).attrs["perm"] == (2, 3, 1, 0)


def test_a_transpose_of_pixels_before_a_change_of_shape_is_part_of_it():
    nodes = [node("GlobalAveragePool", "x", "p"), node("Transpose", "p", "l", perm=TO_LAST), node("Flatten", "l", "y")]
    canonical(model(nodes), "GlobalAveragePool", "Flatten")
    nodes = [LAST, node("Flatten", "l", "y")]
    canonical(model(nodes), "Transpose", "Flatten")


@pytest.mark.parametrize("taken", ["r.last", "m.last"])
def test_names_of_ops_are_not_taken_twice(taken):
    nodes = [node("Transpose", "x", "l", "t", perm=TO_LAST), node("Relu", "l", "r", "r")]
    nodes += [node("MatMul", "r w", "m", "m"), node("Softmax", "m", "s", taken)]
    canonical(model(nodes, constants={"w": floats(4, 6)}, outputs=("s",)), "Relu", "Conv", "Softmax", "Transpose")


def convnext_block(style):
    """A ConvNeXt block and the end of a network, as PyTorch's exporters write torchvision's and timm's."""
    constants = {
        "w1": floats(4, 1, 7, 7, seed=1),
        "w2": floats(4, 16, seed=2) / 2,
        "w3": floats(16, 4, seed=3) / 4,
        "b": floats(4, seed=4),
        "b2": floats(16, seed=5),
        "fc": floats(5, 4, seed=6),
        **NORM,
        "root": np.float32(2**0.5),
        "one": np.float32(1),
        "half": np.float32(0.5),
        "g": floats(4, 1, 1, seed=7) if "torchvision" in style else floats(1, 4, 1, 1, seed=7),
    }
    body = [
        node("Conv", "x w1 b", "c", group=4, pads=[3] * 4),
        node("Transpose", "c", "l", perm=TO_LAST),
        node("LayerNormalization", "l s t", "n", axis=-1, epsilon=1e-6),
        node("MatMul", "n w2", "m1"),
        node("Add", "m1 b2" if "dynamo" in style else "b2 m1", "a"),
        *gelu(style),
        node("MatMul", "gelu w3", "m2"),
        node("Add", "m2 b" if "dynamo" in style else "b m2", "z"),
        node("Transpose", "z", "f", perm=TO_FIRST),
        node("Mul", "g f" if "torchvision" in style else "f g", "k"),
        node("Add", "k x", "r"),
    ]
    constants |= {"axes": np.array([2, 3])} if "dynamo" in style else {}
    pooled = node("ReduceMean", "r axes", "p", keepdims=1) if "dynamo" in style else node("GlobalAveragePool", "r", "p")
    head = [
        pooled,
        node("Transpose", "p", "pl", perm=TO_LAST),
        node("LayerNormalization", "pl s t", "pn", axis=-1, epsilon=1e-6),
        node("Transpose", "pn", "pf", perm=TO_FIRST),
        node("Flatten", "pf", "v"),
        node("Gemm", "v fc", "y", transB=1),
    ]
    used = {name for part in (*body, *head) for name in part.input}
    constants = {name: value for name, value in constants.items() if name in used}
    return model([*body, *head], constants=constants, opset=20 if "20" in style else 18)


def gelu(style):
    """Gelu of ``a``: one node since opset 20, before that in the association of each exporter."""
    if "20" in style:
        return [node("Gelu", "a", "gelu")]
    curve = [node("Div", "a root", "a1"), node("Erf", "a1", "a2"), node("Add", "a2 one", "a3")]
    if "dynamo" in style:
        return [*curve, node("Mul", "half a3", "a4"), node("Mul", "a a4", "gelu")]
    return [*curve, node("Mul", "a a3", "a4"), node("Mul", "a4 half", "gelu")]


@pytest.mark.parametrize(
    "style", ["dynamo torchvision", "legacy torchvision", "dynamo timm", "legacy timm", "dynamo 20"]
)
def test_both_exporters_of_convnext_end_in_one_form(style):
    block = ["Conv", "LayerNormalization", "Conv", "Gelu", "Conv", "Add"]
    head = ["GlobalAveragePool", "LayerNormalization", "Flatten", "Gemm"]
    canonical(convnext_block(style), *block, *head, depth=512)


# ---- fully connected layers of images --------------------------------------------------------------------------------
def test_a_layer_of_a_flat_image_is_a_convolution_of_the_image():
    nodes = [node("Flatten", "x", "f"), node("Gemm", "f w b", "y", "fc", transB=1)]
    graph = canonical(model(nodes, (2, 4, 3, 5), {"w": floats(7, 60), "b": floats(7)}), "Conv", "Flatten")
    conv = graph.op("fc")
    assert (conv.attrs["kernel_shape"], graph.tensor(conv.output).shape) == ((3, 5), (2, 7, 1, 1))


def test_only_the_first_layer_of_a_flat_image_is_a_convolution():
    nodes = [
        node("Flatten", "x", "f"),
        node("MatMul", "f w", "m"),
        node("Relu", "m", "r"),
        node("Gemm", "r v", "y", transB=1),
    ]
    proto = model(nodes, (2, 4, 3, 5), {"w": floats(60, 7), "v": floats(3, 7)})
    canonical(proto, "Conv", "Flatten", "Relu", "Gemm")


@pytest.mark.parametrize("style", ["linear", "expand", "view"])
def test_gates_of_fully_connected_layers(style):
    constants = {"w1": floats(4, 2), "w2": floats(2, 4), "b": floats(2), "two": np.array([1, 4, 1, 1])}
    nodes = [
        node("GlobalAveragePool", "x", "p"),
        node("Flatten", "p", "f") if style != "view" else node("Reshape", "p flat", "f"),
        node("Gemm", "f w1 b", "m1"),
        node("Relu", "m1", "r"),
        node("MatMul", "r w2", "m2"),
        node("Sigmoid", "m2", "s"),
        node("Reshape", "s two", "g"),
    ]
    if style == "view":
        constants["flat"] = np.array([1, -1])
    if style == "expand":
        constants["size"] = np.array([1, 4, 8, 8])
        nodes += [node("Expand", "g size", "e"), node("Mul", "x e", "y")]
    else:
        nodes.append(node("Mul", "g x", "y"))
    canonical(model(nodes, constants=constants), "GlobalAveragePool", "Conv", "Relu", "Conv", "Sigmoid", "Mul")


def test_an_expansion_that_makes_the_shape_stays():
    constants = {"size": np.array([1, 4, 8, 8]), "k": floats(4, 1, 1)}
    canonical(model([node("Expand", "x size", "e"), node("Mul", "e k", "y")], (1, 4, 1, 1), constants), "Expand", "Mul")


def test_vectors_that_become_pixels_elsewhere():
    nodes = [node("Relu", "x", "r"), node("Reshape", "r s", "z"), node("GlobalMaxPool", "z", "y")]
    constants = {"s": np.array([2, 4, 1, 1])}
    canonical(model(nodes, (2, 4), constants), "Reshape", "Relu", "GlobalMaxPool")
    both = [*nodes[:2], node("Neg", "r", "y")]
    canonical(model(both, (2, 4), constants, outputs=("y", "z")), "Relu", "Reshape", "Neg")
