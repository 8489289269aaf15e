"""Every op without a kernel of ours, in both layouts, against ONNX Runtime."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from blockfuse.build.build import build
from blockfuse.build.emitters import EMITTERS
from blockfuse.build.layout import CHANNELS_LAST, changes_order
from blockfuse.errors import UnsupportedModelError
from blockfuse.graph import Op
from blockfuse.runtime.session import Session
from blockfuse.target import parse_target
from tests import toy_networks as toy

CPU = parse_target("cpu", threads=1)
IMAGE = toy.IMAGE
POOL = {"kernel_shape": (3, 2), "strides": (2, 1), "pads": (1, 0, 1, 1), "dilations": (1, 1), "ceil_mode": 0}
CEIL = {"kernel_shape": (2, 3), "strides": (2, 2), "pads": (0, 0, 0, 0), "ceil_mode": 1}
PADDED = {**CEIL, "pads": (1, 1, 1, 1)}
CHANNELS = np.linspace(-1, 2, IMAGE[1], dtype=np.float32).reshape(-1, 1, 1)


def values(*shape):
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


def case(kind, *shapes, output=IMAGE, constants=None, name=None, **attrs):
    return pytest.param(kind, shapes or (IMAGE,), output, constants or {}, attrs, id=name or kind)


IMAGES = [
    *(case(kind) for kind in ("Abs", "Erf", "Exp", "HardSwish", "Identity", "Neg", "Relu", "Sigmoid", "Tanh")),
    *(case(kind, IMAGE, IMAGE) for kind in ("Add", "Mul", "Sub", "Div", "Max", "Min")),
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
    case("Flatten", output=(2, 240), axis=1),
    case("Reshape", output=(2, 4, 60), constants={"shape": np.array([2, 4, 60])}),
    case("Transpose", output=(2, 5, 8, 6), perm=(0, 2, 1, 3)),
    case("BatchNormalization", constants={n: abs(values(8)) + 0.5 for n in "abcd"}, epsilon=1e-3),
]
VECTORS = [
    case("Softmax", (3, 7), output=(3, 7), axis=-1),
    case("Gemm", (3, 7), output=(3, 4), constants={"w": values(4, 7), "b": values(4)}, transB=1),
    case("MatMul", (3, 7), (7, 4), output=(3, 4)),
    case("Log", (1,), output=(1,), name="Log-one"),
    case("Sqrt", (1,), output=(1,), name="Sqrt-one"),
    case("Unsqueeze", (3, 7), output=(3, 1, 7), constants={"axes": np.array([1])}),
    case("Squeeze", (3, 1, 7), output=(3, 7), constants={"axes": np.array([1])}),
]
IMPORTED = [
    case("Resize", output=(2, 8, 10, 12), constants={"scales": np.array([1, 1, 2, 2], np.float32)}, mode="nearest"),
    case("Pad", output=(2, 8, 7, 9), constants={"pads": np.array([0, 0, 1, 2, 0, 0, 1, 1])}),
    case("AveragePool", output=(2, 8, 3, 3), **CEIL, count_include_pad=1),
    case("AveragePool", output=(2, 8, 3, 3), **CEIL, count_include_pad=0, name="AveragePool-bare"),
    case("MaxPool", output=(2, 8, 3, 3), **CEIL),
    case("AveragePool", output=(2, 8, 3, 4), **PADDED, count_include_pad=1, name="AveragePool-padded"),
    case("CumSum", constants={"axis": np.array(1)}),
    case("Conv", output=(2, 4, 5, 6), constants={"w": values(4, 4, 3, 3), "b": values(4)}, group=2, pads=(1, 1, 1, 1)),
]


def single(kind, shapes, output, constants, attrs, *, before=False):
    inputs = [f"x{i}" for i in range(len(shapes))]
    names = [*inputs, *constants]
    if kind == "Resize":
        names = ["x0", "", "scales"]
    op = Op(kind, "op", tuple(names), ("y",), attrs)
    constants = {name: np.asarray(value) for name, value in constants.items()}
    return op, *toy.single_op(op, *shapes, constants=constants, output=output, before=before)


def onnx_model(op, network):
    """What the op is in ONNX 22."""
    attrs = {name: value for name, value in op.attrs.items() if op.kind != "Clip"}
    inputs = list(op.inputs)
    constants = [name for name in op.inputs if network.is_constant(name)]
    initializers = [numpy_helper.from_array(network.tensors[name].value, name) for name in constants]
    if op.kind == "Clip":
        inputs += ["low", "high"]
        bounds = {"low": op.attrs["min"], "high": op.attrs["max"]}
        initializers += [numpy_helper.from_array(np.float32(value), name) for name, value in bounds.items()]
    nodes = [helper.make_node(op.kind, inputs, list(op.outputs), **attrs)]
    if op.kind == "Swish":
        nodes = [helper.make_node("Sigmoid", ["x0"], ["s"]), helper.make_node("Mul", ["x0", "s"], ["y"])]
    computed = [name for name in dict.fromkeys(op.inputs) if name and not network.tensors[name].is_constant]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, network.tensors[name].shape) for name in computed]
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, network.tensors["y"].shape)
    graph = helper.make_graph(nodes, "single", ports, [result], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def expected(op, network, inputs):
    model = onnx_model(op, network)
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, inputs)[0]


def check(op, network, functions, importer=None):
    inputs = {
        name: abs(values(*network.tensors[name].shape)) for name in op.inputs if name and not network.is_constant(name)
    }
    if op.kind not in ("Log", "Sqrt", "Pow"):
        inputs = {name: value - 0.7 for name, value in inputs.items()}
    library = build(network, functions, CPU, importer)
    renamed = {port.name: inputs[port.name.removeprefix("in_")] for port in network.inputs}
    actual = Session(library).run(renamed)["y"]
    toy.close(actual, expected(op, network, inputs))
    return library


@pytest.mark.parametrize(("kind", "shapes", "output", "constants", "attrs"), [*IMAGES, *VECTORS])
def test_op_as_onnx_orders_it(kind, shapes, output, constants, attrs):
    op, network, functions = single(kind, shapes, output, constants, attrs)
    assert check(op, network, functions).layout_changes == 0


@pytest.mark.parametrize(("kind", "shapes", "output", "constants", "attrs"), IMAGES)
def test_op_between_kernels(kind, shapes, output, constants, attrs):
    op, network, functions = single(kind, shapes, output, constants, attrs, before=True)
    library = check(op, network, functions)
    keeps_layout = kind in CHANNELS_LAST and len(output) == 4
    assert library.layout_changes == int(not keeps_layout or changes_order(output))


@pytest.mark.parametrize(("kind", "shapes", "output", "constants", "attrs"), IMPORTED)
@pytest.mark.parametrize("before", [False, True])
def test_other_ops_go_through_tvms_importer(kind, shapes, output, constants, attrs, before):
    op, network, functions = single(kind, shapes, output, constants, attrs, before=before)
    library = check(op, network, functions, lambda asked: onnx_model(asked, network))
    assert library.layout_changes == int(before)
    with pytest.raises(UnsupportedModelError, match=f"single has 1 ops that cannot be compiled: {kind} 'op': "):
        build(network, functions, CPU)


def test_an_imported_op_that_reads_a_value_twice():
    op = Op("Mod", "op", ("x0", "x0"), ("y",), {"fmod": 1})
    network, functions = toy.single_op(op, (2, 3), output=(2, 3))
    check(op, network, functions, lambda asked: onnx_model(asked, network))


def test_every_emitter_is_tested():
    tested = {parameter.values[0] for parameter in (*IMAGES, *VECTORS)}
    assert set(EMITTERS) == tested
    assert tested >= CHANNELS_LAST
