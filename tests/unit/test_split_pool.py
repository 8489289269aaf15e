"""Pools over whole images in two steps."""

from dataclasses import replace

import numpy as np
import pytest

from blockfuse.block import Block, reference
from blockfuse.plan.decide import Kernel, best, decide
from blockfuse.plan.device import GPUS
from blockfuse.plan.split_pool import split_pool
from blockfuse.stages import Activation, Function, ImageShape, Multiply, Pool, Window


def pool(height, width, reduction="mean", channels=8, window=None):
    stages = (
        Pool("pool", (0,), reduction, window or Window(height, width)),
        Activation("act", (1,), Function("relu")),
    )
    return Block((ImageShape(height, width, channels),), stages, 2, "float16", tensors=("x", "y"))


@pytest.mark.parametrize("reduction", ["mean", "max"])
@pytest.mark.parametrize(("height", "width"), [(4, 4), (12, 7), (112, 112), (1, 6), (13, 9)])
def test_both_steps_give_what_one_does(height, width, reduction):
    block = pool(height, width, reduction)
    x = np.random.default_rng(0).standard_normal((2, height, width, 8))
    halves = list(split_pool(block))
    assert halves
    for first, second in halves[:4]:
        middle = reference(first, [x])[-1]
        assert 1 < middle.shape[1] * middle.shape[2] < height * width
        np.testing.assert_allclose(reference(second, [middle])[-1], reference(block, [x])[-1], atol=1e-12)
        assert (first.tensors[0], second.tensors[-1]) == ("x", "y")
        assert first.tensors[1] == second.tensors[0]


def test_the_most_even_parts_come_first():
    first, second = next(split_pool(pool(49, 49)))
    assert first.output == ImageShape(7, 7, 8)
    assert second.stages[0].window == Window(7, 7)


def test_other_pools_stay():
    assert not list(split_pool(pool(1, 7)))
    assert not list(split_pool(pool(1, 1)))
    gated = pool(8, 8)
    assert not list(split_pool(replace(gated, stages=(*gated.stages, Multiply("gate", (0, 2))))))
    assert not list(split_pool(pool(8, 8, window=Window(4, 4, 4, 4))))
    assert not list(split_pool(pool(8, 8, window=Window(8, 8, pad_top=1))))


@pytest.mark.parametrize("fuse", ["auto", "always", "never"])
def test_a_pool_of_more_than_a_core_holds_becomes_two_kernels(fuse):
    block, device = pool(112, 112, channels=96), GPUS["sm_90"]
    assert not isinstance(best(block, device), Kernel)
    assert len(decide(block, device, fuse).kernels) == 2
    small = replace(block, inputs=(ImageShape(7, 7, 96),), stages=(replace(block.stages[0], window=Window(7, 7)),))
    assert len(decide(small, device, fuse).kernels) == 1
