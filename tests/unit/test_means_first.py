"""Gates made of the means of what a convolution reads, in place of those of what it makes."""

from dataclasses import replace

import numpy as np
import pytest

from blockfuse.block import Block, reference
from blockfuse.plan.decide import decide
from blockfuse.plan.device import GPUS, cpu_device
from blockfuse.plan.fold import fold
from blockfuse.plan.means_first import means_first
from blockfuse.stages import Activation, Add, Conv, Depthwise, ImageShape, Multiply, Pool, Stage, Window
from blockfuse.target import parse_target
from tests.gated_blocks import gated_bottleneck, squeeze_excite
from tests.residual_blocks import RELU, SIGMOID, same

GPU = GPUS["sm_90"]
SHAPE = ImageShape(9, 7, 12)


def late_gate(shape: ImageShape, wide: int, few: int, *, kernel: int = 1, reduction: str = "mean") -> list[Stage]:
    """A convolution, scaled by a gate of its own means, and added to the second input of the block."""
    return [
        Conv("expand", (0,), wide, same(kernel)),
        Pool("pool", (2,), reduction, Window(shape.height, shape.width)),
        Conv("squeeze", (3,), few, Window()),
        Activation("relu", (4,), RELU),
        Conv("excite", (5,), wide, Window()),
        Activation("sigmoid", (6,), SIGMOID),
        Multiply("gated", (2, 7)),
        Add("add", (8, 1)),
    ]


def block_of(stages: list[Stage], shape: ImageShape = SHAPE, wide: int = 20, batch: int = 2) -> Block:
    block = Block((shape, replace(shape, channels=wide)), tuple(stages), batch, "float16", "late")
    block.check()
    return block.with_random_parameters(1)


def images(block: Block) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal((block.batch, s.height, s.width, s.channels)) for s in block.inputs]


def same_result(block: Block, other: Block) -> None:
    inputs = images(block)
    wanted = reference(block, inputs)[-1]
    np.testing.assert_allclose(reference(other, inputs)[-1], wanted, rtol=0, atol=1e-6 * np.abs(wanted).max())


@pytest.mark.parametrize("seed", range(8))
def test_the_result_is_the_same_and_fewer_channels_are_pooled(seed):
    rng = np.random.default_rng(seed)
    height, width, channels, few = (int(rng.integers(1, 20)) for _ in range(4))
    wide = channels + int(rng.integers(0, 20))
    shape = ImageShape(height, width, channels)
    block = block_of(late_gate(shape, wide, few), shape, wide, int(rng.integers(1, 4)))
    other = means_first(block)
    assert other is not None
    other.check()
    same_result(block, other)
    assert [stage.name for stage in other.stages].index("excite") < [stage.name for stage in other.stages].index(
        "expand"
    )
    pool = next(stage for stage in other.stages if isinstance(stage, Pool))
    assert other.shapes[pool.inputs[0]].channels == channels
    assert [unit.name for unit in fold(other).units] == ["pool", "squeeze", "excite", "expand"]


def test_what_lies_between_stays_where_it_is():
    block = gated_bottleneck(31, 27, 2)
    other = means_first(block)
    assert other is not None
    same_result(block, other)
    assert sorted(stage.name for stage in other.stages) == sorted(stage.name for stage in block.stages)


def test_shapes_are_enough():
    block = replace(block_of(late_gate(SHAPE, 20, 5)), parameters={})
    other = means_first(block)
    assert other is not None
    assert not other.parameters
    assert other == replace(means_first(block_of(late_gate(SHAPE, 20, 5))), parameters={})


ACTIVATED = [
    Conv("expand", (0,), 20, Window()),
    Activation("active", (2,), RELU),
    *(replace(stage, inputs=tuple(i + (i > 1) for i in stage.inputs)) for stage in late_gate(SHAPE, 20, 5)[1:]),
]
READ_TWICE = [*late_gate(SHAPE, 20, 5)[:-1], Multiply("again", (8, 3)), Add("add", (9, 1))]
NOT_SCALED = [*late_gate(SHAPE, 20, 5)[:6], Multiply("scaled", (1, 7))]


@pytest.mark.parametrize(
    "stages",
    [
        late_gate(SHAPE, 20, 5, kernel=3),
        late_gate(SHAPE, 20, 5, reduction="max"),
        late_gate(SHAPE, 20, 5, reduction="l2"),
        [replace(stage, count=10) if isinstance(stage, Pool) else stage for stage in late_gate(SHAPE, 20, 5)],
        [Depthwise("expand", (0,), Window()), *late_gate(SHAPE, 12, 5)[1:]],
        ACTIVATED,
        READ_TWICE,
        NOT_SCALED,
    ],
    ids=["3x3", "maxima", "lengths", "sums", "depthwise", "activation", "means read twice", "not what is scaled"],
)
def test_other_gates_stay(stages):
    wide = 12 if isinstance(stages[0], Depthwise) else 20
    assert means_first(block_of(stages, wide=wide)) is None


def test_a_convolution_to_fewer_channels_stays_behind_nothing():
    """More channels would be pooled."""
    assert means_first(block_of(late_gate(SHAPE, 8, 5), wide=8)) is None
    assert means_first(block_of(late_gate(SHAPE, 12, 5), wide=12)) is not None
    assert means_first(squeeze_excite()) is None


def test_a_gpu_makes_the_gate_in_the_kernel_of_what_it_scales():
    """A late block of SE-ResNet-50 is three kernels, of which the second pools what the third begins with."""
    block = se_bottleneck(7, 2048, 512, 128, 32)
    kernels = decide(block, GPU).kernels
    assert [bool(kernel.block.pooled) for kernel in kernels] == [False, True, False]
    assert [stage.name for stage in kernels[-1].block.stages] == [
        *("pool", "squeeze", "relu", "excite", "sigmoid", "expand", "gated", "add", "relu3"),
    ]
    assert kernels[-1].block.partial == (0,)


def test_a_cpu_keeps_the_order_of_the_network():
    block = replace(se_bottleneck(14, 64, 16, 8, 1), dtype="float32")
    kernels = decide(block, cpu_device(parse_target("cpu:avx512", 2)), "always").kernels
    names = [stage.name for kernel in kernels for stage in kernel.block.stages]
    assert names.index("expand") < names.index("squeeze")


def se_bottleneck(size: int, channels: int, hidden: int, few: int, batch: int) -> Block:
    image = ImageShape(size, size, hidden)
    front = [
        Conv("reduce", (0,), hidden, Window()),
        Activation("relu1", (1,), RELU),
        Conv("conv", (2,), hidden, same(3)),
        Activation("relu2", (3,), RELU),
    ]
    gate = late_gate(image, channels, few)
    behind = [replace(stage, inputs=tuple({0: 4, 1: 0}.get(i, i + 3) for i in stage.inputs)) for stage in gate]
    stages = (*front, *behind, Activation("relu3", (12,), RELU))
    block = Block((replace(image, channels=channels),), stages, batch, "float16", "late")
    block.check()
    return block
