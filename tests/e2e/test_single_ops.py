"""Every op without a kernel of ours, in both layouts, against ONNX Runtime."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from blockfuse import frontend
from blockfuse.build.assemble import alone
from blockfuse.build.border import computed_in
from blockfuse.build.build import build
from blockfuse.build.emitters import EMITTERS
from blockfuse.build.fallback import survey
from blockfuse.build.layout import CHANNELS_LAST, assign, changes_order
from blockfuse.errors import UnsupportedModelError
from blockfuse.graph import Op
from blockfuse.runtime.session import Session
from blockfuse.target import parse_target
from tests import backend_nodes
from tests import toy_networks as toy
from tests.onnx_models import run

FUNCTION_DEPTH = 60
"""Roundings of the longest function; sums of an image add 48."""

CPU = parse_target("cpu", threads=1)
IMAGE = toy.IMAGE
POOL = {"kernel_shape": (3, 2), "strides": (2, 1), "pads": (1, 0, 1, 1), "dilations": (1, 1), "ceil_mode": 0}
CEIL = {"kernel_shape": (2, 3), "strides": (2, 2), "pads": (0, 0, 0, 0), "ceil_mode": 1}
PADDED = {**CEIL, "pads": (1, 1, 1, 1)}
NARROW = {"kernel_shape": (3,), "strides": (2,), "pads": (1, 1), "dilations": (1,), "ceil_mode": 0}
UP, DOWN = np.array([1, 1, 1.4, 1.5], np.float32), np.array([1, 1, 0.4, 0.5], np.float32)
REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Min", "Prod", "SumSquare")
CHANNELS = np.linspace(-1, 2, IMAGE[1], dtype=np.float32).reshape(-1, 1, 1)


def values(*shape):
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


def case(kind, *shapes, output=IMAGE, constants=None, name=None, dtype="float32", outputs=("y",), **attrs):
    """A test of an op on images or vectors ``x0``, ``x1``, .. and constants."""
    op = Op(kind, "op", (*(f"x{i}" for i in range(len(shapes or (IMAGE,)))), *(constants or {})), outputs, attrs)
    return Case(name or kind, op, shapes or (IMAGE,), output, constants or {}, dtype)


@dataclass(frozen=True)
class Case:
    name: str
    op: Op
    shapes: tuple[tuple[int, ...], ...]
    output: tuple[int, ...]
    constants: dict[str, np.ndarray]
    dtype: str

    def network(self, *, before=False):
        op = self.op
        if op.kind == "Resize":  # its second input is omitted
            op = replace(op, inputs=(op.inputs[0], "", *op.inputs[1:]))
        if op.kind == "Where":  # its condition comes first
            op = replace(op, inputs=(op.inputs[1], op.inputs[0], *op.inputs[2:]))
        constants = {name: np.asarray(value) for name, value in self.constants.items()}
        return toy.single_op(op, *self.shapes, constants=constants, output=self.output, before=before, dtype=self.dtype)


IMAGES = [
    *(case(kind) for kind in ("Abs", "Erf", "Exp", "HardSwish", "Identity", "Neg", "Relu", "Sigmoid", "Tanh")),
    *(case(kind) for kind in ("Ceil", "Floor", "Mish", "Reciprocal", "Round", "Sign", "Softplus", "Softsign")),
    *(case(kind, IMAGE, IMAGE) for kind in ("Add", "Mul", "Sub", "Div", "Max", "Mean", "Min")),
    *(case(kind, IMAGE, IMAGE, dtype="bool") for kind in ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")),
    case("ArgMax", output=(2, 1, 5, 6), axis=1, keepdims=1, dtype="int64"),
    case("ArgMin", output=(2, 8, 5, 1), axis=-1, keepdims=1, select_last_index=1, dtype="int64"),
    case("ArgMax", output=(2, 5, 6), axis=1, keepdims=0, dtype="int64", name="ArgMax-flat"),
    case("Cast", to=6, dtype="int32"),
    case("CastLike", constants={"like": np.zeros(1, np.uint8)}, dtype="uint8"),
    case("Celu", alpha=0.7),
    case("Clip", constants={"low": np.float32(-0.25)}, name="Clip-input"),
    case("DepthToSpace", output=(2, 2, 10, 12), blocksize=2, mode="DCR"),
    case("DepthToSpace", output=(2, 2, 10, 12), blocksize=2, mode="CRD", name="DepthToSpace-CRD"),
    case("Elu", alpha=1.5),
    case("Gather", output=(2, 3, 5, 6), constants={"at": np.array([7, -2, 0])}, axis=1),
    case("GlobalLpPool", output=(2, 8, 1, 1), p=3),
    case("GroupNormalization", constants={"s": values(8), "t": values(8)}, num_groups=4, epsilon=1e-3),
    case("InstanceNormalization", constants={"s": values(8), "t": values(8)}, epsilon=1e-3),
    case("LRN", size=5, alpha=0.5, beta=0.7, bias=1.5),
    case("LayerNormalization", constants={"s": values(8), "t": values(8)}, axes=(1,), epsilon=1e-3),
    case("LayerNormalization", constants={"s": values(5, 6)}, axis=-2, name="LayerNormalization-plane"),
    case("LogSoftmax", axis=1),
    case("LpNormalization", axis=1, p=2),
    case("LpNormalization", axis=-1, p=1, name="LpNormalization-width"),
    case("LpPool", output=(2, 8, 3, 6), p=3, **POOL),
    case("MeanVarianceNormalization", axes=(0, 2, 3)),
    case("PRelu", constants={"slope": CHANNELS}),
    case("Pad", output=(2, 8, 7, 9), constants={"pads": np.array([0, 0, 1, 2, 0, 0, 1, 1])}, mode="constant"),
    case(
        "Pad",
        output=(2, 8, 7, 9),
        constants={"pads": np.array([0, 0, 1, 2, 0, 0, 1, 1])},
        mode="reflect",
        name="Pad-reflect",
    ),
    case(
        "Pad",
        output=(2, 9, 4, 6),
        constants={"pads": np.array([0, 1, -1, 0, 0, 0, 0, 0])},
        mode="edge",
        name="Pad-edge",
    ),
    case("QuantizeLinear", constants={"s": np.float32(0.02), "z": np.uint8(100)}, axis=1, dtype="uint8"),
    case(
        "QuantizeLinear",
        constants={"s": abs(values(8)), "z": np.zeros(8, np.int8)},
        axis=1,
        dtype="int8",
        name="Quantize-channels",
    ),
    *(case(f"Reduce{kind}", output=(2, 1, 5, 6), constants={"a": np.array([1])}, keepdims=1) for kind in REDUCTIONS),
    case("ReduceMean", output=(1, 1, 1, 1), keepdims=1, name="ReduceMean-all"),
    case("Resize", output=(2, 8, 10, 12), constants={"scales": np.array([1, 1, 2, 2], np.float32)}, mode="nearest"),
    case("Resize", output=(2, 8, 7, 9), constants={"scales": UP}, mode="linear", name="Resize-linear"),
    case("Resize", output=(2, 8, 7, 9), constants={"scales": UP}, mode="cubic", name="Resize-cubic"),
    case(
        "Resize", output=(2, 8, 2, 3), constants={"scales": DOWN}, mode="linear", antialias=1, name="Resize-antialias"
    ),
    case("Selu", alpha=1.6, gamma=1.1),
    case(
        "Slice", output=(2, 4, 5, 6), constants={n: np.array([v]) for n, v in zip("seat", (6, -9, 1, -2), strict=True)}
    ),
    case(
        "Slice",
        output=(2, 8, 2, 2),
        constants={"s": np.array([1, 2]), "e": np.array([4, 99]), "a": np.array([2, 3]), "t": np.array([2, 2])},
        name="Slice-two",
    ),
    case("SpaceToDepth", (2, 8, 4, 6), output=(2, 32, 2, 3), blocksize=2),
    case("Split", output=(2, 4, 5, 6), outputs=("y", "z"), axis=1, num_outputs=2),
    case("ThresholdedRelu", alpha=0.4),
    case("Tile", output=(4, 8, 5, 18), constants={"r": np.array([2, 1, 1, 3])}),
    case("Where", IMAGE, constants={"c": CHANNELS > 0, "o": np.float32(2)}, name="Where"),
    case("Clip", min=-0.5, max=1.0),
    case("Clip", min=-np.inf, max=0.25, name="Clip-above"),
    case("Gelu", approximate="none"),
    case("Gelu", approximate="tanh", name="Gelu-tanh"),
    case("HardSigmoid", alpha=0.3, beta=0.4),
    case("LeakyRelu", alpha=0.2),
    case("Swish"),
    case("Add", constants={"c": CHANNELS}, name="Add-channels"),
    case("Mul", IMAGE, (2, 8, 1, 1), name="Mul-gate"),
    case("Mul", constants={"c": np.float32(3)}, name="Mul-scalar"),
    case("Pow", constants={"c": np.float32(2)}),
    case("Concat", IMAGE, IMAGE, output=(2, 16, 5, 6), axis=1),
    case("Concat", IMAGE, IMAGE, output=(2, 8, 5, 12), axis=-1, name="Concat-width"),
    case("Softmax", axis=1),
    case("Softmax", axis=-1, name="Softmax-width"),
    case("MaxPool", output=(2, 8, 3, 6), **POOL),
    case("AveragePool", output=(2, 8, 3, 6), **POOL, count_include_pad=0),
    case("AveragePool", output=(2, 8, 3, 6), **POOL, count_include_pad=1, name="AveragePool-pad"),
    case("GlobalAveragePool", output=(2, 8, 1, 1)),
    case("GlobalMaxPool", output=(2, 8, 1, 1)),
    case("ReduceMean", output=(2, 8, 1, 1), constants={"axes": np.array([2, 3])}, keepdims=1),
    case("ReduceMean", output=(2, 8), constants={"axes": np.array([-1, 2])}, keepdims=0, name="ReduceMean-flat"),
    case("ReduceSum", output=(2, 1, 5, 6), constants={"axes": np.array([1])}, keepdims=1),
    case("ReduceMax", output=(2, 8, 1, 6), constants={"axes": np.array([2])}, keepdims=1),
    case(
        "Conv",
        output=(2, 4, 5, 6),
        constants={"w": values(4, 4, 3, 3), "b": values(4)},
        group=2,
        strides=(1, 1),
        dilations=(1, 1),
        kernel_shape=(3, 3),
        pads=(1, 1, 1, 1),
    ),
    case(
        "ConvTranspose",
        output=(2, 3, 11, 6),
        constants={"w": values(8, 3, 3, 3), "b": values(3)},
        group=1,
        strides=(2, 1),
        dilations=(1, 1),
        kernel_shape=(3, 3),
        pads=(0, 1, 0, 1),
    ),
    case("AveragePool", output=(2, 8, 3, 3), **CEIL, count_include_pad=1, name="AveragePool-ceil"),
    case("AveragePool", output=(2, 8, 3, 3), **CEIL, count_include_pad=0, name="AveragePool-bare"),
    case("MaxPool", output=(2, 8, 3, 3), **CEIL, name="MaxPool-ceil"),
    case("AveragePool", output=(2, 8, 3, 4), **PADDED, count_include_pad=1, name="AveragePool-padded"),
    case("Expand", (2, 8, 1, 6), constants={"s": np.array([2, 8, 5, 6])}),
    case("Flatten", output=(2, 240), axis=1),
    case("Reshape", output=(2, 4, 60), constants={"shape": np.array([2, 4, 60])}),
    case("Transpose", output=(2, 5, 8, 6), perm=(0, 2, 1, 3)),
    case("BatchNormalization", constants={n: abs(values(8)) + 0.5 for n in "abcd"}, epsilon=1e-3),
]
VECTORS = [
    case("Softmax", (3, 7), output=(3, 7), axis=-1, name="Softmax-rows"),
    case("Gemm", (3, 7), output=(3, 4), constants={"w": values(4, 7), "b": values(4)}, transB=1),
    case("MatMul", (3, 7), (7, 4), output=(3, 4)),
    case("RMSNormalization", (3, 7), output=(3, 7), constants={"s": values(7)}, axis=-1, epsilon=1e-3),
    case("AveragePool", (2, 3, 9), output=(2, 3, 5), **NARROW, count_include_pad=0, name="AveragePool-1d"),
    case(
        "LayerNormalization",
        (2, 8, 9),
        output=(2, 8, 9),
        constants={"s": values(8), "t": values(8)},
        axes=(1,),
        epsilon=1e-3,
        name="LayerNormalization-1d",
    ),
    case("Log", (1,), output=(1,), name="Log-one"),
    case("Sqrt", (1,), output=(1,), name="Sqrt-one"),
    case("Unsqueeze", (3, 7), output=(3, 1, 7), constants={"axes": np.array([1])}),
    case("Squeeze", (3, 1, 7), output=(3, 7), constants={"axes": np.array([1])}),
]


def importer(network):
    """Any op of a network as ONNX has it."""
    return lambda op: frontend.to_onnx(alone(network, op))


def given(case):
    """Inputs of a case: positive ones where the function asks for that."""
    inputs = {f"x{i}": abs(values(*shape)) for i, shape in enumerate(case.shapes)}
    is_positive = case.op.kind in {"Log", "Pow", "ReduceLogSum", "Reciprocal", "Sqrt"}
    return inputs if is_positive else {name: value - 0.7 for name, value in inputs.items()}


def expected(case):
    network, _ = case.network()
    (op,) = network.steps
    inputs = {name: value for name, value in given(case).items() if name in op.inputs}
    if case.op.kind == "RMSNormalization":  # ONNX Runtime has none
        (x,) = inputs.values()
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-3) * case.constants["s"]
    return run(importer(network)(op), inputs)["y"]


def computed(cases, *, before):
    """What a library with all of these cases returns, by name."""
    network, functions = toy.side_by_side({case.name: case.network(before=before) for case in cases})
    prefix = "in_" if before else ""
    feeds = {f"{case.name}/{prefix}{name}": value for case in cases for name, value in given(case).items()}
    results = Session(build(network, functions, CPU)).run(feeds)
    return {case.name: results[f"{case.name}/y"] for case in cases}


@pytest.fixture(scope="module")
def as_onnx_orders_it():
    return computed([*IMAGES, *VECTORS], before=False)


@pytest.fixture(scope="module")
def between_kernels():
    return computed(IMAGES, before=True)


def check(actual, case):
    wanted = expected(case)
    assert (actual.shape, actual.dtype) == (wanted.shape, wanted.dtype)
    toy.close(actual.astype(np.float64), wanted.astype(np.float64), depth=FUNCTION_DEPTH + 48)


@pytest.mark.parametrize("case", [*IMAGES, *VECTORS], ids=lambda case: case.name)
def test_op_as_onnx_orders_it(case, as_onnx_orders_it):
    check(as_onnx_orders_it[case.name], case)
    assert not assign(case.network()[0]).changes


@pytest.mark.parametrize("case", IMAGES, ids=lambda case: case.name)
def test_op_between_kernels(case, between_kernels):
    check(between_kernels[case.name], case)
    is_plane = case.op.kind == "LayerNormalization" and "axes" not in case.op.attrs
    keeps_layout = case.op.kind in CHANNELS_LAST and len(case.output) == 4 and not is_plane
    changes = len(assign(case.network(before=True)[0]).changes)
    assert changes == (len(case.op.outputs) * changes_order(case.output) if keeps_layout else 1)


@pytest.mark.parametrize("case", [*IMAGES, *VECTORS], ids=lambda case: case.name)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_op_in_half_precision_is_written(case, dtype):
    """As GPUs compute it; nothing is compiled."""
    network, _ = computed_in(case.network()[0], dtype)
    assert survey(network).unsupported == ()


@pytest.mark.parametrize("before", [False, True])
def test_other_ops_go_through_tvms_importer(before):
    op = Op("CumSum", "op", ("x0", "axis"), ("y",), {})
    network, functions = toy.single_op(op, IMAGE, constants={"axis": np.array(1)}, before=before)
    inputs = {port.name: values(*IMAGE) for port in network.inputs}
    library = build(network, functions, CPU, importer(network))
    toy.close(Session(library).run(inputs)["y"], values(*IMAGE).cumsum(1))
    assert library.layout_changes == int(before)
    with pytest.raises(UnsupportedModelError, match=r"single has 1 ops that cannot be compiled: CumSum 'op': "):
        build(network, functions, CPU)


def test_an_imported_op_that_reads_a_value_twice():
    op = Op("Mod", "op", ("x0", "x0"), ("y",), {"fmod": 1})
    network, functions = toy.single_op(op, (2, 3), output=(2, 3))
    library = build(network, functions, CPU, importer(network))
    assert not Session(library).run({"x0": abs(values(2, 3)) + 1})["y"].any()


def test_every_emitter_is_tested():
    """Here in both layouts; those on whole numbers and truths by ONNX's own tests."""
    tested = {case.op.kind for case in (*IMAGES, *VECTORS)}
    on_others = {"And", "DequantizeLinear", "Not", "Or", "Xor"}
    assert set(EMITTERS) == tested | on_others
    assert on_others <= backend_nodes.KINDS
    assert tested | on_others >= CHANNELS_LAST
