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


def _gate(
    stages: tuple[Stage, ...], shape: ImageShape, channels: int, sigmoid: Function = SIGMOID
) -> tuple[Stage, ...]:
    """The stages and a gate of their result, which has that shape."""
    last = len(stages)  # value of the last stage, the block's input being 0
    return (
        *stages,
        Pool("pool", (last,), "mean", Window(shape.height, shape.width)),
        Conv("squeeze", (last + 1,), 5, Window()),
        Activation("act", (last + 2,), RELU),
        Conv("excite", (last + 3,), channels, Window()),
        Activation("sigmoid", (last + 4,), sigmoid),
        Multiply("gate", (last, last + 5)),
    )


def strided_gate(height: int = 9, width: int = 7, batch: int = 1) -> Block:
    """No expansion and no shortcut: depthwise 5x5 at stride 2 with uneven padding, a gate, projection."""
    window = Window(5, 5, 2, 2, 1, 1, 2, 1, 1, 2)
    stages: tuple[Stage, ...] = (Depthwise("dw", (0,), window), Activation("act1", (1,), SILU))
    image = stages[0].output_shape([ImageShape(height, width, 32)])
    gated = _gate(stages, image, 32, Function("hard_sigmoid"))
    project = Conv("project", (len(gated),), 11, Window())
    return _block("strided_gate", ImageShape(height, width, 32), (*gated, project), batch)


def gated_bottleneck(height: int = 9, width: int = 7, batch: int = 1) -> Block:
    """SE-ResNet at stride 2: the gate stands at the end, and its result is added to a projection of the input."""
    window = Window(3, 3, 2, 2, 1, 1, 1, 1, 1, 1)
    stages: tuple[Stage, ...] = (
        Conv("conv1", (0,), 12, Window()),
        Activation("relu1", (1,), RELU),
        Conv("conv2", (2,), 12, window),
        Activation("relu2", (3,), RELU),
        Conv("conv3", (4,), 20, Window()),
    )
    image = ImageShape(-(-height // 2), -(-width // 2), 20)
    gated = _gate(stages, image, 20)
    end = len(gated)
    shortcut = Conv("shortcut", (0,), 20, Window(1, 1, 2, 2))
    tail = (shortcut, Add("add", (end, end + 1)), Activation("relu3", (end + 2,), RELU))
    return _block("gated_bottleneck", ImageShape(height, width, 12), (*gated, *tail), batch)


def gated_groups(height: int = 8, width: int = 5, batch: int = 1) -> Block:
    """RegNet-Y: the gate follows the grouped convolution."""
    stages: tuple[Stage, ...] = (
        Conv("conv1", (0,), 24, Window()),
        Activation("relu1", (1,), RELU),
        Grouped("conv2", (2,), 24, 3, UNEVEN),
        Activation("relu2", (3,), RELU),
    )
    gated = _gate(stages, ImageShape(height, width, 24), 24)
    end = len(gated)
    tail = (Conv("conv3", (end,), 24, Window()), Add("add", (end + 1, 0)), Activation("relu3", (end + 2,), RELU))
    return _block("gated_groups", ImageShape(height, width, 24), (*gated, *tail), batch)


def gate_around(height: int = 7, width: int = 6, batch: int = 1) -> Block:
    """What is gated is not what is pooled, but what that was made of by windows; a second gate follows."""
    inner = (Conv("conv1", (0,), 16, Window()), Activation("relu", (1,), RELU), Conv("conv2", (2,), 16, UNEVEN))
    stages = _gate(inner, ImageShape(height, width, 16), 16)
    around = (*stages[:-1], Multiply("gate", (2, len(stages) - 1)))
    return _block("gate_around", ImageShape(height, width, 8), _twice(around, ImageShape(height, width, 16)), batch)


def _twice(stages: tuple[Stage, ...], shape: ImageShape) -> tuple[Stage, ...]:
    return (*_gate(stages, shape, 16), Conv("last", (len(stages) + 6,), 7, UNEVEN))
