"""Activation functions of vectors: the one place for a new one on this target.

TVM's own ``exp``, ``tanh``, ``sigmoid`` and ``erf`` become one scalar library call per lane; a function that needs one
is written here with arithmetic alone. Relative errors are a few units in the last place.

What is not a number stays so: a bound is the *first* operand of ``max`` and ``min``, which give the second one where
either is not a number, as the instructions of x86 do (``bound > x ? bound : x``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import pi

from tvm import tirx

from blockfuse.errors import InternalError
from blockfuse.schedules.emit import Expr, constant
from blockfuse.stages import Function

# Cephes expf: exp(x) = 2^n exp(r), with r = x - n ln 2 subtracted in two parts, and a polynomial for exp(r).
_EXP = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
_LOG2_E, _LN2_HIGH, _LN2_LOW = 1.4426950408889634, 0.693359375, -2.12194440e-4
_EXP_RANGE = (-88.0, 88.8)  # at the ends the power of 2 is 0 and infinite

_ARTANH = tuple(2 / (2 * power + 1) for power in reversed(range(8)))  # of squares up to 1/9: exact to 1e-8

# The normal distribution's tail is exp(-a^2 / 2) t p(t) with t = 1 / (1 + 0.3 a): minimax to 1.7e-7 up to a = 14.5,
# highest power first. At the limit the exponential is 0.
_TAIL_LIMIT, _TAIL_RATE = 13.265625, 0.3
_TAIL = (
    0.03542385943993858,
    -0.15615893589867877,
    0.2045575698152846,
    -0.052034684473420294,
    0.12769209467947001,
    0.10017585938470355,
    0.12071214884497336,
    0.11963200649953312,
)
_HIGH_BITS = -(1 << 12)  # the mask of a float32 whose square is exact

# Rational approximation of Eigen's float packets: odd numerator over even denominator, highest power first.
_TANH_LIMIT = 7.90531110763549805
_TANH_OVER = (
    -2.76076847742355e-16,
    2.00018790482477e-13,
    -8.60467152213735e-11,
    5.12229709037114e-08,
    1.48572235717979e-05,
    6.37261928875436e-04,
    4.89352455891786e-03,
)
_TANH_UNDER = (1.19825839466702e-06, 1.18534705686654e-04, 2.26843463243900e-03, 4.89352518554385e-03)


def _relu(x: Expr, _: Function, lanes: int) -> Expr:
    return _at_least(x, 0.0, lanes)


def _clip(x: Expr, function: Function, lanes: int) -> Expr:
    return _limited(x, function.low, function.high, lanes)


def _leaky_relu(x: Expr, function: Function, lanes: int) -> Expr:
    return _at_least(x, 0.0, lanes) + _at_most(x, 0.0, lanes) * constant(function.slope, lanes)


def _hard_swish(x: Expr, _: Function, lanes: int) -> Expr:
    return x * constant(1 / 6, lanes) * _limited(x + constant(3.0, lanes), 0.0, 6.0, lanes)  # x + 3 is exact near -3


def _hard_sigmoid(x: Expr, function: Function, lanes: int) -> Expr:
    return _limited(x * constant(function.slope, lanes) + constant(function.offset, lanes), 0.0, 1.0, lanes)


def _sigmoid(x: Expr, _: Function, lanes: int) -> Expr:
    return constant(1.0, lanes) / _one_plus_exp_of_negative(x, lanes)


def _silu(x: Expr, _: Function, lanes: int) -> Expr:
    return x / _one_plus_exp_of_negative(x, lanes)


def _tanh(x: Expr, _: Function, lanes: int) -> Expr:
    return _ratio(x, _TANH_LIMIT, _TANH_OVER, _TANH_UNDER, lanes)


def _gelu(x: Expr, _: Function, lanes: int) -> Expr:
    """The positive part of x, less the size of x times the tail of the normal distribution beyond it."""
    size = _at_most(_abs_of(x, lanes), _TAIL_LIMIT, lanes)
    t = constant(1.0, lanes) / (constant(1.0, lanes) + size * constant(_TAIL_RATE, lanes))
    tail = _polynomial(t, _TAIL, lanes) * t * _exp_of_half_square(size, lanes)
    return _at_least(x, 0.0, lanes) - size * tail


def _gelu_tanh(x: Expr, _: Function, lanes: int) -> Expr:
    """The product of x and sigmoid(2 sqrt(2 / pi) (x + 0.044715 x^3))."""
    factor = 2 * (2 / pi) ** 0.5
    z = x * (x * x * constant(0.044715 * factor, lanes) + constant(factor, lanes))
    return x / _one_plus_exp_of_negative(z, lanes)


def _elu(x: Expr, function: Function, lanes: int) -> Expr:
    below = _exp_less_one(_at_most(x, 0.0, lanes) * constant(function.rate, lanes), lanes)
    return _at_least(x, 0.0, lanes) * constant(function.gain, lanes) + below * constant(function.slope, lanes)


def _softplus(x: Expr, _: Function, lanes: int) -> Expr:
    near = _exp(constant(0.0, lanes) - _abs_of(x, lanes), lanes)
    return _at_least(x, 0.0, lanes) + _log_of_one_plus(near, lanes)


def _softsign(x: Expr, _: Function, lanes: int) -> Expr:
    return x / (constant(1.0, lanes) + _abs_of(x, lanes))


def _mish(x: Expr, _: Function, lanes: int) -> Expr:
    """With e = exp(x), tanh(log(1 + e)) is e (e + 2) / (e (e + 2) + 2), which is 1 beyond 20."""
    power = _exp(_at_most(x, 20.0, lanes), lanes)
    square = power * (power + constant(2.0, lanes))
    return x * (square / (square + constant(2.0, lanes)))


def _abs(x: Expr, _: Function, lanes: int) -> Expr:
    return _abs_of(x, lanes)


def _abs_of(x: Expr, lanes: int) -> Expr:
    integer, real = (f"{kind}x{lanes}" if lanes > 1 else kind for kind in ("int32", "float32"))
    return tirx.reinterpret(real, tirx.reinterpret(integer, x) & constant(2**31 - 1, lanes, "int32"))


def _limited(x: Expr, low: float, high: float, lanes: int) -> Expr:
    return _at_most(_at_least(x, low, lanes), high, lanes)


def _at_least(x: Expr, low: float, lanes: int) -> Expr:
    return tirx.max(constant(low, lanes), x)


def _at_most(x: Expr, high: float, lanes: int) -> Expr:
    return tirx.min(constant(high, lanes), x)


def _polynomial(x: Expr, coefficients: Sequence[float], lanes: int) -> Expr:
    """Horner's scheme, highest power first."""
    total = constant(coefficients[0], lanes)
    for coefficient in coefficients[1:]:
        total = total * x + constant(coefficient, lanes)
    return total


