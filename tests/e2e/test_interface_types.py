"""Inputs and outputs that are no float32, quantized models, and inputs anywhere in memory."""

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto, helper

import blockfuse as bf
from blockfuse.frontend.load import OPSETS
from tests.onnx_models import floats, model, node, run

DEPTH = 9 * 8 + 40


def close(actual, expected):
    assert (actual.shape, actual.dtype) == (expected.shape, expected.dtype)
    allowed = DEPTH * np.finfo(np.float32).eps * max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=allowed)


def test_an_image_of_bytes_and_the_best_class_per_pixel():
    """A segmentation network as deployed: bytes in, normalized inside, the numbers of classes out."""
    nodes = [
        node("Cast", "x", "f", to=TensorProto.FLOAT),
        node("Mul", "f scale", "g"),
        node("Conv", "g w", "c", pads=[1, 1, 1, 1]),
        node("Relu", "c", "r"),
        node("Conv", "r v", "logits"),
        node("ArgMax", "logits", "y", axis=1, keepdims=0),
    ]
    weights = {"scale": np.float32(1 / 255), "w": floats(8, 3, 3, 3) / 5, "v": floats(5, 8, 1, 1, seed=1)}
    image = np.random.default_rng(2).integers(0, 256, (2, 3, 9, 11), dtype=np.uint8)
    inputs = [helper.make_tensor_value_info("x", TensorProto.UINT8, image.shape)]
    outputs = [
        helper.make_tensor_value_info("y", TensorProto.INT64, (2, 9, 11)),
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, (2, 5, 9, 11)),
    ]
    proto = model(nodes, constants=weights, inputs=inputs)
    del proto.graph.output[:]
    proto.graph.output.extend(outputs)
    result, wanted = bf.compile(proto, threads=1).run({"x": image}), run(proto, {"x": image})
    close(result["logits"], wanted["logits"])
    first, second = np.sort(wanted["logits"], 1)[:, -1], np.sort(wanted["logits"], 1)[:, -2]
    is_clear = first - second > 1e-4
    assert result["y"].dtype == np.int64
    assert is_clear.mean() > 0.9
    assert (result["y"] == wanted["y"])[is_clear].all()


def _quantized(per_channel):
    """A basic block between QuantizeLinear and DequantizeLinear, weights as int8, as quantizers write it."""
    rng = np.random.default_rng(3)
    constants = {
        "s": np.float32(0.02),
        "z": np.uint8(120),
        "s2": np.float32(0.05),
        "w": rng.integers(-127, 128, (8, 8, 3, 3), dtype=np.int8),
        "sw": (np.full(8, 0.004, np.float32) + np.arange(8, dtype=np.float32) / 1e3)
        if per_channel
        else np.float32(0.004),
        "zw": np.zeros(8, np.int8) if per_channel else np.int8(0),
    }
    axis = {"axis": 0} if per_channel else {}
    nodes = [
        node("QuantizeLinear", "x s z", "q"),
        node("DequantizeLinear", "q s z", "d"),
        node("DequantizeLinear", "w sw zw", "f", **axis),
        node("Conv", "d f", "c", pads=[1, 1, 1, 1]),
        node("Relu", "c", "r"),
        node("QuantizeLinear", "r s2 z", "q2"),
        node("DequantizeLinear", "q2 s2 z", "d2"),
        node("Add", "d2 d", "y"),
    ]
    return model(nodes, (2, 8, 9, 7), constants), 0.05


@pytest.mark.parametrize("per_channel", [False, True])
def test_quantized_models_compute_with_dequantized_numbers(per_channel):
    proto, step = _quantized(per_channel)
    x = floats(2, 8, 9, 7)
    executable = bf.compile(proto, threads=1)
    actual, wanted = executable.run({"x": x})["y"], run(proto, {"x": x})["y"]
    difference = np.abs(actual - wanted)
    assert difference.max() < 1.01 * step  # a sum next to the middle between two steps may round either way
    assert (difference > 1e-4).mean() < 0.01
    alone = [record.kind for record in executable.report().steps if not record.kernels]
    assert alone.count("QuantizeLinear") == alone.count("DequantizeLinear") == 2  # the weight's is folded


