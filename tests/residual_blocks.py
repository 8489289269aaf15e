"""The residual blocks of ResNet and MobileNetV2, at any size."""

from __future__ import annotations

from blockfuse.block import Block
from blockfuse.stages import Activation, Add, Conv, Depthwise, Function, ImageShape, Pool, Stage, Window

RELU, RELU6 = Function("relu"), Function("clip", 0.0, 6.0)


def same(r: int, stride: int = 1) -> Window:
    """An r x r window that keeps the size at stride 1."""
    pad = r // 2
    return Window(r, r, stride, stride, pad_top=pad, pad_left=pad, pad_bottom=pad, pad_right=pad)


def finished(name: str, shape: ImageShape, stages: list[Stage], batch: int) -> Block:
    """A checked fp16 block with seeded parameters."""
    block = Block((shape,), tuple(stages), batch, "float16", name).with_random_parameters(1)
    block.check()
    return block


def basic(height: int, width: int, channels: int, out: int = 0, stride: int = 1, batch: int = 1) -> Block:
    """Two 3x3 convolutions; the shortcut is a 1x1 projection where shapes differ."""
    out = out or channels
    stages: list[Stage] = [
        Conv("conv1", (0,), out, same(3, stride)),
        Activation("relu1", (1,), RELU),
        Conv("conv2", (2,), out, same(3)),
    ]
    return finished("basic", ImageShape(height, width, channels), _shortcut(stages, channels, out, stride), batch)


def bottleneck(
    height: int, width: int, channels: int, hidden: int, out: int = 0, stride: int = 1, batch: int = 1
) -> Block:
    """1x1, 3x3, 1x1; the shortcut is a 1x1 projection where shapes differ."""
    out = out or channels
    stages: list[Stage] = [
        Conv("reduce", (0,), hidden, Window()),
        Activation("relu1", (1,), RELU),
        Conv("conv3x3", (2,), hidden, same(3, stride)),
        Activation("relu2", (3,), RELU),
        Conv("restore", (4,), out, Window()),
    ]
    return finished("bottleneck", ImageShape(height, width, channels), _shortcut(stages, channels, out, stride), batch)


def mbconv(
    height: int, width: int, channels: int, hidden: int, out: int = 0, r: int = 3, stride: int = 1, batch: int = 1
) -> Block:
    """Expand, depthwise, project; an identity shortcut where shapes allow."""
    out = out or channels
    stages: list[Stage] = [
        Conv("expand", (0,), hidden, Window()),
        Activation("relu6_1", (1,), RELU6),
        Depthwise("depthwise", (2,), same(r, stride)),
        Activation("relu6_2", (3,), RELU6),
        Conv("project", (4,), out, Window()),
    ]
    if stride == 1 and out == channels:
        stages.append(Add("add", (5, 0)))
    return finished("mbconv", ImageShape(height, width, channels), stages, batch)


def single(height: int, width: int, channels: int, stage: Stage, batch: int = 1) -> Block:
    """One stage and a ReLU."""
    return finished(stage.name, ImageShape(height, width, channels), [stage, Activation("relu", (1,), RELU)], batch)


def max_pool(height: int, width: int, channels: int) -> Block:
    """The pool behind ResNet's first convolution."""
    return single(height, width, channels, Pool("max_pool", (0,), "max", same(3, 2)), batch=2)


def global_pool(height: int, width: int, channels: int) -> Block:
    """The mean of each channel."""
    return single(height, width, channels, Pool("mean_pool", (0,), "mean", Window(height, width)), batch=2)


def _shortcut(stages: list[Stage], channels: int, out: int, stride: int) -> list[Stage]:
    main = len(stages)
    if stride == 1 and out == channels:
        added: list[Stage] = [Add("add", (main, 0))]
    else:
        projection = Conv("shortcut", (0,), out, Window(1, 1, stride, stride))
        added = [projection, Add("add", (main, main + 1))]
    return [*stages, *added, Activation("relu", (main + len(added),), RELU)]
