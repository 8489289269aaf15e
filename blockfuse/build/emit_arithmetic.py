"""Ops on every element by itself, in Relax."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from tvm import relax

from blockfuse.build.operands import Emitter, Operands, Refusal

_SELU_ALPHA, _SELU_GAMMA = 1.67326319217681884765625, 1.05070102214813232421875


def _unary(function: Callable[[Any], Any]) -> Emitter:
    return lambda o: function(o.tensor())


def _binary(function: Callable[[Any, Any], Any]) -> Emitter:
    def emit(o: Operands) -> Any:
        first, *others = o.tensors()
        for other in others:
            first = function(first, other)
        return first

    return emit


def _mean(o: Operands) -> Any:
    total = _binary(relax.op.add)(o)
    return relax.op.multiply(total, o.scalar(1 / len(o.op.inputs)))


def _power(o: Operands) -> Any:
    """Numbers of two types give the first one's; integers are raised as floats."""
    base, exponent, dtype = *o.tensors(), o.result.dtype
    if dtype.startswith("float") and o.described(1).dtype == dtype:
        return relax.op.power(base, exponent)
    wide = "float64" if dtype.endswith("64") else "float32"
    return relax.op.astype(relax.op.power(relax.op.astype(base, wide), relax.op.astype(exponent, wide)), dtype)


def _clip(o: Operands) -> Any:
    value = o.tensor()
    low, high = (float(o.op.attrs.get(key, missing)) for key, missing in (("min", -math.inf), ("max", math.inf)))
    if low > -math.inf or o.has(1):
        value = relax.op.maximum(value, o.tensor(1) if o.has(1) else o.scalar(low))
    if high < math.inf or o.has(2):
        value = relax.op.minimum(value, o.tensor(2) if o.has(2) else o.scalar(high))
    return value


def _hard_sigmoid_of(o: Operands, alpha: float, beta: float) -> Any:
    value = relax.op.add(relax.op.multiply(o.tensor(), o.scalar(alpha)), o.scalar(beta))
    return relax.op.minimum(relax.op.maximum(value, o.scalar(0.0)), o.scalar(1.0))


def _hard_sigmoid(o: Operands) -> Any:
    return _hard_sigmoid_of(o, o.op.attrs.get("alpha", 0.2), o.op.attrs.get("beta", 0.5))


def _hard_swish(o: Operands) -> Any:
    return relax.op.multiply(o.tensor(), _hard_sigmoid_of(o, 1 / 6, 0.5))


def _gelu(o: Operands) -> Any:
    tanh = o.op.attrs.get("approximate", "none") == "tanh"
    return (relax.op.nn.gelu_tanh if tanh else relax.op.nn.gelu)(o.tensor())


def _exponential_below(o: Operands, gain: float, slope: float, rate: float) -> Any:
    """``gain * x`` above zero, ``slope * (exp(rate * x) - 1)`` below."""
    x, zero = o.tensor(), o.scalar(0.0)
    below = relax.op.subtract(relax.op.exp(relax.op.multiply(relax.op.minimum(x, zero), o.scalar(rate))), o.scalar(1.0))
    above = relax.op.multiply(relax.op.maximum(x, zero), o.scalar(gain))
    return relax.op.add(above, relax.op.multiply(below, o.scalar(slope)))


def _elu(o: Operands) -> Any:
    return _exponential_below(o, 1.0, o.op.attrs.get("alpha", 1.0), 1.0)


def _celu(o: Operands) -> Any:
    alpha = o.op.attrs.get("alpha", 1.0)
    return _exponential_below(o, 1.0, alpha, 1 / alpha)


def _selu(o: Operands) -> Any:
    gamma = o.op.attrs.get("gamma", _SELU_GAMMA)
    return _exponential_below(o, gamma, gamma * o.op.attrs.get("alpha", _SELU_ALPHA), 1.0)


def _thresholded_relu(o: Operands) -> Any:
    x = o.tensor()
    return relax.op.where(relax.op.greater(x, o.scalar(o.op.attrs.get("alpha", 1.0))), x, o.scalar(0.0))


def _prelu(o: Operands) -> Any:
    x, zero = o.tensor(), o.scalar(0)
    below = relax.op.multiply(relax.op.minimum(x, zero), o.tensor(1))
    return relax.op.add(relax.op.maximum(x, zero), below)


def _softplus(o: Operands) -> Any:
    """``log(1 + exp(x))`` that overflows nowhere."""
    x = o.tensor()
    near = relax.op.exp(relax.op.negative(relax.op.abs(x)))
    return relax.op.add(relax.op.maximum(x, o.scalar(0.0)), relax.op.log(relax.op.add(near, o.scalar(1.0))))


