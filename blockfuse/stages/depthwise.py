"""Depthwise convolution: every channel has its own filter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from blockfuse.stages.base import Array, ImageShape, Stage, Window, windows_of


@dataclass(frozen=True)
class Depthwise(Stage):
    """``y[p, q, c] = bias[c] + sum over r, s of x[p*stride + r, q*stride + s, c] * weight[c, 0, r, s]``.

    Attributes:
        window: Filter size, stride, dilation, padding.
    """

    window: Window

    def output_shape(self, shapes: Sequence[ImageShape]) -> ImageShape:
        """P x Q x C."""
        p, q = self.window.output_size(shapes[0].height, shapes[0].width)
        return ImageShape(p, q, shapes[0].channels)

    def parameters(self, shapes: Sequence[ImageShape]) -> dict[str, tuple[int, ...]]:
        """``weight`` [C, 1, R, S] and ``bias`` [C]."""
        c = shapes[0].channels
        return {"weight": (c, 1, self.window.r, self.window.s), "bias": (c,)}

    def operations(self, shapes: Sequence[ImageShape]) -> int:
        """2 P Q C R S."""
        return 2 * self.output_shape(shapes).elements * self.window.taps

    def reference(self, inputs: Sequence[Array], parameters: Mapping[str, Array]) -> Array:
        """The convolution in float64."""
        views = windows_of(inputs[0].astype(np.float64), self.window)
        y = np.einsum("npqcrs,crs->npqc", views, parameters["weight"][:, 0].astype(np.float64), optimize=True)
        return np.asarray(y + parameters["bias"].astype(np.float64))

    def describe(self) -> str:
        """For example ``depthwise 3x3``."""
        return f"depthwise {self.window}"
