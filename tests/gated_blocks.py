"""Blocks with norms, gates and groups at small, odd sizes: ConvNeXt, squeeze-excite, pre-activation, ResNeXt."""

from __future__ import annotations

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

RELU, SILU, SIGMOID, GELU = (Function(kind) for kind in ("relu", "silu", "sigmoid", "gelu"))
UNEVEN = Window(3, 3, 1, 1, 1, 1, 2, 1, 0, 1)
"""Keeps the size, with padding at the top and none at the bottom."""


def _block(name: str, shape: ImageShape, stages: tuple[Stage, ...], batch: int) -> Block:
    block = Block((shape,), stages, batch, name=name).with_random_parameters(len(stages))
    block.check()
    return block


def convnext(height: int = 7, width: int = 9, channels: int = 20, batch: int = 1) -> Block:
    """Depthwise 7x7, norm, expansion, GELU, projection, layer scale, and the input added."""
    stages = (
        Depthwise("dw", (0,), Window(7, 7, 1, 1, 1, 1, 3, 3, 3, 3)),
        Norm("norm", (1,), 1e-6),
        Conv("expand", (2,), 4 * channels, Window()),
        Activation("gelu", (3,), GELU),
        Conv("project", (4,), channels, Window()),
        Scale("scale", (5,)),
        Add("add", (6, 0)),
    )
    return _block("convnext", ImageShape(height, width, channels), stages, batch)


def squeeze_excite(height: int = 7, width: int = 5, channels: int = 12, hidden: int = 40, batch: int = 1) -> Block:
    """Expansion, depthwise, a gate from the mean of the whole image, projection, and the input added."""
    stages = (
        Conv("expand", (0,), hidden, Window()),
        Activation("act1", (1,), SILU),
        Depthwise("dw", (2,), UNEVEN),
        Activation("act2", (3,), SILU),
        Pool("pool", (4,), "mean", Window(height, width)),
        Conv("squeeze", (5,), 3, Window()),
        Activation("act3", (6,), SILU),
        Conv("excite", (7,), hidden, Window()),
        Activation("sigmoid", (8,), SIGMOID),
        Multiply("gate", (4, 9)),
        Conv("project", (10,), channels, Window()),
        Add("add", (11, 0)),
    )
    return _block("squeeze_excite", ImageShape(height, width, channels), stages, batch)


def pre_activation(height: int = 8, width: int = 5, channels: int = 12, batch: int = 1) -> Block:
    """Batch norm and ReLU before the convolutions; the shortcut reads the input as it is."""
    stages = (
        Scale("bn1", (0,)),
        Activation("relu1", (1,), RELU),
        Conv("conv1", (2,), channels, UNEVEN),
        Activation("relu2", (3,), RELU),
        Conv("conv2", (4,), channels, UNEVEN),
        Add("add", (5, 0)),
    )
    return _block("pre_activation", ImageShape(height, width, channels), stages, batch)


def two_groupings(height: int = 9, width: int = 8, batch: int = 1) -> Block:
    """Narrow groups at stride 2, then groups with more outputs than inputs."""
    stages = (
        Grouped("narrow", (0,), 24, 6, Window(3, 3, 2, 2, 1, 1, 1, 1, 1, 1)),
        Activation("relu", (1,), RELU),
        Grouped("wide", (2,), 60, 2, UNEVEN),
    )
    return _block("two_groupings", ImageShape(height, width, 24), stages, batch)