def _mish(o: Operands) -> Any:
    """``x * tanh(log(1 + e))`` with ``e = exp(x)`` is ``x * e (e + 2) / (e (e + 2) + 2)``; 1 beyond 20."""
    power = relax.op.exp(relax.op.minimum(o.tensor(), o.scalar(20.0)))
    square = relax.op.multiply(power, relax.op.add(power, o.scalar(2.0)))
    return relax.op.multiply(o.tensor(), relax.op.divide(square, relax.op.add(square, o.scalar(2.0))))


def _softsign(o: Operands) -> Any:
    return relax.op.divide(o.tensor(), relax.op.add(relax.op.abs(o.tensor()), o.scalar(1.0)))


def _reciprocal(o: Operands) -> Any:
    return relax.op.divide(o.scalar(1.0), o.tensor())


def _cast(o: Operands) -> Any:
    return relax.op.astype(o.tensor(), o.result.dtype)


def _where(o: Operands) -> Any:
    return relax.op.where(*o.tensors())


def _quantize(o: Operands) -> Any:
    """``saturate(round(x / scale) + zero)``, one scale for all or for each index of an axis."""
    scale, zero = _scale_and_zero(o)
    limits = np.iinfo(o.result.dtype)
    value = relax.op.round(relax.op.divide(relax.op.astype(o.tensor(), "float32"), scale))
    value = value if zero is None else relax.op.add(value, zero)
    value = relax.op.minimum(
        relax.op.maximum(value, relax.const(float(limits.min), "float32")), relax.const(float(limits.max), "float32")
    )
    return relax.op.astype(value, o.result.dtype)


def _dequantize(o: Operands) -> Any:
    """``(x - zero) * scale``."""
    scale, zero = _scale_and_zero(o)
    value = relax.op.astype(o.tensor(), "float32")
    value = value if zero is None else relax.op.subtract(value, zero)
    return relax.op.astype(relax.op.multiply(value, scale), o.result.dtype)


def _scale_and_zero(o: Operands) -> tuple[Any, Any]:
    """Both as float32, as they broadcast with the first input; no zero point is None."""
    if o.op.attrs.get("block_size", 0):
        raise Refusal("one scale per block of elements")
    if not np.issubdtype(np.dtype(o.described(2).dtype if o.has(2) else "uint8"), np.integer):
        raise Refusal("quantization to floating point")
    parts: list[Any] = []
    for position in (1, 2):
        data = o.data(position)
        if data is None:
            parts.append(None)
            continue
        single = data.astype(np.float32)
        is_one = data.size == 1
        parts.append(relax.const(single.reshape(()), "float32") if is_one else o.vector(single, o.op.attrs["axis"]))
    return parts[0], parts[1]


ARITHMETIC: Mapping[str, Emitter] = {
    "Abs": _unary(relax.op.abs),
    "Add": _binary(relax.op.add),
    "And": _binary(relax.op.logical_and),
    "Cast": _cast,
    "CastLike": _cast,
    "Ceil": _unary(relax.op.ceil),
    "Celu": _celu,
    "Clip": _clip,
    "DequantizeLinear": _dequantize,
    "Div": _binary(relax.op.divide),
    "Elu": _elu,
    "Equal": _binary(relax.op.equal),
    "Erf": _unary(relax.op.erf),
    "Exp": _unary(relax.op.exp),
    "Floor": _unary(relax.op.floor),
    "Gelu": _gelu,
    "Greater": _binary(relax.op.greater),
    "GreaterOrEqual": _binary(relax.op.greater_equal),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish,
    "Identity": _unary(lambda value: value),
    "LeakyRelu": lambda o: relax.op.nn.leakyrelu(o.tensor(), o.op.attrs.get("alpha", 0.01)),
    "Less": _binary(relax.op.less),
    "LessOrEqual": _binary(relax.op.less_equal),
    "Log": _unary(relax.op.log),
    "Max": _binary(relax.op.maximum),
    "Mean": _mean,
    "Min": _binary(relax.op.minimum),
    "Mish": _mish,
    "Mul": _binary(relax.op.multiply),
    "Neg": _unary(relax.op.negative),
    "Not": _unary(relax.op.logical_not),
    "Or": _binary(relax.op.logical_or),
    "PRelu": _prelu,
    "Pow": _power,
    "QuantizeLinear": _quantize,
    "Reciprocal": _reciprocal,
    "Relu": _unary(relax.op.nn.relu),
    "Round": _unary(relax.op.round),
    "Selu": _selu,
    "Sigmoid": _unary(relax.op.sigmoid),
    "Sign": _unary(relax.op.sign),
    "Softplus": _softplus,
    "Softsign": _softsign,
    "Sqrt": _unary(relax.op.sqrt),
    "Sub": _binary(relax.op.subtract),
    "Swish": _unary(relax.op.nn.silu),
    "Tanh": _unary(relax.op.tanh),
    "ThresholdedRelu": _thresholded_relu,
    "Where": _where,
    "Xor": _binary(relax.op.logical_xor),
}
"""Emitters of ops on elements; all can run on images with their channels last."""