RNG = np.random.default_rng(3)
STEPS = {"s": np.float32(0.02), "z": np.uint8(100), "t": np.float32(0.1), "u": np.uint8(120)}
WHOLE_FILTER = {"w": RNG.integers(-100, 100, (6, 4, 3, 3)).astype(np.int8), "v": np.float32(0.004), "n": np.int8(3)}
SCALES = {"v": np.linspace(0.002, 0.01, 6, dtype=np.float32), "n": np.zeros(6, np.int8)}
MATRIX = {"w": RNG.integers(-100, 100, (7, 5)).astype(np.int8), "v": np.float32(0.01), "n": np.int8(-2)}
INTO, BACK = node("QuantizeLinear", "x s z", "q"), node("DequantizeLinear", "r t u", "y")
WINDOW = {"strides": [2, 1], "pads": [1, 0, 0, 2]}
WHOLE_MODELS = {
    "conv": (
        [INTO, node("QLinearConv", "q s z w v n t u b", "r", **WINDOW), BACK],
        {**WHOLE_FILTER, "b": RNG.integers(-500, 500, 6).astype(np.int32)},
    ),
    "conv with a scale per channel": (
        [INTO, node("QLinearConv", "q s z w v n t u", "r"), BACK],
        {**WHOLE_FILTER, **SCALES},
    ),
    "matmul": ([INTO, node("QLinearMatMul", "q s z w v n t u", "r"), BACK], MATRIX),
    "whole conv": ([INTO, node("ConvInteger", "q w z n", "r", **WINDOW), node("Cast", "r", "y", to=1)], WHOLE_FILTER),
    "whole conv of a scale that is computed": (
        [
            node("DynamicQuantizeLinear", "x", "q k l"),
            node("ConvInteger", "q w l", "r"),
            node("Cast", "r", "c", to=1),
            node("Mul", "c k", "y"),
        ],
        WHOLE_FILTER,
    ),
    "whole matmul": ([INTO, node("MatMulInteger", "q w z n", "r"), node("Cast", "r", "y", to=1)], MATRIX),
}


@pytest.mark.parametrize("name", WHOLE_MODELS)
def test_operators_on_whole_numbers(name):
    nodes, constants = WHOLE_MODELS[name]
    proto = model(nodes, (2, 4, 9, 7), {**STEPS, **constants})
    x = floats(2, 4, 9, 7)
    actual, wanted = bf.compile(proto, threads=1).run({"x": x})["y"], run(proto, {"x": x})["y"]
    difference = np.abs(actual - wanted)
    if nodes[-1] is BACK:  # a sum next to the middle between two steps may round either way
        assert difference.max() < 1.01 * STEPS["t"]
        assert (difference > 1e-4).mean() < 0.01
        return
    assert (difference <= 1e-6 * np.abs(wanted).max()).all()


@pytest.mark.parametrize("dtype", ["int4", "uint4", "float8_e4m3fn", "float8_e5m2", "int8"])
@pytest.mark.parametrize("block", [0, 3])
def test_weights_of_few_bits(dtype, block):
    weight = RNG.integers(0, 7, (8, 6)).astype(np.float32).astype(getattr(ml_dtypes, dtype, dtype))
    scale = np.abs(floats(3, 6)) if block else np.float32(0.1)
    attrs = {"axis": 0, "block_size": block} if block else {}
    nodes = [node("DequantizeLinear", "w s", "d", **attrs), node("MatMul", "x d", "y")]
    proto = model(nodes, (5, 8), {"w": weight, "s": scale}, opset=21)
    x = floats(5, 8)
    factors = np.repeat(scale, 3, 0)[:8] if block else scale
    close(bf.compile(proto, threads=1).run({"x": x})["y"], x @ (weight.astype(np.float32) * factors))


def test_few_bits_that_are_computed_are_refused():
    constants = {"s": np.float32(0.1), "z": np.zeros((), ml_dtypes.float8_e4m3fn)}
    nodes = [node("QuantizeLinear", "x s z", "q"), node("DequantizeLinear", "q s", "y")]
    with pytest.raises(bf.UnsupportedModelError, match="reads 'z' of type float8_e4m3fn"):
        bf.compile(model(nodes, constants=constants, opset=21))


@pytest.mark.parametrize("offset", [1, 3, 5])
def test_vectors_anywhere_in_memory(offset):
    """A fully connected layer reads [N, C] as [N, 1, 1, C]; TVM's own reshape wants 64-byte addresses."""
    proto = model([node("Gemm", "x w", "y")], (3, 16), {"w": floats(16, 7)})
    executable = bf.compile(proto, threads=1)
    storage = np.empty(64 + 48, np.float32)
    start = (-storage.ctypes.data // 4) % 16 + offset
    x = storage[start : start + 48].reshape(3, 16)
    x[:] = floats(3, 16)
    close(executable.run({"x": x})["y"], run(proto, {"x": x})["y"])


def test_the_newest_operator_set_is_read():
    proto = model([node("Relu", "x", "y")], opset=OPSETS[-1])
    x = floats(1, 4, 8, 8)
    np.testing.assert_array_equal(bf.compile(proto, threads=1).run({"x": x})["y"], np.maximum(x, 0))
