"""Normalization of every pixel over its channels, and scaling of channels by constants; PReLU is that below zero."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from blockfuse.stages.base import Array, ImageShape, Stage

Divisor: TypeAlias = Literal["deviation", "mean"]


@dataclass(frozen=True)
class Norm(Stage):
    """Normalization over the channels of a pixel, as ConvNeXt has it; mean and variance are those of its C channels.

    ``deviation``: ``y[c] = (x[c] - mean) / sqrt(variance + epsilon) * scale[c] + shift[c]``, layer normalization (Ba,
    Kiros, Hinton, arXiv 1607.06450).
    ``mean``: ``y[c] = x[c] / (mean + epsilon) * scale[c] + shift[c]``, which global response normalization (Woo et al.,
    arXiv 2301.00808) does with the lengths of channels.

    Attributes:
        epsilon: Added to the variance or the mean.
        divisor: What pixels are divided by.
    """

    epsilon: float
    divisor: Divisor = "deviation"

    def output_shape(self, shapes: Sequence[ImageShape]) -> ImageShape:
        """The input's shape."""
        return shapes[0]

    def parameters(self, shapes: Sequence[ImageShape]) -> dict[str, tuple[int, ...]]:
        """``scale`` [C] and ``shift`` [C]."""
        return {"scale": (shapes[0].channels,), "shift": (shapes[0].channels,)}

    def reference(self, inputs: Sequence[Array], parameters: Mapping[str, Array]) -> Array:
        """The normalized image in float64."""
        y = normalized(inputs[0].astype(np.float64), self.epsilon, self.divisor)
        return np.asarray(y * parameters["scale"].astype(np.float64) + parameters["shift"].astype(np.float64))

    def describe(self) -> str:
        """For example ``norm (epsilon 1e-06)``."""
        return f"norm{' by mean' if self.divisor == 'mean' else ''} (epsilon {self.epsilon:g})"


def normalized(x: Array, epsilon: float, divisor: Divisor = "deviation") -> Array:
    """``(x - mean) / sqrt(variance + epsilon)`` or ``x / (mean + epsilon)`` over the last axis."""
    if divisor == "mean":
        return np.asarray(x / (x.mean(-1, keepdims=True) + epsilon))
    centred = x - x.mean(-1, keepdims=True)
    return np.asarray(centred / np.sqrt((centred * centred).mean(-1, keepdims=True) + epsilon))


@dataclass(frozen=True)
class Scale(Stage):
    """``y[p, q, c] = x[p, q, c] * scale[c] + shift[c]``: layer scale, or batch norm that no convolution can take in."""

    def output_shape(self, shapes: Sequence[ImageShape]) -> ImageShape:
        """The input's shape."""
        return shapes[0]

    def parameters(self, shapes: Sequence[ImageShape]) -> dict[str, tuple[int, ...]]:
        """``scale`` [C] and ``shift`` [C]."""
        return {"scale": (shapes[0].channels,), "shift": (shapes[0].channels,)}

    def reference(self, inputs: Sequence[Array], parameters: Mapping[str, Array]) -> Array:
        """The scaled image in float64."""
        scaled = inputs[0].astype(np.float64) * parameters["scale"].astype(np.float64)
        return np.asarray(scaled + parameters["shift"].astype(np.float64))


@dataclass(frozen=True)
class Slope(Stage):
    """``y[p, q, c] = x[p, q, c]``, times ``slope[c]`` where that is below zero: PReLU (He et al., arXiv 1502.01852)."""

    def output_shape(self, shapes: Sequence[ImageShape]) -> ImageShape:
        """The input's shape."""
        return shapes[0]

    def parameters(self, shapes: Sequence[ImageShape]) -> dict[str, tuple[int, ...]]:
        """``slope`` [C]."""
        return {"slope": (shapes[0].channels,)}

    def reference(self, inputs: Sequence[Array], parameters: Mapping[str, Array]) -> Array:
        """The function in float64."""
        x = inputs[0].astype(np.float64)
        return np.where(x < 0, x * parameters["slope"].astype(np.float64), x)
