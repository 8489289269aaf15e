"""ConvFirstNet (Lavin, arXiv 2404.03617), as far as it is known.

Inferred: the paper gives the blocks. The channels, group widths and strides of the stages are those for which its
author published tuned kernels; the depths, the downsampling and the head are ours. Take no accuracy from it.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from blockfuse.frontend.zoo.builder import Builder, scaled_channels


@dataclass(frozen=True)
class _Stage:
    """Blocks of one size of image; the first of them halves it, but in the first stage."""

    channels: int
    repeats: int
    convfirst: bool


_STAGES = (_Stage(32, 2, True), _Stage(64, 3, True), _Stage(96, 3, True), _Stage(256, 6, False), _Stage(256, 3, False))
"""At strides 2, 4, 8 ConvFirst blocks, at 16 and 32 MBConv blocks."""

_GROUP_WIDTH = 8
"""Channels of a group of the 3x3 convolutions."""

_SILU_GAIN = 2.1
"""Gain of a convolution before a SiLU."""

_BRANCH_GAIN = 0.25
"""Gain of a block with a shortcut."""


def convfirstnet(
    batch: int = 1, size: int = 256, width: float = 1.0, classes: int = 1000, seed: int = 0
) -> onnx.ModelProto:
    """A network of ConvFirst and MBConv blocks with seeded weights; see the module for what of it is known.

    Args:
        batch: Images at a time.
        size: Height and width of the images.
        width: Multiplier of all channel counts.
        classes: Number of outputs.
        seed: Seed of the weights.

    Returns:
        A model from ``input`` [batch, 3, size, size] to ``output`` [batch, classes], in float32.

    Raises:
        UsageError: A size is not positive.
    """
    net = Builder("convfirstnet", (batch, 3, size, size), seed)
    inputs, block = scaled_channels(_STAGES[0].channels, width), 0
    x = net.silu(net.conv("input", inputs, 3, "stem.conv", stride=2, gain=_SILU_GAIN), "stem.silu")
    for index, stage in enumerate(_STAGES):
        outputs = scaled_channels(stage.channels, width)
        make = _convfirst if stage.convfirst else _mbconv
        for repeat in range(stage.repeats):
            x = make(net, x, (inputs, outputs), 2 if index and not repeat else 1, f"block{block}")
            inputs, block = outputs, block + 1
    return net.classifier(x, classes)


def _convfirst(net: Builder, x: str, channels: tuple[int, int], stride: int, name: str) -> str:
    """Filter in groups without an activation, expand six times, project; a shortcut where the shape stays."""
    inputs = channels[0]
    y = net.conv(x, inputs, 3, f"{name}.conv", stride=stride, groups=inputs // _GROUP_WIDTH, gain=1.0)
    y = net.silu(net.conv(y, 6 * inputs, 1, f"{name}.expand", gain=_SILU_GAIN), f"{name}.silu")
    return _project(net, x, y, channels, stride, name)


def _mbconv(net: Builder, x: str, channels: tuple[int, int], stride: int, name: str) -> str:
    """Expand four times, filter in groups, project; a shortcut where the shape stays."""
    hidden = 4 * channels[0]
    y = net.silu(net.conv(x, hidden, 1, f"{name}.expand", gain=_SILU_GAIN), f"{name}.expand.silu")
    y = net.conv(y, hidden, 3, f"{name}.conv", stride=stride, groups=hidden // _GROUP_WIDTH, gain=_SILU_GAIN)
    return _project(net, x, net.silu(y, f"{name}.silu"), channels, stride, name)


def _project(net: Builder, x: str, y: str, channels: tuple[int, int], stride: int, name: str) -> str:
    has_shortcut = stride == 1 and channels[0] == channels[1]
    y = net.conv(y, channels[1], 1, f"{name}.project", gain=_BRANCH_GAIN if has_shortcut else 1.0)
    return net.node("Add", [y, x], f"{name}.add") if has_shortcut else y