def _ratio(x: Expr, limit: float, over: Sequence[float], under: Sequence[float], lanes: int) -> Expr:
    x = _limited(x, -limit, limit, lanes)
    return x * _polynomial(x * x, over, lanes) / _polynomial(x * x, under, lanes)


def _exp(x: Expr, lanes: int) -> Expr:
    rest, scale = _exp_parts(_limited(x, *_EXP_RANGE, lanes), lanes)
    return (rest + constant(1.0, lanes)) * scale


def _exp_of_half_square(x: Expr, lanes: int) -> Expr:
    """``exp(-x * x / 2)`` for x in 0 ... 13.27: the square in two parts, because its rounding would count 88-fold."""
    integer, real = (f"{kind}x{lanes}" if lanes > 1 else kind for kind in ("int32", "float32"))
    high = tirx.reinterpret(real, tirx.reinterpret(integer, x) & constant(_HIGH_BITS, lanes, "int32"))
    half = constant(-0.5, lanes)
    rest, scale = _exp_parts(high * high * half, lanes, (x - high) * (x + high) * half)
    return (rest + constant(1.0, lanes)) * scale


def _exp_less_one(x: Expr, lanes: int) -> Expr:
    """``exp(x) - 1``, exact to a few units in the last place also near zero."""
    rest, scale = _exp_parts(_limited(x, *_EXP_RANGE, lanes), lanes)
    return rest * scale + (scale - constant(1.0, lanes))


def _exp_parts(x: Expr, lanes: int, more: Expr | None = None) -> tuple[Expr, Expr]:
    """``r`` and ``s``, a power of 2, with ``exp(x + more) = (1 + r) * s``, for x in the range and a small ``more``."""
    n = tirx.round(x * constant(_LOG2_E, lanes))
    r = x - n * constant(_LN2_HIGH, lanes) - n * constant(_LN2_LOW, lanes)
    r = r if more is None else r + more
    integer, real = (f"{kind}x{lanes}" if lanes > 1 else kind for kind in ("int32", "float32"))
    exponent = (n.astype(integer) + constant(127, lanes, "int32")) << constant(23, lanes, "int32")
    return _polynomial(r, _EXP, lanes) * (r * r) + r, tirx.reinterpret(real, exponent)


def _log_of_one_plus(x: Expr, lanes: int) -> Expr:
    """``log(1 + x)`` for x in 0 ... 1: the series of ``2 artanh(x / (2 + x))``."""
    ratio = x / (constant(2.0, lanes) + x)
    square = ratio * ratio
    return ratio * _polynomial(square, _ARTANH, lanes)


def _one_plus_exp_of_negative(x: Expr, lanes: int) -> Expr:
    return constant(1.0, lanes) + _exp(constant(0.0, lanes) - x, lanes)


ACTIVATIONS: dict[str, Callable[[Expr, Function, int], Expr]] = {
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


def activate(function: Function, x: Expr, lanes: int) -> Expr:
    """The function of every lane of ``x``.

    Raises:
        InternalError: There is no such function here.
    """
    if function.kind not in ACTIVATIONS:
        raise InternalError(f"activation {function} has no vector form; add it to schedules/cpu/activations.py")
    return ACTIVATIONS[function.kind](x, function, lanes)
