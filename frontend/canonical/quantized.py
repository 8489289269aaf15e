"""Operators on whole numbers that stand for fractions: dequantized, computed in float32, quantized again."""

from __future__ import annotations

import numpy as np

from blockfuse.dtypes import COMPUTED
from blockfuse.frontend.canonical.rewriting import Steps, optional_input, rewrite
from blockfuse.graph import Graph, Op

_INT32 = 6  # as ONNX numbers it
_PLAIN = {"axis": 0, "block_size": 0}


@rewrite("QLinearConv")
def dequantized_conv(graph: Graph, op: Op) -> bool:
    """``QLinearConv(x, W)`` is ``QuantizeLinear(Conv(DequantizeLinear(x), DequantizeLinear(W)))``."""
    steps = Steps(graph, op)
    image = _dequantized(steps, graph, op.inputs[0], op.inputs[1], op.inputs[2])
    weight = _dequantized(steps, graph, op.inputs[3], op.inputs[4], op.inputs[5])
    inputs = [image, weight]
    if optional_input(op, 8):
        scales = [graph.constant(op.inputs[index]) for index in (1, 4)]
        bias = graph.constant(op.inputs[8])
        if bias is None or scales[0] is None or scales[1] is None:
            return False
        exact = bias.astype(np.float64) * scales[0].astype(np.float64).reshape(-1) * scales[1].reshape(-1)
        inputs.append(steps.constant("bias", exact.astype(COMPUTED)))
    result = steps.add("Conv", inputs, graph.tensor(op.output).shape, op.attrs, COMPUTED)
    _quantize(steps, graph, op, result, op.inputs[6:8])
    return True


@rewrite("QLinearMatMul")
def dequantized_matmul(graph: Graph, op: Op) -> bool:
    """``QLinearMatMul(a, b)`` is ``QuantizeLinear(MatMul(DequantizeLinear(a), DequantizeLinear(b)))``."""
    if any(graph.tensor(op.inputs[index]).shape not in {(), (1,)} for index in (1, 4)):
        return False
    steps = Steps(graph, op)
    factors = [_dequantized(steps, graph, *op.inputs[start : start + 3]) for start in (0, 3)]
    result = steps.add("MatMul", factors, graph.tensor(op.output).shape, {}, COMPUTED)
    _quantize(steps, graph, op, result, op.inputs[6:8])
    return True


@rewrite("ConvInteger")
def float_conv(graph: Graph, op: Op) -> bool:
    """``ConvInteger(x, W)`` is ``Cast(Round(Conv(x - zero, W - zero)))``, exact for sums below 2^24."""
    steps = Steps(graph, op)
    one = steps.constant("one", np.ones((), np.float32))
    image = _dequantized(steps, graph, op.inputs[0], one, optional_input(op, 2))
    weight = _dequantized(steps, graph, op.inputs[1], one, optional_input(op, 3))
    shape = graph.tensor(op.output).shape
    result = steps.add("Conv", (image, weight), shape, op.attrs, COMPUTED)
    steps.add("Cast", (steps.add("Round", (result,), shape, {}, COMPUTED),), shape, {"to": _INT32, "saturate": 1})
    steps.finish()
    return True


def _dequantized(steps: Steps, graph: Graph, name: str, scale: str, zero: str) -> str:
    """The numbers that a tensor stands for; those of a constant at once, of which axis 0 may have several scales."""
    value, factor = graph.constant(name), graph.constant(scale)
    offset = graph.constant(zero) if zero else np.zeros((), np.int8)
    if value is None or factor is None or offset is None:
        inputs = (name, scale, zero) if zero else (name, scale)
        return steps.add("DequantizeLinear", inputs, graph.tensor(name).shape, _PLAIN, COMPUTED)
    column = (-1, *(1,) * (value.ndim - 1))
    shifted = value.astype(np.float64) - offset.astype(np.float64).reshape(column)
    return steps.constant(name, (shifted * factor.astype(np.float64).reshape(column)).astype(COMPUTED))


def _quantize(steps: Steps, graph: Graph, op: Op, result: str, into: tuple[str, ...]) -> None:
    """Finish with the type, the scale and the zero point that the op's result has."""
    attrs = {**_PLAIN, "saturate": 1}
    steps.add("QuantizeLinear", (result, *into), graph.tensor(op.output).shape, attrs)
    steps.finish()
