"""Activation functions as expressions on one float32 value: the one place to add a function for this target."""

from __future__ import annotations

from collections.abc import Callable
from math import pi

from tvm import tirx

from blockfuse.errors import InternalError
from blockfuse.schedules.emit import Expr, constant
from blockfuse.stages import Function


def _relu(value: Expr, _: Function) -> Expr:
    return tirx.max(value, constant(0.0))


def _clip(value: Expr, function: Function) -> Expr:
    return tirx.min(tirx.max(value, constant(function.low)), constant(function.high))


def _leaky_relu(value: Expr, function: Function) -> Expr:
    zero = constant(0.0)
    return tirx.max(value, zero) + tirx.min(value, zero) * constant(function.slope)


def _hard_swish(value: Expr, _: Function) -> Expr:
    return value * _hard_gate(value, 1 / 6, 0.5)


def _hard_sigmoid(value: Expr, function: Function) -> Expr:
    return _hard_gate(value, function.slope, function.offset)


def _hard_gate(value: Expr, slope: float, offset: float) -> Expr:
    return tirx.min(tirx.max(value * constant(slope) + constant(offset), constant(0.0)), constant(1.0))


def _sigmoid(value: Expr, _: Function) -> Expr:
    return constant(1.0) / _one_plus_exp_of_negative(value)


def _silu(value: Expr, _: Function) -> Expr:
    return value / _one_plus_exp_of_negative(value)


def _tanh(value: Expr, _: Function) -> Expr:
    return tirx.tanh(value)


def _gelu(value: Expr, _: Function) -> Expr:
    return value * constant(0.5) * (constant(1.0) + tirx.erf(value * constant(0.5**0.5)))


def _gelu_tanh(value: Expr, _: Function) -> Expr:
    """The product of x and sigmoid(2 sqrt(2 / pi) (x + 0.044715 x^3))."""
    factor = 2 * (2 / pi) ** 0.5
    return value / _one_plus_exp_of_negative(value * (value * value * constant(0.044715 * factor) + constant(factor)))


def _elu(value: Expr, function: Function) -> Expr:
    zero = constant(0.0)
    below = tirx.exp(tirx.min(value, zero) * constant(function.rate)) - constant(1.0)
    return tirx.max(value, zero) * constant(function.gain) + below * constant(function.slope)


def _softplus(value: Expr, _: Function) -> Expr:
    near = tirx.exp(constant(0.0) - _abs(value, _))
    return tirx.max(value, constant(0.0)) + tirx.log(constant(1.0) + near)


def _softsign(value: Expr, _: Function) -> Expr:
    return value / (constant(1.0) + _abs(value, _))


def _mish(value: Expr, _: Function) -> Expr:
    """With e = exp(x), tanh(log(1 + e)) is e (e + 2) / (e (e + 2) + 2), which is 1 beyond 20."""
    power = tirx.exp(tirx.min(value, constant(20.0)))
    square = power * (power + constant(2.0))
    return value * (square / (square + constant(2.0)))


def _abs(value: Expr, _: Function) -> Expr:
    return tirx.max(value, constant(0.0) - value)


def _one_plus_exp_of_negative(value: Expr) -> Expr:
    return constant(1.0) + tirx.exp(constant(0.0) - value)


_TABLE: dict[str, Callable[[Expr, Function], Expr]] = {
    "relu": _relu,
    "clip": _clip,
    "leaky_relu": _leaky_relu,
    "hard_swish": _hard_swish,
    "hard_sigmoid": _hard_sigmoid,
    "sigmoid": _sigmoid,
    "silu": _silu,
    "tanh": _tanh,
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "elu": _elu,
    "softplus": _softplus,
    "softsign": _softsign,
    "mish": _mish,
    "abs": _abs,
}


def activation(function: Function, value: Expr) -> Expr:
    """The function of a value.

    Raises:
        InternalError: This target has no expression for the function.
    """
    build = _TABLE.get(function.kind)
    if build is None:
        raise InternalError(f"activation {function} has no CUDA expression")
    return build(value, function)
