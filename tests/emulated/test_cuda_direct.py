"""Layers that go from memory to memory because shared memory cannot hold what they need: right, at awkward sizes."""

from dataclasses import replace

import numpy as np
import pytest

from blockfuse.block import Block
from blockfuse.plan.choose_cuda import plan_cuda
from blockfuse.plan.cuda import CudaPlan
from blockfuse.plan.cuda_direct import direct
from blockfuse.plan.device import GPUS
from blockfuse.plan.fold import fold
from blockfuse.program.interpret import interpret
from blockfuse.stages import Activation, Add, Conv, Depthwise, Grouped, ImageShape, Pool, Slope, Stage, Window
from tests.cuda_kernels import built_as, built_in_slots, error, inputs_of, rounded_weights, run
from tests.residual_blocks import RELU, finished, same

ASYMMETRIC = Window(3, 3, 2, 1, 2, 3, 2, 1, 3, 2)


def layer(height: int, width: int, channels: int, *stages: Stage) -> Block:
    return finished("layer", ImageShape(height, width, channels), list(stages), 2)


LAYERS = {
    "dense": layer(7, 9, 12, Conv("conv", (0,), 20, ASYMMETRIC), Activation("relu", (1,), RELU)),
    "odd": layer(5, 6, 3, Conv("conv", (0,), 7, same(3))),
    "grouped": layer(6, 5, 24, Grouped("grouped", (0,), 36, 3, same(3)), Activation("relu", (1,), RELU)),
    "depthwise": layer(9, 11, 20, Depthwise("depthwise", (0,), same(31)), Add("add", (1, 0))),
    "mean": layer(13, 11, 18, Pool("pool", (0,), "mean", Window(5, 5, 5, 3, 1, 1, 2, 1, 1, 2))),
    "l2": layer(9, 11, 14, Pool("pool", (0,), "l2", Window(9, 11)), Slope("slope", (1,))),
    "max": layer(13, 11, 200, Pool("pool", (0,), "max", same(13))),
}


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("block", LAYERS.values(), ids=LAYERS)
def test_layers_from_memory_to_memory_are_right(block, dtype):
    block = rounded_weights(replace(block, dtype=dtype))
    built = built_as(block, direct(fold(block)))
    assert run(built).is_clean
    inputs = inputs_of(block)
    assert error(block, inputs, interpret(built.program, inputs, block.parameters)) <= 1


def test_layers_among_the_channels_of_wider_images_are_right():
    built = built_as(LAYERS["depthwise"], direct(fold(LAYERS["depthwise"])))
    assert run(built_in_slots(built, np.random.default_rng(3), 4)).is_clean


def test_a_window_larger_than_shared_memory_has_a_plan():
    plan = plan_cuda(fold(layer(56, 56, 32, Depthwise("depthwise", (0,), same(51)))), GPUS["sm_86"])
    assert isinstance(plan, CudaPlan)
    assert plan.direct


def test_a_block_of_several_units_is_cut_instead():
    stages = (
        Depthwise("depthwise", (0,), same(51)),
        Activation("relu", (1,), RELU),
        Pool("pool", (2,), "max", same(3)),
    )
    assert not isinstance(plan_cuda(fold(layer(56, 56, 32, *stages)), GPUS["sm_86"]), CudaPlan)
