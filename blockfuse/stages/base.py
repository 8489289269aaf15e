"""What every stage kind answers: shapes, parameters, operations, and a float64 reference.

A stage is one operator inside a block. Images are N, H, W, C arrays here; :class:`ImageShape` leaves out the batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np

Array: TypeAlias = np.ndarray[Any, Any]


@dataclass(frozen=True)
class ImageShape:
    """Size of one image: rows, columns, channels."""

    height: int
    width: int
    channels: int

    @property
    def pixels(self) -> int:
        """Rows times columns."""
        return self.height * self.width

    @property
    def elements(self) -> int:
        """Rows times columns times channels."""
        return self.pixels * self.channels

    def __str__(self) -> str:
        return f"{self.height}x{self.width}x{self.channels}"


@dataclass(frozen=True)
class Window:
    """The sliding window of a convolution or pooling: filter size, stride, dilation and zero padding, in pixels.

    Attributes:
        r: Filter rows.
        s: Filter columns.
        stride_h: Input rows from one output row to the next.
        stride_w: Input columns from one output column to the next.
        dilation_h: Input rows from one filter row to the next.
        dilation_w: Input columns from one filter column to the next.
        pad_top: Rows of zeros above the image.
        pad_left: Columns of zeros to its left.
        pad_bottom: Rows of zeros below it.
        pad_right: Columns of zeros to its right.
    """

    r: int = 1
    s: int = 1
    stride_h: int = 1
    stride_w: int = 1
    dilation_h: int = 1
    dilation_w: int = 1
    pad_top: int = 0
    pad_left: int = 0
    pad_bottom: int = 0
    pad_right: int = 0

    @property
    def extent_h(self) -> int:
        """Input rows under one output row."""
        return (self.r - 1) * self.dilation_h + 1

    @property
    def extent_w(self) -> int:
        """Input columns under one output column."""
        return (self.s - 1) * self.dilation_w + 1

    @property
    def taps(self) -> int:
        """Filter positions, R * S."""
        return self.r * self.s

    @property
    def is_pointwise(self) -> bool:
        """Whether output pixel (p, q) reads input pixel (p, q) alone."""
        return self == Window()

    @property
    def has_padding(self) -> bool:
        """Whether any window reaches outside the image."""
        return bool(self.pad_top or self.pad_left or self.pad_bottom or self.pad_right)

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Output rows and columns: floor((H + pads - extent) / stride) + 1."""
        p = (height + self.pad_top + self.pad_bottom - self.extent_h) // self.stride_h + 1
        q = (width + self.pad_left + self.pad_right - self.extent_w) // self.stride_w + 1
        return p, q

    def __str__(self) -> str:
        text = f"{self.r}x{self.s}"
        if (self.stride_h, self.stride_w) != (1, 1):
            text += f"/{self.stride_h}" if self.stride_h == self.stride_w else f"/{self.stride_h}x{self.stride_w}"
        if (self.dilation_h, self.dilation_w) != (1, 1):
            text += f" dilated {self.dilation_h}x{self.dilation_w}"
        return text


@dataclass(frozen=True)
class Frame:
    """Pixels around an image that repeat its own.

    Attributes:
        rule: ``reflect`` mirrors the image at its outermost pixels, ``edge`` repeats those.
        top: Rows above.
        left: Columns to the left.
        bottom: Rows below.
        right: Columns to the right.
    """

    rule: Literal["reflect", "edge"]
    top: int = 0
    left: int = 0
    bottom: int = 0
    right: int = 0

    @property
    def window(self) -> Window:
        """What covers the pixel that a pixel of the framed image is, wherever that lies."""
        reach = 2 if self.rule == "reflect" else 1
        return Window(
            reach * (self.top + self.bottom) + 1,
            reach * (self.left + self.right) + 1,
            pad_top=self.top + reach * self.bottom,
            pad_left=self.left + reach * self.right,
            pad_bottom=self.bottom + reach * self.top,
            pad_right=self.right + reach * self.left,
        )

    def source(self, position: int, size: int) -> int:
        """Which pixel of ``size`` in a line stands at a position of the line, framed; the nearest beyond the frame."""
        if self.rule == "reflect":
            position = size - 1 - abs(size - 1 - abs(position))
        return min(max(position, 0), size - 1)

    def __str__(self) -> str:
        return f"{self.rule} {self.top} {self.left} {self.bottom} {self.right}"


@dataclass(frozen=True)
class Stage(ABC):
    """One operator of a block.

    Attributes:
        name: For people; two stages that differ in name alone are equal.
        inputs: Numbers of the block's values that are read.
    """

    name: str = field(compare=False)
    inputs: tuple[int, ...]

    @abstractmethod
    def output_shape(self, shapes: Sequence[ImageShape]) -> ImageShape:
        """Shape of the result for inputs of these shapes."""

    @abstractmethod
    def reference(self, inputs: Sequence[Array], parameters: Mapping[str, Array]) -> Array:
        """The result in float64 for N, H, W, C inputs; ``parameters`` are keyed and shaped as in :meth:`parameters`."""

    def parameters(self, shapes: Sequence[ImageShape]) -> dict[str, tuple[int, ...]]:  # noqa: ARG002 - an interface
        """Names and shapes of the constants this stage takes."""
        return {}

    def operations(self, shapes: Sequence[ImageShape]) -> int:  # noqa: ARG002 - an interface
        """Arithmetic operations for one image; a multiply-accumulate counts two. Elementwise stages count none."""
        return 0

    def describe(self) -> str:
        """The stage kind and its geometry, without the name."""
        return type(self).__name__.lower()


def windows_of(x: Array, window: Window, fill: float = 0.0) -> Array:
    """All windows of an N, H, W, C array as N, P, Q, C, R, S (a read-only view of a padded copy)."""
    pads = ((0, 0), (window.pad_top, window.pad_bottom), (window.pad_left, window.pad_right), (0, 0))
    padded = np.pad(x, pads, constant_values=fill)
    views = np.lib.stride_tricks.sliding_window_view(padded, (window.extent_h, window.extent_w), axis=(1, 2))
    return views[:, :: window.stride_h, :: window.stride_w, :, :: window.dilation_h, :: window.dilation_w]
