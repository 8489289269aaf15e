"""Layers and blocks of well-known networks, by name, as CPU kernels are measured on them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from blockfuse.block import Block
from blockfuse.stages import (
    Activation,
    Add,
    Conv,
    Depthwise,
    Function,
    Grouped,
    ImageShape,
    Multiply,
    Norm,
    Pool,
    Scale,
    Stage,
    Window,
)

RELU, RELU6, SILU = Function("relu"), Function("clip", 0.0, 6.0), Function("silu")


def same(size: int, stride: int = 1) -> Window:
    """A square window with the padding that keeps the size at stride 1."""
    pad = size // 2
    return Window(size, size, stride, stride, 1, 1, pad, pad, pad, pad)


def conv(height: int, channels: int, out: int, size: int = 1, stride: int = 1, function: Function = RELU) -> Block:
    """A convolution and an activation."""
    stages = (Conv("conv", (0,), out, same(size, stride)), Activation("act", (1,), function))
    return Block((ImageShape(height, height, channels),), stages)


def depthwise(height: int, channels: int, size: int = 3, stride: int = 1) -> Block:
    """A depthwise convolution and an activation."""
    stages = (Depthwise("dw", (0,), same(size, stride)), Activation("act", (1,), RELU6))
    return Block((ImageShape(height, height, channels),), stages)


def pool(height: int, channels: int, reduction: Any, window: Window) -> Block:
    """A pooling."""
    return Block((ImageShape(height, height, channels),), (Pool("pool", (0,), reduction, window),))


def basic(height: int, channels: int, out: int, stride: int = 1) -> Block:
    """ResNet's basic block, with a projection where the shape changes."""
    stages: list[Stage] = [
        Conv("conv1", (0,), out, same(3, stride)),
        Activation("relu1", (1,), RELU),
        Conv("conv2", (2,), out, same(3)),
    ]
    shortcut = 0
    if stride > 1 or out != channels:
        stages.append(Conv("shortcut", (0,), out, Window(stride_h=stride, stride_w=stride)))
        shortcut = len(stages)
    stages.append(Add("add", (3, shortcut)))
    stages.append(Activation("relu2", (len(stages),), RELU))
    return Block((ImageShape(height, height, channels),), tuple(stages))


def mbconv(height: int, channels: int, hidden: int, out: int, stride: int = 1) -> Block:
    """MobileNetV2's inverted residual."""
    stages: list[Stage] = [
        Conv("expand", (0,), hidden, Window()),
        Activation("act1", (1,), RELU6),
        Depthwise("dw", (2,), same(3, stride)),
        Activation("act2", (3,), RELU6),
        Conv("project", (4,), out, Window()),
    ]
    if stride == 1 and channels == out:
        stages.append(Add("add", (5, 0)))
    return Block((ImageShape(height, height, channels),), tuple(stages))


