"""Pools over whole images in two steps."""

from dataclasses import replace

import numpy as np
import pytest

from blockfuse.block import Block, reference
from blockfuse.plan.cuda import CudaPlan
from blockfuse.plan.decide import Kernel, best, decide
from blockfuse.plan.device import GPUS
from blockfuse.plan.infeasible import Infeasible
from blockfuse.plan.split_pool import split_pool
from blockfuse.stages import Activation, Add, Function, ImageShape, Multiply, Pool, Window


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
    assert not list(split_pool(pool(8, 8, window=Window(4, 4, 4, 4))))
    assert not list(split_pool(pool(8, 8, window=Window(8, 8, pad_top=1))))


def test_an_image_that_is_read_again_is_an_input_of_the_second_step():
    block = pool(8, 6)
    stages = (*block.stages, Multiply("gate", (0, 2)), Add("add", (3, 1)))
    shifted = [replace(stage, inputs=tuple(v + (v > 0) for v in stage.inputs)) for stage in stages]
    shifted[-1] = replace(shifted[-1], inputs=(shifted[-1].inputs[0], 1))
    block = replace(block, inputs=block.inputs * 2, stages=tuple(shifted), tensors=("x", "z", "y"))
    x, z = np.random.default_rng(0).standard_normal((2, 2, 8, 6, 8))
    first, second = next(split_pool(block))
    assert (first.tensors[0], second.tensors[1:]) == ("x", ("x", "z", "y"))
    middle = reference(first, [x])[-1]
    np.testing.assert_allclose(reference(second, [middle, x, z])[-1], reference(block, [x, z])[-1], atol=1e-12)


@pytest.mark.parametrize("fuse", ["auto", "always", "never"])
def test_a_pool_of_more_than_a_core_holds_becomes_two_kernels(fuse):
    block, device = pool(112, 112, channels=96), GPUS["sm_90"]
    assert is_direct(best(block, device))
    assert len(decide(block, device, fuse).kernels) == 2
    small = replace(block, inputs=(ImageShape(7, 7, 96),), stages=(replace(block.stages[0], window=Window(7, 7)),))
    assert len(decide(small, device, fuse).kernels) == 1


def test_a_pool_that_cannot_be_divided_goes_from_memory_to_memory():
    (kernel,) = decide(pool(4099, 4099, channels=96), GPUS["sm_90"]).kernels
    assert is_direct(kernel)


def is_direct(kernel: Kernel | Infeasible) -> bool:
    return isinstance(kernel, Kernel) and isinstance(kernel.plan, CudaPlan) and kernel.plan.direct
