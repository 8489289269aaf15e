"""Forms in which people bring a model: in half precision, quantized, for any batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.open_batch import open_batch

_SCALES = {"Resize", "Upsample"}  # their constants are float32 in any model
_QUANTIZED_SINCE = 10
_PER_CHANNEL_SINCE = 13


def in_form(model: onnx.ModelProto, seed: int) -> onnx.ModelProto:
    """The model of a seed as it is, or in a form that the seed draws; as it is where that is no model."""
    rng = np.random.default_rng((6, seed))
    form = FORMS[int(rng.integers(len(FORMS)))]
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    form(changed, rng)
    try:
        onnx.checker.check_model(changed)
        onnx.shape_inference.infer_shapes(changed, strict_mode=True, data_prop=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError):
        return model
    return changed


def _as_it_is(_: onnx.ModelProto, __: np.random.Generator) -> None:
    """No change."""


def _half(model: onnx.ModelProto, _: np.random.Generator) -> None:
    """Inputs, outputs, weights and all that is computed in float16."""
    graph = model.graph
    kept = {name for node in graph.node if node.op_type in _SCALES for name in node.input[1:]}
    for tensor in graph.initializer:
        if tensor.name not in kept:
            _narrow(tensor)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR and not kept.intersection(node.output):
                _narrow(attribute.t)
            if node.op_type == "Cast" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.FLOAT16
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.FLOAT16


def _narrow(tensor: TensorProto) -> None:
    if tensor.data_type == TensorProto.FLOAT:
        array = numpy_helper.to_array(tensor).clip(-60000, 60000).astype(np.float16)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def _quantized(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    """Quantized images and filters, each with what dequantizes it; rounding makes no two results differ."""
    graph, opset = model.graph, model.opset_import[0].version
    if opset < _QUANTIZED_SINCE:
        return
    nodes = list(_input_pair(graph, rng))
    for tensor in list(graph.initializer):
        if tensor.data_type == TensorProto.FLOAT and len(tensor.dims) == 4 and rng.random() < 0.8:
            nodes += _dequantized(graph, tensor, per_channel=opset >= _PER_CHANNEL_SINCE and rng.random() < 0.5)
    rest = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *rest])


def _input_pair(graph: onnx.GraphProto, rng: np.random.Generator) -> Iterator[onnx.NodeProto]:
    """The input quantized and dequantized, for all that read it."""
    dtype, zero = ((np.uint8, 128), (np.int8, 0), (np.uint8, 117))[int(rng.integers(3))]
    graph.initializer.append(numpy_helper.from_array(np.array(4 / 127, np.float32), "x_scale"))
    graph.initializer.append(numpy_helper.from_array(np.array(zero, dtype), "x_zero"))
    for node in graph.node:
        node.input[:] = ["x_float" if name == "x" else name for name in node.input]
    yield helper.make_node("QuantizeLinear", ["x", "x_scale", "x_zero"], ["x_whole"], "quantize_x")
    yield helper.make_node("DequantizeLinear", ["x_whole", "x_scale", "x_zero"], ["x_float"], "dequantize_x")


def _dequantized(graph: onnx.GraphProto, tensor: TensorProto, *, per_channel: bool) -> Iterator[onnx.NodeProto]:
    """A constant as 8-bit numbers, with one scale or one for each of its first axis."""
    array, name = numpy_helper.to_array(tensor), tensor.name
    scale = np.maximum(np.abs(array).max(axis=(1, 2, 3) if per_channel else None), 1e-3) / 127
    shaped = scale.reshape(-1, 1, 1, 1) if per_channel else scale
    whole = np.clip(np.rint(array / shaped), -127, 127).astype(np.int8)
    tensor.CopyFrom(numpy_helper.from_array(whole, f"{name}_whole"))
    graph.initializer.append(numpy_helper.from_array(np.asarray(scale, np.float32), f"{name}_scale"))
    attrs = {"axis": 0} if per_channel else {}
    yield helper.make_node(
        "DequantizeLinear", [f"{name}_whole", f"{name}_scale"], [name], f"dequantize_{name}", **attrs
    )


def _any_batch(model: onnx.ModelProto, _: np.random.Generator) -> None:
    """The first dimension left open."""
    if all(value.type.tensor_type.shape.dim for value in model.graph.output):
        model.CopyFrom(open_batch(model))


FORMS: tuple[Callable[[onnx.ModelProto, np.random.Generator], None], ...] = (_as_it_is, _half, _quantized, _any_batch)
