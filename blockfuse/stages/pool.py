"""Pooling: the maximum, the mean or the L2 norm over a window, or over the whole image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from blockfuse.stages.base import Array, ImageShape, Stage, Window, windows_of

Reduction: TypeAlias = Literal["max", "mean", "l2"]


@dataclass(frozen=True)
class Pool(Stage):
    """Reduce every window of every channel to one value; padding never counts.

    Attributes:
        reduction: ``max``, ``mean`` or ``l2``, the root of the sum of squares.
        window: Size, stride, dilation, padding. A global pool has the image's size as its window.
        count: What a mean divides sums by: 1 for the sums themselves; 0 for the pixels of each window in the image.
    """

    reduction: Reduction
    window: Window
    count: int = 0

    def output_shape(self, shapes: Sequence[ImageShape]) -> ImageShape:
        """P x Q x C."""
        p, q = self.window.output_size(shapes[0].height, shapes[0].width)
        return ImageShape(p, q, shapes[0].channels)

    def reference(self, inputs: Sequence[Array], parameters: Mapping[str, Array]) -> Array:  # noqa: ARG002 - has none
        """The pooled image in float64."""
        x = inputs[0].astype(np.float64)
        if self.reduction == "max":
            return np.asarray(windows_of(x, self.window, -np.inf).max((-2, -1)))
        if self.reduction == "l2":
            return np.asarray(np.sqrt((windows_of(x, self.window) ** 2).sum((-2, -1))))
        count = self.count or windows_of(np.ones_like(x), self.window).sum((-2, -1))
        return np.asarray(windows_of(x, self.window).sum((-2, -1)) / count)

    def describe(self) -> str:
        """For example ``max pool 3x3/2``."""
        of = f" of {self.count}" if self.count else ""
        return f"{self.reduction} pool {self.window}{of}"
