"""Kernels that make a gate of the sums of another kernel's tiles, and scale by it what they sum themselves."""

import numpy as np
import pytest

from blockfuse.block import Block
from blockfuse.machine import Engine
from blockfuse.plan.means_first import means_first
from blockfuse.stages import Activation, Add, Conv, ImageShape, Multiply, Pool, Stage, Window
from tests.cuda_kernels import build, run
from tests.residual_blocks import RELU, SIGMOID, on_sums

SEEDS = range(8)


def scaled_sums(rng: np.random.Generator) -> tuple[Block, dict[str, object]]:
    """A 1x1 convolution scaled by a gate of the means of its input, a shortcut, and a plan."""
    height, width, channels, few = (int(rng.integers(low, high)) for low, high in ((1, 12), (1, 14), (3, 70), (1, 9)))
    wide, stride = channels + int(rng.integers(0, 60)), int(rng.integers(1, 3))
    shortcut = ImageShape(height * stride - (stride > 1), width * stride, int(rng.integers(3, 40)))
    stages: list[Stage] = [
        Conv("expand", (0,), wide, Window()),
        Pool("pool", (2,), "mean", Window(height, width)),
        Conv("squeeze", (3,), few, Window()),
        Activation("relu", (4,), RELU),
        Conv("excite", (5,), wide, Window()),
        Activation("sigmoid", (6,), SIGMOID),
        Multiply("gated", (2, 7)),
        Conv("shortcut", (1,), wide, Window(1, 1, stride, stride)),
        Add("add", (8, 9)),
        Activation("relu2", (10,), RELU),
    ]
    if rng.random() < 0.5:
        shortcut = ImageShape(height, width, wide)
        stages[7:] = [Add("add", (8, 1)), Activation("relu2", (9,), RELU)]
    batch, dtype = int(rng.choice([1, 3, 4])), str(rng.choice(["float16", "bfloat16"]))
    block = Block((ImageShape(height, width, channels), shortcut), tuple(stages), batch, dtype, "scaled_sums")
    block.check()
    ways: list[dict[str, object]] = [{"tile": (4, 7), "warps": 4}, {"tile": (7, 5), "warps": 8, "split": 2}, {}]
    return block.with_random_parameters(2), ways[int(rng.integers(len(ways)))]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_gate_is_made_in_the_kernel_that_sums_what_it_scales(seed):
    rng, engine = np.random.default_rng(seed), list(Engine)[seed % 2]
    block, way = scaled_sums(rng)
    before = means_first(block)
    assert before is not None
    assert isinstance(before.stages[0], Pool)
    assert run(build(on_sums(before, (4, 4)), engine=engine, **way)).is_clean
