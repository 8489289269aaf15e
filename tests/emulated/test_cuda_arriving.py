"""Layers that keep channels apart: their inputs arrive in chunks of channels, which several CTAs may share."""

from dataclasses import replace

import numpy as np
import pytest

from blockfuse.block import Block
from blockfuse.plan.choose_cuda import plan_cuda
from blockfuse.plan.cuda import CudaPlan
from blockfuse.plan.device import GPUS
from blockfuse.plan.fold import fold
from blockfuse.program.interpret import interpret
from blockfuse.stages import Activation, Add, Depthwise, Grouped, ImageShape, Multiply, Pool, Scale, Stage, Window
from tests.cuda_kernels import build, built_in_slots, error, grid, inputs_of, run
from tests.residual_blocks import RELU, finished, same

SMALL = replace(GPUS["sm_90"], local_bytes=24 * 1024)


def layer(height: int, width: int, channels: int, *stages: Stage, batch: int = 2) -> Block:
    return finished("layer", ImageShape(height, width, channels), list(stages), batch)


STRIDED = Window(3, 3, 2, 2, 1, 1, 1, 1, 0, 1)
BLOCKS = {
    "global pool": (layer(7, 7, 160, Pool("pool", (0,), "mean", Window(7, 7)), Activation("relu", (1,), RELU)), None),
    "mean pool": (layer(9, 8, 72, Pool("pool", (0,), "mean", STRIDED)), 2),
    "max pool": (layer(11, 12, 64, Pool("pool", (0,), "max", same(9))), None),
    "depthwise": (layer(11, 10, 96, Depthwise("depthwise", (0,), same(5)), Add("add", (1, 0))), 3),
    "strided": (layer(11, 10, 100, Depthwise("depthwise", (0,), STRIDED), Activation("relu", (1,), RELU)), 2),
    "behind a map": (layer(11, 10, 64, Activation("relu", (0,), RELU), Depthwise("depthwise", (1,), same(5))), None),
    "in front of a pool": (layer(11, 10, 64, Depthwise("dw", (0,), same(3)), Pool("pool", (1,), "max", STRIDED)), 2),
    "grouped": (layer(9, 9, 128, Grouped("grouped", (0,), 128, 16, same(3))), None),
    "map": (layer(9, 9, 128, Scale("scale", (0,)), Multiply("square", (1, 0))), 2),
}


@pytest.mark.parametrize(("name", "dtype"), [*zip(BLOCKS, ["float16", "float32", "bfloat16"] * 3, strict=True)])
def test_inputs_that_arrive_in_chunks(name, dtype):
    block, split = BLOCKS[name]
    built = build(replace(block, dtype=dtype), device=SMALL, split=split)
    assert not built.plan.homes[0].whole
    assert run(built).is_clean
    inputs = inputs_of(built.block)
    assert error(built.block, inputs, interpret(built.program, inputs, built.block.parameters)) <= 1


@pytest.mark.parametrize("name", ["global pool", "depthwise"])
def test_inputs_that_arrive_from_among_the_channels_of_wider_images(name):
    built = build(BLOCKS[name][0], device=SMALL, split=2)
    assert run(built_in_slots(built, np.random.default_rng(7), 8)).is_clean


def test_a_late_pool_is_shared_by_as_many_ctas_as_there_are_sms():
    block = layer(7, 7, 1280, Pool("pool", (0,), "mean", Window(7, 7)), batch=32)
    built = build(block)
    assert grid(built.program) >= GPUS["sm_90"].cores


LAYERS = [
    ("sm_80", layer(56, 56, 128, Depthwise("depthwise", (0,), same(31)))),
    ("sm_86", layer(128, 128, 256, Pool("pool", (0,), "mean", Window(32, 32, 32, 32)))),
    ("sm_86", layer(20, 20, 512, Pool("pool", (0,), "max", same(13)))),
    ("sm_90", layer(37, 37, 2048, Pool("pool", (0,), "mean", Window(37, 37)))),
]


@pytest.mark.parametrize(("arch", "block"), LAYERS, ids=[f"{block.stages[0]} {arch}" for arch, block in LAYERS])
def test_large_windows_have_a_plan_with_tiles(arch, block):
    plan = plan_cuda(fold(block), GPUS[arch])
    assert isinstance(plan, CudaPlan)
    assert not plan.direct