def grouped(height: int, channels: int, width: int, size: int = 3, stride: int = 1) -> Block:
    """A grouped convolution with that many channels in a group, and an activation."""
    conv = Grouped("conv", (0,), channels, channels // width, same(size, stride))
    return Block((ImageShape(height, height, channels),), (conv, Activation("act", (1,), RELU)))


def resnext(height: int, channels: int, hidden: int, width: int) -> Block:
    """ResNeXt's and RegNet's bottleneck with a grouped convolution in the middle."""
    stages = (
        Conv("reduce", (0,), hidden, Window()),
        Activation("relu1", (1,), RELU),
        Grouped("conv", (2,), hidden, hidden // width, same(3)),
        Activation("relu2", (3,), RELU),
        Conv("expand", (4,), channels, Window()),
        Add("add", (5, 0)),
        Activation("relu3", (6,), RELU),
    )
    return Block((ImageShape(height, height, channels),), stages)


def convfirst(height: int, channels: int, width: int, expansion: int) -> Block:
    """Grouped convolution, expansion, SiLU, projection, and the input added."""
    stages = (
        Grouped("conv", (0,), channels, channels // width, same(3)),
        Conv("expand", (1,), expansion * channels, Window()),
        Activation("silu", (2,), SILU),
        Conv("project", (3,), channels, Window()),
        Add("add", (4, 0)),
    )
    return Block((ImageShape(height, height, channels),), stages)


def convnext(height: int, channels: int) -> Block:
    """ConvNeXt's block: depthwise 7x7, norm, expansion by 4, GELU, projection, layer scale, and the input added."""
    stages = (
        Depthwise("dw", (0,), same(7)),
        Norm("norm", (1,), 1e-6),
        Conv("expand", (2,), 4 * channels, Window()),
        Activation("gelu", (3,), Function("gelu")),
        Conv("project", (4,), channels, Window()),
        Scale("scale", (5,)),
        Add("add", (6, 0)),
    )
    return Block((ImageShape(height, height, channels),), stages)


def se_mbconv(height: int, channels: int, hidden: int, size: int, squeezed: int) -> Block:
    """EfficientNet's inverted residual: SiLU, and a squeeze-excite gate before the projection."""
    stages = (
        Conv("expand", (0,), hidden, Window()),
        Activation("act1", (1,), SILU),
        Depthwise("dw", (2,), same(size)),
        Activation("act2", (3,), SILU),
        Pool("pool", (4,), "mean", Window(height, height)),
        Conv("squeeze", (5,), squeezed, Window()),
        Activation("act3", (6,), SILU),
        Conv("excite", (7,), hidden, Window()),
        Activation("sigmoid", (8,), Function("sigmoid")),
        Multiply("gate", (4, 9)),
        Conv("project", (10,), channels, Window()),
        Add("add", (11, 0)),
    )
    return Block((ImageShape(height, height, channels),), stages)


CASES: dict[str, Callable[[], Block]] = {
    "stem 7x7/2 224 3-64": lambda: conv(224, 3, 64, 7, 2),
    "stem 3x3/2 224 3-32": lambda: conv(224, 3, 32, 3, 2, RELU6),
    "maxpool 112 64": lambda: pool(112, 64, "max", same(3, 2)),
    "mean 7 512": lambda: pool(7, 512, "mean", Window(7, 7)),
    "fc 512-1000": lambda: conv(1, 512, 1000),
    "1x1 64 56 64": lambda: conv(56, 64, 64),
    "1x1 24 56 144": lambda: conv(56, 24, 144, function=RELU6),
    "1x1 144 56 24": lambda: conv(56, 144, 24, function=RELU6),
    "1x1 96 14 576": lambda: conv(14, 96, 576, function=RELU6),
    "1x1 160 7 960": lambda: conv(7, 160, 960, function=RELU6),
    "1x1 960 7 160": lambda: conv(7, 960, 160, function=RELU6),
    "1x1 320 7 1280": lambda: conv(7, 320, 1280, function=RELU6),
    "1x1/2 64 56 128": lambda: conv(56, 64, 128, 1, 2),
    "3x3 64 56 64": lambda: conv(56, 64, 64, 3),
    "3x3 128 28 128": lambda: conv(28, 128, 128, 3),
    "3x3 256 14 256": lambda: conv(14, 256, 256, 3),
    "3x3 512 7 512": lambda: conv(7, 512, 512, 3),
    "3x3/2 64 56 128": lambda: conv(56, 64, 128, 3, 2),
    "3x3/2 256 14 512": lambda: conv(14, 256, 512, 3, 2),
    "dw 32 112": lambda: depthwise(112, 32),
    "dw 144 56": lambda: depthwise(56, 144),
    "dw/2 144 56": lambda: depthwise(56, 144, 3, 2),
    "dw 192 28": lambda: depthwise(28, 192),
    "dw 576 14": lambda: depthwise(14, 576),
    "dw 960 7": lambda: depthwise(7, 960),
    "dw5 672 14": lambda: depthwise(14, 672, 5),
    "basic 56 64": lambda: basic(56, 64, 64),
    "basic/2 56 64-128": lambda: basic(56, 64, 128, 2),
    "basic 28 128": lambda: basic(28, 128, 128),
    "basic 14 256": lambda: basic(14, 256, 256),
    "basic 7 512": lambda: basic(7, 512, 512),
    "mbconv/2 112 16-96-24": lambda: mbconv(112, 16, 96, 24, 2),
    "mbconv 56 24-144-24": lambda: mbconv(56, 24, 144, 24),
    "mbconv 28 32-192-32": lambda: mbconv(28, 32, 192, 32),
    "mbconv 14 96-576-96": lambda: mbconv(14, 96, 576, 96),
    "mbconv 7 160-960-160": lambda: mbconv(7, 160, 960, 160),
    "group8 64 56": lambda: grouped(56, 64, 8),
    "group16 256 28": lambda: grouped(28, 256, 16),
    "group32 512 14": lambda: grouped(14, 512, 32),
    "group24 240 14": lambda: grouped(14, 240, 24),
    "group4 128 56": lambda: grouped(56, 128, 4),
    "resnext 28 512-256": lambda: resnext(28, 512, 256, 8),
    "convfirst 56 64": lambda: convfirst(56, 64, 8, 6),
    "convfirst 14 256": lambda: convfirst(14, 256, 8, 4),
    "convnext 56 96": lambda: convnext(56, 96),
    "convnext 28 192": lambda: convnext(28, 192),
    "convnext 14 384": lambda: convnext(14, 384),
    "se 28 40-240-40": lambda: se_mbconv(28, 40, 240, 5, 10),
    "se 14 80-480-80": lambda: se_mbconv(14, 80, 480, 3, 20),
    "se 14 112-672-112": lambda: se_mbconv(14, 112, 672, 5, 28),
    "se 7 192-1152-192": lambda: se_mbconv(7, 192, 1152, 5, 48),
}
