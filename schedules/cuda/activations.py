"""Activation functions as expressions on one float32 value: the one place to add a function for this target.

What is not a number stays so. CUDA's ``fmaxf`` and ``fminf`` would return the bound, so bounds are choices here.
"""

from __future__ import annotations

from collections.abc import Callable
from math import pi

from tvm import tirx

from blockfuse.errors import InternalError
from blockfuse.schedules.emit import Expr, constant
from blockfuse.stages import Function


def _relu(value: Expr, _: Function) -> Expr:
    return _at_least(value, 0.0)


def _clip(value: Expr, function: Function) -> Expr:
    return _limited(value, function.low, function.high)


def _leaky_relu(value: Expr, function: Function) -> Expr:
    return _at_least(value, 0.0) + _at_most(value, 0.0) * constant(function.slope)


def _hard_swish(value: Expr, _: Function) -> Expr:
    return value * constant(1 / 6) * _limited(value + constant(3.0), 0.0, 6.0)  # value + 3 is exact near -3


def _hard_sigmoid(value: Expr, function: Function) -> Expr:
    return _limited(value * constant(function.slope) + constant(function.offset), 0.0, 1.0)


def _sigmoid(value: Expr, _: Function) -> Expr:
    return constant(1.0) / _one_plus_exp_of_negative(value)


def _silu(value: Expr, _: Function) -> Expr:
    return value / _one_plus_exp_of_negative(value)


def _tanh(value: Expr, _: Function) -> Expr:
    return tirx.tanh(value)


def _gelu(value: Expr, _: Function) -> Expr:
    """With erfc, where 1 + erf would cancel below zero."""
    tail = tirx.call_pure_extern("float32", "erfcf", value * constant(-(0.5**0.5)))
    return value * constant(0.5) * tail


def _gelu_tanh(value: Expr, _: Function) -> Expr:
    """The product of x and sigmoid(2 sqrt(2 / pi) (x + 0.044715 x^3))."""
    factor = 2 * (2 / pi) ** 0.5
    return value / _one_plus_exp_of_negative(value * (value * value * constant(0.044715 * factor) + constant(factor)))


def _elu(value: Expr, function: Function) -> Expr:
    below = tirx.exp(_at_most(value, 0.0) * constant(function.rate)) - constant(1.0)
    return _at_least(value, 0.0) * constant(function.gain) + below * constant(function.slope)


def _softplus(value: Expr, _: Function) -> Expr:
    near = tirx.exp(constant(0.0) - _abs(value, _))
    return _at_least(value, 0.0) + tirx.log(constant(1.0) + near)


def _softsign(value: Expr, _: Function) -> Expr:
    return value / (constant(1.0) + _abs(value, _))


def _mish(value: Expr, _: Function) -> Expr:
    """With e = exp(x), tanh(log(1 + e)) is e (e + 2) / (e (e + 2) + 2), which is 1 beyond 20."""
    power = tirx.exp(_at_most(value, 20.0))
    square = power * (power + constant(2.0))
    return value * (square / (square + constant(2.0)))


def _abs(value: Expr, _: Function) -> Expr:
    return tirx.max(value, constant(0.0) - value)


def _limited(value: Expr, low: float, high: float) -> Expr:
    return _at_most(_at_least(value, low), high)


def _at_least(value: Expr, low: float) -> Expr:
    return tirx.Select(value < constant(low), constant(low), value)


def _at_most(value: Expr, high: float) -> Expr:
    return tirx.Select(value > constant(high), constant(high), value)


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
