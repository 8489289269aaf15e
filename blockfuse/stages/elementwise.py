"""Stages that work on each element by itself: activations and the residual add.

A new activation is a function in :data:`ACTIVATIONS` here and one in the table of each target
(``schedules/cpu/activations.py``, ``schedules/cuda/activations.py``).
"""

from __future__ import annotations

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
    """

    kind: str
    low: float = 0.0
    high: float = 0.0

    def __str__(self) -> str:
        return f"clip({self.low:g}, {self.high:g})" if self.kind == "clip" else self.kind


def _relu(x: Array, _: Function) -> Array:
    return np.maximum(x, 0.0)


def _clip(x: Array, function: Function) -> Array:
    return np.clip(x, function.low, function.high)


def _hard_swish(x: Array, _: Function) -> Array:
    return np.asarray(x * np.clip(x / 6 + 0.5, 0.0, 1.0))


ACTIVATIONS: dict[str, Callable[[Array, Function], Array]] = {"relu": _relu, "clip": _clip, "hard_swish": _hard_swish}


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
