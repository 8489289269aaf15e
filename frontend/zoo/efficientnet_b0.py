"""EfficientNet-B0 (Tan and Le, arXiv 1905.11946)."""

from __future__ import annotations

import onnx

from blockfuse.frontend.zoo.builder import Builder, scaled_channels

_STAGES = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)
"""Expansion, channels, number of blocks, first stride and window size of the stages."""

_SQUEEZE = 4
"""Channels that a block reads over those between its gate's layers."""

_GATE_LOSS = 3.5
"""One over the mean square of a gate."""

_SILU_GAIN = 2.4
"""Gain of a convolution before a SiLU."""

_BRANCH_GAIN = 0.5
"""Gain of a block with a shortcut."""


def efficientnet_b0(
    batch: int = 1, size: int = 224, width: float = 1.0, classes: int = 1000, seed: int = 0
) -> onnx.ModelProto:
    """EfficientNet-B0 with seeded weights; the channels of the last convolution never shrink.

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
    net = Builder("efficientnet_b0", (batch, 3, size, size), seed)
    inputs, index = scaled_channels(32, width), 0
    x = net.silu(net.conv("input", inputs, 3, "stem.conv", stride=2, gain=_SILU_GAIN), "stem.silu")
    for expansion, channels, repeats, first_stride, kernel in _STAGES:
        outputs = scaled_channels(channels, width)
        for repeat in range(repeats):
            stride = first_stride if repeat == 0 else 1
            x = _block(net, x, (inputs, outputs), (expansion, kernel, stride), f"block{index}")
            inputs, index = outputs, index + 1
    x = net.silu(net.conv(x, scaled_channels(1280, max(1.0, width)), 1, "head.conv", gain=_SILU_GAIN), "head.silu")
    return net.classifier(x, classes)


def _block(net: Builder, x: str, channels: tuple[int, int], geometry: tuple[int, int, int], name: str) -> str:
    """Expand, filter each channel by itself, weigh the channels, project; a shortcut where the shape stays."""
    (inputs, outputs), (expansion, kernel, stride) = channels, geometry
    hidden, has_shortcut = inputs * expansion, stride == 1 and inputs == outputs
    y = x
    if expansion != 1:
        y = net.silu(net.conv(y, hidden, 1, f"{name}.expand", gain=_SILU_GAIN), f"{name}.expand.silu")
    y = net.conv(y, hidden, kernel, f"{name}.depthwise", stride=stride, groups=hidden, gain=_SILU_GAIN)
    y = net.silu(y, f"{name}.depthwise.silu")
    y = net.squeeze_excite(y, max(1, inputs // _SQUEEZE), f"{name}.se")
    gain = _GATE_LOSS * (_BRANCH_GAIN if has_shortcut else 1.0)
    y = net.conv(y, outputs, 1, f"{name}.project", gain=gain)
    return net.node("Add", [y, x], f"{name}.add") if has_shortcut else y
