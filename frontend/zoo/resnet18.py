"""ResNet-18 (He et al., arXiv 1512.03385)."""

from __future__ import annotations

import onnx

from blockfuse.frontend.zoo.builder import Builder, scaled_channels

_STAGES = ((64, 1), (128, 2), (256, 2), (512, 2))
"""Channels and first stride of the four stages of two blocks each."""

_BRANCH_GAIN = 0.25
"""Gain of a branch's last convolution: eight sums then grow the activations by less than a factor of three."""


def resnet18(
    batch: int = 1, size: int = 224, width: float = 1.0, classes: int = 1000, seed: int = 0
) -> onnx.ModelProto:
    """ResNet-18 with seeded weights.

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
    net = Builder("resnet18", (batch, 3, size, size), seed)
    x = net.conv("input", scaled_channels(64, width), 7, "conv1", stride=2)
    x = net.node("Relu", [x], "relu1")
    x = net.node("MaxPool", [x], "maxpool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    for stage, (channels, stride) in enumerate(_STAGES, start=1):
        outputs = scaled_channels(channels, width)
        x = _block(net, x, outputs, stride, f"layer{stage}.0", project=stage > 1)
        x = _block(net, x, outputs, 1, f"layer{stage}.1", project=False)
    return net.classifier(x, classes)


def _block(net: Builder, x: str, outputs: int, stride: int, name: str, *, project: bool) -> str:
    """Two 3x3 convolutions and a shortcut, which is a 1x1 convolution where the shape changes."""
    y = net.conv(x, outputs, 3, f"{name}.conv1", stride=stride)
    y = net.node("Relu", [y], f"{name}.relu1")
    y = net.conv(y, outputs, 3, f"{name}.conv2", gain=_BRANCH_GAIN)
    shortcut = net.conv(x, outputs, 1, f"{name}.downsample", stride=stride, gain=1.0) if project else x
    y = net.node("Add", [y, shortcut], f"{name}.add")
    return net.node("Relu", [y], f"{name}.relu2")
