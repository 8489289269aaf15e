"""The sliding window of convolutions and poolings, with every default and automatic pad spelt out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Window:
    """A sliding window over the spatial axes.

    Attributes:
        kernel_shape: Window size per axis.
        strides: Step per axis.
        pads: Zeros before all axes, then after all axes: (top, left, bottom, right) for images.
        dilations: Distance between taps per axis.
    """

    kernel_shape: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...]

    @property
    def attrs(self) -> dict[str, tuple[int, ...]]:
        """The window as ONNX attributes."""
        return dict(vars(self))

    @property
    def extent(self) -> tuple[int, ...]:
        """Input elements from the first tap to the last, per axis."""
        return tuple((size - 1) * step + 1 for size, step in zip(self.kernel_shape, self.dilations, strict=True))

    @property
    def is_inside(self) -> bool:
        """Whether no window lies wholly in the padding."""
        return all(pad < size for pad, size in zip(self.pads, 2 * self.kernel_shape, strict=True))


def window_of(attrs: Mapping[str, Any], kernel_shape: tuple[int, ...], image: tuple[int, ...]) -> Window:
    """The window that attributes describe.

    Args:
        attrs: Attributes of a convolution or a pooling.
        kernel_shape: Window size per spatial axis.
        image: Input size per spatial axis, which automatic pads depend on.
    """
    rank = len(image)
    strides = tuple(attrs.get("strides", (1,) * rank))
    dilations = tuple(attrs.get("dilations", (1,) * rank))
    mode = attrs.get("auto_pad", "NOTSET")
    pads = tuple(attrs.get("pads", (0,) * 2 * rank)) if mode == "NOTSET" else (0,) * 2 * rank
    window = Window(tuple(kernel_shape), strides, pads, dilations)
    if not mode.startswith("SAME"):
        return window
    total = [max((-(-image[i] // strides[i]) - 1) * strides[i] + window.extent[i] - image[i], 0) for i in range(rank)]
    small = [pad // 2 for pad in total]
    large = [pad - half for pad, half in zip(total, small, strict=True)]
    begin, end = (small, large) if mode == "SAME_UPPER" else (large, small)
    return Window(tuple(kernel_shape), strides, (*begin, *end), dilations)
