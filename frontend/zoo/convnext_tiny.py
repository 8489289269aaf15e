"""ConvNeXt-T (Liu et al., arXiv 2201.03545), with its channels last between two Transposes as exporters write it."""

from __future__ import annotations

import onnx

from blockfuse.frontend.zoo.builder import Builder, scaled_channels

_STAGES = ((96, 3), (192, 3), (384, 9), (768, 3))
"""Channels and number of blocks of the four stages."""

_EXPANSION = 4
"""Channels inside a block over those between blocks."""

_LAYER_SCALE = 0.5
"""About the factors before a shortcut; a trained network's are smaller."""


def convnext_tiny(
    batch: int = 1, size: int = 224, width: float = 1.0, classes: int = 1000, seed: int = 0
) -> onnx.ModelProto:
    """ConvNeXt-T with seeded weights.

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
    net = Builder("convnext_tiny", (batch, 3, size, size), seed)
    x = "input"
    for stage, (channels, repeats) in enumerate(_STAGES):
        outputs, name = scaled_channels(channels, width), f"stage{stage}"
        if stage == 0:
            x = _norm(net, net.conv(x, outputs, 4, "stem.conv", stride=4, gain=1.0), "stem.norm")
        else:
            x = net.conv(_norm(net, x, f"{name}.norm"), outputs, 2, f"{name}.downsample", stride=2, gain=1.0)
        for repeat in range(repeats):
            x = _block(net, x, outputs, f"{name}.{repeat}")
    return net.classifier(x, classes, norm=True)


def _norm(net: Builder, x: str, name: str) -> str:
    return net.to_first(net.layer_norm(net.to_last(x, f"{name}.last"), name), f"{name}.first")


def _block(net: Builder, x: str, channels: int, name: str) -> str:
    """Filter each channel by itself, normalize each pixel, expand, project, scale."""
    y = net.conv(x, channels, 7, f"{name}.depthwise", groups=channels, gain=1.0)
    y = net.layer_norm(net.to_last(y, f"{name}.last"), f"{name}.norm")
    y = net.gelu(net.linear(y, channels * _EXPANSION, f"{name}.expand", gain=2.0), f"{name}.gelu")
    y = net.to_first(net.linear(y, channels, f"{name}.project", gain=1.0), f"{name}.first")
    return net.node("Add", [net.layer_scale(y, _LAYER_SCALE, f"{name}.scale"), x], f"{name}.add")
