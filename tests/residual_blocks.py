"""The blocks of well-known networks, at any size."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from blockfuse.block import Block
from blockfuse.plan.split_pool import completing, whole_pool
from blockfuse.stages import (
    Activation,
    Add,
    Border,
    Conv,
    Depthwise,
    Frame,
    Function,
    Grouped,
    ImageShape,
    Multiply,
    Norm,
    Pool,
    Scale,
    Slope,
    Stage,
    Window,
)

RELU, RELU6 = Function("relu"), Function("clip", 0.0, 6.0)
SILU, GELU, SIGMOID = Function("silu"), Function("gelu"), Function("sigmoid")


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


def fused_mbconv(
    height: int, width: int, channels: int, hidden: int, out: int = 0, stride: int = 1, batch: int = 1
) -> Block:
    """A dense 3x3 that expands, and a projection, as in EfficientNetV2."""
    out = out or channels
    stages: list[Stage] = [
        Conv("expand3x3", (0,), hidden, same(3, stride)),
        Activation("silu", (1,), SILU),
        Conv("project", (2,), out, Window()),
    ]
    if stride == 1 and out == channels:
        stages.append(Add("add", (3, 0)))
    return finished("fused_mbconv", ImageShape(height, width, channels), stages, batch)


def resnext(height: int, width: int, channels: int, hidden: int, group: int, stride: int = 1, batch: int = 1) -> Block:
    """A bottleneck whose 3x3 works on groups of ``group`` channels."""
    stages: list[Stage] = [
        Conv("reduce", (0,), hidden, Window()),
        Activation("relu1", (1,), RELU),
        Grouped("grouped", (2,), hidden, hidden // group, same(3, stride)),
        Activation("relu2", (3,), RELU),
        Conv("restore", (4,), channels, Window()),
    ]
    return finished(
        "resnext", ImageShape(height, width, channels), _shortcut(stages, channels, channels, stride), batch
    )


def convnext(height: int, width: int, channels: int, expansion: int = 4, batch: int = 1) -> Block:
    """Depthwise 7x7, layer norm, two pointwise convolutions with GELU between, layer scale."""
    stages: list[Stage] = [
        Depthwise("depthwise", (0,), same(7)),
        Norm("norm", (1,), 1e-6),
        Conv("expand", (2,), expansion * channels, Window()),
        Activation("gelu", (3,), GELU),
        Conv("project", (4,), channels, Window()),
        Scale("layer_scale", (5,)),
        Add("add", (6, 0)),
    ]
    return finished("convnext", ImageShape(height, width, channels), stages, batch)


def convfirst(height: int, width: int, channels: int, group: int = 8, expansion: int = 6, batch: int = 1) -> Block:
    """A grouped 3x3 and two pointwise convolutions with SiLU between them."""
    stages: list[Stage] = [
        Grouped("grouped", (0,), channels, channels // group, same(3)),
        Conv("expand", (1,), expansion * channels, Window()),
        Activation("silu", (2,), SILU),
        Conv("project", (3,), channels, Window()),
        Add("add", (4, 0)),
    ]
    return finished("convfirst", ImageShape(height, width, channels), stages, batch)


def gated_project(height: int, width: int, channels: int, out: int, batch: int = 1) -> Block:
    """The second part of an MBConv with squeeze-excite: hidden image, its gate, and what is added."""
    shapes = (ImageShape(height, width, channels), ImageShape(1, 1, channels), ImageShape(height, width, out))
    stages: tuple[Stage, ...] = (
        Multiply("gate", (0, 1)),
        Conv("project", (3,), out, Window()),
        Add("add", (4, 2)),
    )
    block = Block(shapes, stages, batch, "float16", "gated_project").with_random_parameters(1)
    block.check()
    return block


def squeeze_excite(height: int, width: int, channels: int, hidden: int, batch: int = 1) -> Block:
    """Pool, two pointwise convolutions, and the product: what needs whole images on the chip."""
    stages: list[Stage] = [
        Pool("squeeze", (0,), "mean", Window(height, width)),
        Conv("reduce", (1,), hidden, Window()),
        Activation("silu", (2,), SILU),
        Conv("excite", (3,), channels, Window()),
        Activation("sigmoid", (4,), SIGMOID),
        Multiply("scale", (0, 5)),
    ]
    return finished("squeeze_excite", ImageShape(height, width, channels), stages, batch)


def response(height: int, width: int, channels: int, hidden: int, batch: int = 1) -> Block:
    """The second half of a ConvNeXt V2 block: many channels, weighed by their lengths, and few again."""
    stages: list[Stage] = [
        Conv("expand", (0,), hidden, Window()),
        Activation("gelu", (1,), GELU),
        Pool("lengths", (2,), "l2", Window(height, width)),
        Norm("response", (3,), 1e-6, "mean"),
        Multiply("weigh", (2, 4)),
        Conv("project", (5,), channels, Window()),
        Add("add", (6, 0)),
    ]
    return finished("response", ImageShape(height, width, channels), stages, batch)


def anti_aliased(height: int, width: int, channels: int, rule: Literal["reflect", "edge"], batch: int = 1) -> Block:
    """A basic block with slopes whose image and shortcut are blurred in frames of uneven widths."""
    blur = Window(3, 3, 2, 2)
    stages: list[Stage] = [
        Conv("conv1", (0,), channels, same(3)),
        Slope("slope", (1,)),
        Border("border", (2,), Frame(rule, 1, 2, 1, 0)),
        Depthwise("blur", (3,), blur),
        Conv("conv2", (4,), channels + 3, same(3)),
        Border("border_x", (0,), Frame(rule, 1, 2, 1, 0)),
        Depthwise("blur_x", (6,), blur),
        Conv("shortcut", (7,), channels + 3, Window()),
        Add("add", (5, 8)),
    ]
    return finished(f"anti_aliased_{rule}", ImageShape(height, width, channels), stages, batch)


def hidden_image(height: int, width: int, channels: int, hidden: int, batch: int = 1) -> Block:
    """The first part of an MBConv with squeeze-excite: expand and depthwise 5x5."""
    stages = mbconv(height, width, channels, hidden, r=5, batch=batch).stages[:4]
    return finished("hidden_image", ImageShape(height, width, channels), list(stages), batch)


def gate_of(height: int, width: int, channels: int, hidden: int, batch: int = 1) -> Block:
    """The gate alone, from the mean of the whole image."""
    stages = squeeze_excite(height, width, channels, hidden, batch).stages[:5]
    return finished("gate", ImageShape(height, width, channels), list(stages), batch)


def squeezed_project(height: int, width: int, channels: int, hidden: int, out: int, batch: int = 1) -> Block:
    """Squeeze-excite and the projection behind it, as the second of two kernels."""
    stages = [*squeeze_excite(height, width, channels, hidden, batch).stages, Conv("project", (6,), out, Window())]
    return finished("squeezed_project", ImageShape(height, width, channels), stages, batch)


def on_sums(block: Block, tile: tuple[int, int]) -> Block:
    """A block that begins with the pool of a whole input, where another kernel has pooled tiles of that."""
    pool = whole_pool(block)
    assert pool is not None
    image = block.inputs[pool.inputs[0]]
    parts = ImageShape(-(-image.height // tile[0]), -(-image.width // tile[1]), image.channels)
    return completing(block, pool, parts, "parts", partial=True)


def pooled_sum(height: int, width: int, channels: int, batch: int = 1) -> Block:
    """A convolution whose input is added, so that what is pooled is complete only then; the lengths of its channels."""
    stages: list[Stage] = [Conv("conv", (0,), channels, same(3)), Add("add", (1, 0)), Activation("relu", (2,), RELU)]
    return replace(finished("pooled_sum", ImageShape(height, width, channels), stages, batch), pooled="l2")


def custom(height: int, width: int, channels: int, hidden: int, batch: int = 1) -> Block:
    """3x3, pointwise, depthwise 5x5, and the input added: a block that no network has."""
    stages: list[Stage] = [
        Conv("conv3x3", (0,), hidden, same(3)),
        Activation("relu1", (1,), RELU),
        Conv("pointwise", (2,), channels, Window()),
        Activation("relu2", (3,), RELU),
        Depthwise("depthwise", (4,), same(5)),
        Add("add", (5, 0)),
    ]
    return finished("custom", ImageShape(height, width, channels), stages, batch)


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
