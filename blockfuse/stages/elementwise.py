"""Stages that work on each element by itself: activations, the residual add, and products.

A new activation is a function in :data:`ACTIVATIONS` here and one in the table of each target
(``schedules/cpu/activations.py``, ``schedules/cuda/activations.py``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from blockfuse.stages.base import Array, ImageShape, Stage


@dataclass(frozen=True)
class Function:
    """An activation function with its constants.

    Attributes:
        kind: A key of :data:`ACTIVATIONS`.
        low: Lower bound of ``clip``.
        high: Upper bound of ``clip``.
        slope: Of ``hard_sigmoid``, clip(slope * x + offset, 0, 1), and of ``leaky_relu`` below zero.
        offset: Of ``hard_sigmoid``.
        gain: Of ``elu``: gain * x above zero, slope * (exp(rate * x) - 1) below, which is also SELU and CELU.
        rate: Of ``elu``.
    """

    kind: str
    low: float = 0.0
    high: float = 0.0
    slope: float = 0.0
    offset: float = 0.0
    gain: float = 0.0
    rate: float = 0.0

    def __str__(self) -> str:
        match self.kind:
            case "clip":
                return f"clip({self.low:g}, {self.high:g})"
            case "hard_sigmoid":
                return f"hard_sigmoid({self.slope:g}, {self.offset:g})"
            case "leaky_relu":
                return f"leaky_relu({self.slope:g})"
            case "elu":
                return f"elu({self.gain:g}, {self.slope:g}, {self.rate:g})"
        return self.kind


def _relu(x: Array, _: Function) -> Array:
    return np.maximum(x, 0.0)


def _clip(x: Array, function: Function) -> Array:
    return np.clip(x, function.low, function.high)


def _leaky_relu(x: Array, function: Function) -> Array:
    return np.where(x < 0, function.slope * x, x)


def _hard_swish(x: Array, _: Function) -> Array:
    return np.asarray(x * np.clip(x / 6 + 0.5, 0.0, 1.0))


def _hard_sigmoid(x: Array, function: Function) -> Array:
    return np.clip(function.slope * x + function.offset, 0.0, 1.0)


def _sigmoid(x: Array, _: Function) -> Array:
    return np.asarray(np.exp(np.minimum(x, 0.0)) / (1 + np.exp(-np.abs(x))))


def _silu(x: Array, function: Function) -> Array:
    return np.asarray(x * _sigmoid(x, function))


def _tanh(x: Array, _: Function) -> Array:
    return np.tanh(x)


def _gelu(x: Array, _: Function) -> Array:
    """The product of x and the standard normal distribution function (Hendrycks, Gimpel, arXiv 1606.08415)."""
    return np.asarray(0.5 * x * _erfc(-x * math.sqrt(0.5)))


def _erfc(x: Array) -> Array:
    return np.asarray(np.frompyfunc(math.erfc, 1, 1)(x), np.float64)


def _gelu_tanh(x: Array, function: Function) -> Array:
    """The approximation of gelu with tanh from the same paper; 1 + tanh(z) = 2 sigmoid(2 z)."""
    return np.asarray(x * _sigmoid(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3), function))


def _elu(x: Array, function: Function) -> Array:
    below = function.slope * np.expm1(function.rate * np.minimum(x, 0.0))
    return np.asarray(function.gain * np.maximum(x, 0.0) + below)


def _softplus(x: Array, _: Function) -> Array:
    return np.asarray(np.maximum(x, 0.0) + np.log1p(np.exp(-np.abs(x))))


def _softsign(x: Array, _: Function) -> Array:
    return np.asarray(x / (1 + np.abs(x)))


def _mish(x: Array, function: Function) -> Array:
    """The product of x and tanh(softplus(x)) (Misra, arXiv 1908.08681)."""
    return np.asarray(x * np.tanh(_softplus(x, function)))


def _abs(x: Array, _: Function) -> Array:
    return np.abs(x)


ACTIVATIONS: dict[str, Callable[[Array, Function], Array]] = {
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


@dataclass(frozen=True)
class Activation(Stage):
    """Apply a function to every element."""

    function: Function

    def output_shape(self, shapes: Sequence[ImageShape]) -> ImageShape:
        """The input's shape."""
        return shapes[0]

    def reference(self, inputs: Sequence[Array], parameters: Mapping[str, Array]) -> Array:  # noqa: ARG002 - has none
        """The function in float64."""
        return ACTIVATIONS[self.function.kind](inputs[0].astype(np.float64), self.function)

    def describe(self) -> str:
        """The function."""
        return str(self.function)


@dataclass(frozen=True)
class Add(Stage):
    """Sum of two values of equal shape: the residual add."""

    def output_shape(self, shapes: Sequence[ImageShape]) -> ImageShape:
        """The inputs' shape."""
        return shapes[0]

    def reference(self, inputs: Sequence[Array], parameters: Mapping[str, Array]) -> Array:  # noqa: ARG002 - has none
        """The sum in float64."""
        return np.asarray(inputs[0].astype(np.float64) + inputs[1])


@dataclass(frozen=True)
class Multiply(Stage):
    """Product of two values of equal shape, or of a value and a 1x1xC one: the gate of a squeeze-excite block."""

    def output_shape(self, shapes: Sequence[ImageShape]) -> ImageShape:
        """The shape of the larger input."""
        return max(shapes, key=lambda shape: shape.pixels)

    def reference(self, inputs: Sequence[Array], parameters: Mapping[str, Array]) -> Array:  # noqa: ARG002 - has none
        """The product in float64."""
        return np.asarray(inputs[0].astype(np.float64) * inputs[1])
