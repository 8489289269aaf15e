"""Channels of images side by side, and some of the channels of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from blockfuse.stages.base import Array, ImageShape, Stage


@dataclass(frozen=True)
class Concat(Stage):
    """The channels of all inputs, one image behind the other."""

    def output_shape(self, shapes: Sequence[ImageShape]) -> ImageShape:
        """All channels together."""
        return ImageShape(shapes[0].height, shapes[0].width, sum(shape.channels for shape in shapes))

    def reference(self, inputs: Sequence[Array], parameters: Mapping[str, Array]) -> Array:  # noqa: ARG002 - has none
        """The images side by side in float64."""
        return np.concatenate(inputs, axis=-1, dtype=np.float64)


@dataclass(frozen=True)
class Slice(Stage):
    """Some of the channels that lie behind each other.

    Attributes:
        first: The first one.
        channels: How many.
    """

    first: int
    channels: int

    def output_shape(self, shapes: Sequence[ImageShape]) -> ImageShape:
        """The input's with fewer channels."""
        return ImageShape(shapes[0].height, shapes[0].width, min(self.channels, shapes[0].channels - self.first))

    def reference(self, inputs: Sequence[Array], parameters: Mapping[str, Array]) -> Array:  # noqa: ARG002 - has none
        """The channels in float64."""
        return np.asarray(inputs[0][..., self.first : self.first + self.channels], np.float64)

    def describe(self) -> str:
        """For example ``channels 16..31``."""
        return f"channels {self.first}..{self.first + self.channels - 1}"
