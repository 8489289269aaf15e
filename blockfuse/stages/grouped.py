"""Grouped convolution: the channels in groups, each convolved densely with filters of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from blockfuse.stages.base import Array, ImageShape, Stage, Window, windows_of


@dataclass(frozen=True)
class Grouped(Stage):
    """A dense convolution within each of G groups of C/G input channels and K/G output channels.

    ``y[p, q, k] = bias[k] + sum over r, s, c of x[p*stride + r, q*stride + s, g*C/G + c] * weight[k, c, r, s]``, where
    ``g = k // (K/G)``.

    Attributes:
        channels: Output channels K, a multiple of ``groups``.
        groups: Number of groups G, a divisor of the input channels too.
        window: Filter size, stride, dilation, padding.
    """

    channels: int
    groups: int
    window: Window

    def output_shape(self, shapes: Sequence[ImageShape]) -> ImageShape:
        """P x Q x K."""
        p, q = self.window.output_size(shapes[0].height, shapes[0].width)
        return ImageShape(p, q, self.channels)

    def parameters(self, shapes: Sequence[ImageShape]) -> dict[str, tuple[int, ...]]:
        """``weight`` [K, C/G, R, S] and ``bias`` [K]."""
        depth = shapes[0].channels // self.groups
        return {"weight": (self.channels, depth, self.window.r, self.window.s), "bias": (self.channels,)}

    def operations(self, shapes: Sequence[ImageShape]) -> int:
        """2 P Q K (C/G) R S."""
        return 2 * self.output_shape(shapes).elements * (shapes[0].channels // self.groups) * self.window.taps

    def reference(self, inputs: Sequence[Array], parameters: Mapping[str, Array]) -> Array:
        """The convolution in float64."""
        views = windows_of(inputs[0].astype(np.float64), self.window)
        n, p, q, c, r, s = views.shape
        split = views.reshape(n, p, q, self.groups, c // self.groups, r, s)
        weights = parameters["weight"].astype(np.float64).reshape(self.groups, -1, c // self.groups, r, s)
        y = np.einsum("npqgcrs,gkcrs->npqgk", split, weights, optimize=True)
        return np.asarray(y.reshape(n, p, q, self.channels) + parameters["bias"].astype(np.float64))

    def describe(self) -> str:
        """For example ``grouped 3x3 of 32 -> 256``."""
        return f"grouped {self.window} of {self.groups} -> {self.channels}"
