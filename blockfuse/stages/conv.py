"""Dense convolution: pointwise (1x1), kxk, and a fully connected layer as a pointwise conv of a 1x1 image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from blockfuse.stages.base import Array, ImageShape, Stage, Window, windows_of


@dataclass(frozen=True)
class Conv(Stage):
    """``y[p, q, k] = bias[k] + sum over r, s, c of x[p*stride + r, q*stride + s, c] * weight[k, c, r, s]``.

    Attributes:
        channels: Output channels K.
        window: Filter size, stride, dilation, padding.
    """

    channels: int
    window: Window

    def output_shape(self, shapes: Sequence[ImageShape]) -> ImageShape:
        """P x Q x K."""
        p, q = self.window.output_size(shapes[0].height, shapes[0].width)
        return ImageShape(p, q, self.channels)

    def parameters(self, shapes: Sequence[ImageShape]) -> dict[str, tuple[int, ...]]:
        """``weight`` [K, C, R, S] and ``bias`` [K]."""
        return {
            "weight": (self.channels, shapes[0].channels, self.window.r, self.window.s),
            "bias": (self.channels,),
        }

    def operations(self, shapes: Sequence[ImageShape]) -> int:
        """2 P Q K C R S."""
        return 2 * self.output_shape(shapes).elements * shapes[0].channels * self.window.taps

    def reference(self, inputs: Sequence[Array], parameters: Mapping[str, Array]) -> Array:
        """The convolution in float64."""
        views = windows_of(inputs[0].astype(np.float64), self.window)
        y = np.einsum("npqcrs,kcrs->npqk", views, parameters["weight"].astype(np.float64), optimize=True)
        return np.asarray(y + parameters["bias"].astype(np.float64))

    def describe(self) -> str:
        """For example ``conv 3x3/2 -> 64``."""
        return f"conv {self.window} -> {self.channels}"
