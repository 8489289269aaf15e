"""MobileNetV2 (Sandler et al., arXiv 1801.04381)."""

from __future__ import annotations

import onnx

from blockfuse.frontend.zoo.builder import Builder, scaled_channels

_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Expansion, channels, number of blocks and first stride of the stages."""

_BRANCH_GAIN = 0.25
"""Gain of the last convolution of a block with a shortcut."""


def mobilenet_v2(
    batch: int = 1, size: int = 224, width: float = 1.0, classes: int = 1000, seed: int = 0
) -> onnx.ModelProto:
    """MobileNetV2 with seeded weights.

    Args:
        batch: Images at a time.
        size: Height and width of the images.
        width: Multiplier of all channel counts; that of the last convolution never shrinks.
        classes: Number of outputs.
        seed: Seed of the weights.

    Returns:
        A model from ``input`` [batch, 3, size, size] to ``output`` [batch, classes], in float32.

    Raises:
        UsageError: A size is not positive.
    """
    net = Builder("mobilenet_v2", (batch, 3, size, size), seed)
    x = net.relu6(net.conv("input", scaled_channels(32, width), 3, "stem.conv", stride=2), "stem.relu6")
    inputs, index = scaled_channels(32, width), 0
    for expansion, channels, repeats, first_stride in _STAGES:
        outputs = scaled_channels(channels, width)
        for repeat in range(repeats):
            x = _block(net, x, (inputs, outputs), expansion, first_stride if repeat == 0 else 1, f"block{index}")
            inputs, index = outputs, index + 1
    x = net.relu6(net.conv(x, scaled_channels(1280, max(1.0, width)), 1, "head.conv"), "head.relu6")
    return net.classifier(x, classes)


def _block(net: Builder, x: str, channels: tuple[int, int], expansion: int, stride: int, name: str) -> str:
    """Expand, filter each channel by itself, project; a shortcut where the shape stays."""
    inputs, outputs = channels
    hidden, has_shortcut = inputs * expansion, stride == 1 and inputs == outputs
    y = x
    if expansion != 1:
        y = net.relu6(net.conv(y, hidden, 1, f"{name}.expand"), f"{name}.expand.relu6")
    y = net.conv(y, hidden, 3, f"{name}.depthwise", stride=stride, groups=hidden)
    y = net.relu6(y, f"{name}.depthwise.relu6")
    y = net.conv(y, outputs, 1, f"{name}.project", gain=_BRANCH_GAIN if has_shortcut else 1.0)
    return net.node("Add", [x, y], f"{name}.add") if has_shortcut else y
