"""Normalization of every pixel over its channels, and scaling of channels by constants; PReLU is that below zero."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from blockfuse.stages.base import Array, ImageShape, Stage


@dataclass(frozen=True)
class Norm(Stage):
    """Layer normalization over the channels of a pixel (Ba, Kiros, Hinton, arXiv 1607.06450), as ConvNeXt has it.

    ``y[c] = (x[c] - mean) / sqrt(variance + epsilon) * scale[c] + shift[c]``; mean and variance (divided by C) are
    those of the pixel's C channels.

    Attributes:
        epsilon: Added to the variance.
    """

    epsilon: float

    def output_shape(self, shapes: Sequence[ImageShape]) -> ImageShape:
        """The input's shape."""
        return shapes[0]

    def parameters(self, shapes: Sequence[ImageShape]) -> dict[str, tuple[int, ...]]:
        """``scale`` [C] and ``shift`` [C]."""
        return {"scale": (shapes[0].channels,), "shift": (shapes[0].channels,)}

    def reference(self, inputs: Sequence[Array], parameters: Mapping[str, Array]) -> Array:
        """The normalized image in float64."""
        y = normalized(inputs[0].astype(np.float64), self.epsilon)
        return np.asarray(y * parameters["scale"].astype(np.float64) + parameters["shift"].astype(np.float64))

    def describe(self) -> str:
        """For example ``norm (epsilon 1e-06)``."""
        return f"norm (epsilon {self.epsilon:g})"


def normalized(x: Array, epsilon: float) -> Array:
    """``(x - mean) / sqrt(variance + epsilon)`` over the last axis."""
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
