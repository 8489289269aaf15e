"""ResNet-50 (He et al., arXiv 1512.03385), with the stride in the 3x3 convolutions."""

from __future__ import annotations

import onnx

from blockfuse.frontend.zoo.builder import Builder, scaled_channels

_STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))
"""Inner channels, number of blocks and first stride of the four stages."""

_EXPANSION = 4
"""Channels between the blocks over those inside."""

_BRANCH_GAIN = 0.25
"""Gain of a branch's last convolution."""


def resnet50(
    batch: int = 1, size: int = 224, width: float = 1.0, classes: int = 1000, seed: int = 0
) -> onnx.ModelProto:
    """ResNet-50 with seeded weights.

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
    net = Builder("resnet50", (batch, 3, size, size), seed)
    x = net.conv("input", scaled_channels(64, width), 7, "conv1", stride=2)
    x = net.node("Relu", [x], "relu1")
    x = net.node("MaxPool", [x], "maxpool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    for stage, (channels, repeats, first_stride) in enumerate(_STAGES, start=1):
        hidden = scaled_channels(channels, width)
        for repeat in range(repeats):
            x = _block(
                net, x, hidden, first_stride if repeat == 0 else 1, f"layer{stage}.{repeat}", project=repeat == 0
            )
    return net.classifier(x, classes)


def _block(net: Builder, x: str, hidden: int, stride: int, name: str, *, project: bool) -> str:
    """Reduce, filter, expand; the shortcut is a 1x1 convolution where the shape changes."""
    outputs = hidden * _EXPANSION
    y = net.node("Relu", [net.conv(x, hidden, 1, f"{name}.conv1")], f"{name}.relu1")
    y = net.node("Relu", [net.conv(y, hidden, 3, f"{name}.conv2", stride=stride)], f"{name}.relu2")
    y = net.conv(y, outputs, 1, f"{name}.conv3", gain=_BRANCH_GAIN)
    shortcut = net.conv(x, outputs, 1, f"{name}.downsample", stride=stride, gain=1.0) if project else x
    return net.node("Relu", [net.node("Add", [y, shortcut], f"{name}.add")], f"{name}.relu3")
