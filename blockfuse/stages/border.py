"""A frame of repeated pixels around an image, as blurring before a stride has it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from blockfuse.stages.base import Array, Frame, ImageShape, Stage


@dataclass(frozen=True)
class Border(Stage):
    """The image in a frame of its own pixels; zeros around an image are the padding of a window instead.

    Attributes:
        frame: How wide it is, and which pixels are repeated.
    """

    frame: Frame

    def output_shape(self, shapes: Sequence[ImageShape]) -> ImageShape:
        """The framed image's."""
        p, q = self.frame.window.output_size(shapes[0].height, shapes[0].width)
        return ImageShape(p, q, shapes[0].channels)

    def reference(self, inputs: Sequence[Array], parameters: Mapping[str, Array]) -> Array:  # noqa: ARG002 - has none
        """The framed image in float64."""
        frame = self.frame
        widths = ((0, 0), (frame.top, frame.bottom), (frame.left, frame.right), (0, 0))
        return np.pad(inputs[0].astype(np.float64), widths, mode=frame.rule)

    def describe(self) -> str:
        """For example ``border reflect 1 1 1 1``."""
        return f"border {self.frame}"
