"""Operators without a kernel of ours, all in one network, for several batches against ONNX Runtime."""

import numpy as np
import onnx
import pytest

import blockfuse as bf
from blockfuse.verification.verify import reference_session
from tests.onnx_models import floats, model, node

SHAPE = ("N", 8, 6, 6)


def ints(*values):
    return np.array(values, np.int64)


def scales(*values):
    return np.array(values, np.float32)


UNARY = """
    Abs Ceil Celu Elu Erf Exp Floor Gelu HardSigmoid HardSwish LeakyRelu Log Mish Neg Reciprocal Round Selu Shrink
    Sigmoid Sign Sin Softplus Softsign Sqrt Tanh ThresholdedRelu GlobalAveragePool GlobalMaxPool GlobalLpPool
"""
BINARY = "Add Sub Mul Div Max Min Pow PRelu Mean"
REDUCTIONS = "ReduceMean ReduceSum ReduceMax ReduceMin ReduceL1 ReduceL2 ReduceLogSumExp ReduceSumSquare"

# Kind, inputs after the first ("x" itself, "v" a 1x1 image, "" none, or a constant), attributes.
CASES = [
    *((kind, [], {}) for kind in UNARY.split()),
    *((kind, [np.abs(floats(8, 1, 1)) + 0.5], {}) for kind in BINARY.split()),
    *((kind, ["x"], {}) for kind in ("Add", "Mul", "Max", "MatMul")),
    *(("Add", ["v"], {}), ("Mul", ["v"], {})),
    *((kind, [], {"axis": axis}) for kind in ("Softmax", "LogSoftmax", "Hardmax") for axis in (1, 2, -1)),
    *((kind, [ints(1)], {"keepdims": 1}) for kind in REDUCTIONS.split()),
    *((kind, [ints(2, -1)], {"keepdims": 0}) for kind in REDUCTIONS.split()),
    ("Clip", [np.float32(-0.5), np.float32(0.5)], {}),
    ("LayerNormalization", [floats(6, 6), floats(6, 6)], {"axis": 2}),
    ("LayerNormalization", [floats(6), floats(6)], {"axis": -1}),
    ("InstanceNormalization", [floats(8), floats(8)], {}),
    ("LRN", [], {"size": 3}),
    ("LpNormalization", [], {"axis": 1, "p": 2}),
    ("MeanVarianceNormalization", [], {"axes": [2, 3]}),
    ("BatchNormalization", [floats(8), floats(8), floats(8), np.abs(floats(8)) + 1], {}),
    ("MaxPool", [], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ("AveragePool", [], {"kernel_shape": [3, 2], "strides": [2, 1], "ceil_mode": 1}),
    ("AveragePool", [], {"kernel_shape": [3, 2], "pads": [1, 1, 1, 0], "count_include_pad": 1}),
    ("LpPool", [], {"kernel_shape": [2, 2]}),
    ("ConvTranspose", [floats(8, 3, 2, 2)], {"strides": [2, 2]}),
    ("DepthToSpace", [], {"blocksize": 2}),
    ("DepthToSpace", [], {"blocksize": 2, "mode": "CRD"}),
    ("SpaceToDepth", [], {"blocksize": 2}),
    ("Slice", [ints(1), ints(5), ints(1)], {}),
    ("Slice", [ints(5), ints(0), ints(3), ints(-2)], {}),
    ("Pad", [ints(0, 0, 1, 2, 0, 0, 0, 1)], {"mode": "constant"}),
    ("Pad", [ints(0, 0, 1, 2, 0, 0, 0, 1)], {"mode": "reflect"}),
    ("Pad", [ints(1, 1, 1, 1), np.float32(2), ints(1, 3)], {}),
    ("Gather", [ints(1, 0, 3)], {"axis": 1}),
    ("Gather", [np.int64(2)], {"axis": 2}),
    ("Transpose", [], {"perm": [0, 2, 3, 1]}),
    ("Reshape", [ints(0, -1)], {}),
    ("Reshape", [ints(-1, 4, 72)], {}),
    ("Unsqueeze", [ints(2)], {}),
    ("Tile", [ints(1, 2, 1, 3)], {}),
    ("Expand", [ints(1, 8, 6, 6)], {}),
    *(("Resize", ["", scales(1, 1, 2, 1.5)], {"mode": mode}) for mode in ("nearest", "linear", "cubic")),
    ("Resize", ["", "", ints(7, 9)], {"mode": "nearest", "axes": [2, 3]}),
    ("ArgMax", [], {"axis": 1}),
    ("CumSum", [np.int64(1)], {}),
    ("MatMul", [floats(6, 5)], {}),
    ("Concat", ["x"], {"axis": 3}),
]


def network():
    """Every case reads the same image, and its result is an output."""
    nodes = [node("Relu", "raw", "x"), node("ReduceMax", "x axes", "v", keepdims=1)]
    constants = {"axes": ints(2, 3)}
    for number, (kind, inputs, attrs) in enumerate(CASES):
        names = ["x"]
        for position, value in enumerate(inputs):
            names.append(value or "-" if isinstance(value, str) else f"c{number}_{position}")
            if not isinstance(value, str):
                constants[names[-1]] = value
        nodes.append(node(kind, " ".join(names), f"y{number}", **attrs))
    inputs = [onnx.helper.make_tensor_value_info("raw", onnx.TensorProto.FLOAT, SHAPE)]
    outputs = tuple(f"y{number}" for number in range(len(CASES)))
    return model(nodes, constants=constants, inputs=inputs, outputs=outputs, opset=20)


@pytest.fixture(scope="module")
def compiled():
    proto = network()
    return bf.compile(proto), reference_session(proto, 1, optimised=False)


@pytest.mark.parametrize("batch", [1, 3, 2])
def test_every_operator_for_any_batch(compiled, batch):
    executable, reference = compiled
    x = np.random.default_rng(batch).standard_normal((batch, *SHAPE[1:]), np.float32)
    expected = reference.run(None, {"raw": x})
    outputs = executable.run({"raw": x})
    for number, (kind, _, attrs) in enumerate(CASES):
        what = f"{kind} {attrs}"
        assert outputs[f"y{number}"].shape == expected[number].shape, what
        np.testing.assert_allclose(outputs[f"y{number}"], expected[number], rtol=1e-4, atol=1e-4, err_msg=what)
