"""Wide groups, and groups of other widths in and out: dense sums of a share of the groups each."""

from dataclasses import replace

import numpy as np
import pytest

from blockfuse.block import Block
from blockfuse.machine import Engine, Gemm
from blockfuse.plan.choose_cuda import plan_cuda
from blockfuse.plan.cuda import CudaPlan
from blockfuse.plan.device import GPUS
from blockfuse.plan.fold import fold
from blockfuse.program.interpret import interpret
from blockfuse.stages import Activation, Depthwise, Grouped, ImageShape, Multiply, Pool, Window
from tests.cuda_kernels import build, built_in_slots, error, inputs_of, run
from tests.residual_blocks import RELU, finished, resnext, same, single


def grouped(height: int, width: int, channels: int, out: int, groups: int, window: Window, batch: int = 2) -> Block:
    stages = [Grouped("grouped", (0,), out, groups, window), Activation("relu", (1,), RELU)]
    return finished("grouped", ImageShape(height, width, channels), stages, batch)


STRIDED = Window(5, 5, 2, 2, 1, 1, 2, 2, 1, 2)
BLOCKS = {
    "256 in 2": grouped(5, 4, 256, 256, 2, same(3)),
    "128 to 192 in 2": grouped(4, 5, 128, 192, 2, STRIDED),
    "200 each": grouped(3, 4, 400, 400, 2, same(3), 1),
    "40 each": grouped(5, 6, 120, 120, 3, same(5)),
    "32 to 64 each": grouped(5, 6, 96, 192, 3, same(3)),
    "in a block": resnext(6, 5, 64, 256, 128),
}
WAYS = {
    "mma": ("float16", "sm_90", Engine.MMA, None),
    "wgmma": ("bfloat16", "sm_90", Engine.WGMMA, None),
    "small": ("float16", "sm_86", None, 4),
    "float32": ("float32", "sm_80", None, 4),
}


@pytest.mark.parametrize(("name", "way"), [*zip(BLOCKS, [*WAYS, "mma", "wgmma"], strict=True)])
def test_wide_groups_are_right(name, way):
    dtype, arch, engine, split = WAYS[way]
    built = build(replace(BLOCKS[name], dtype=dtype), device=GPUS[arch], engine=engine, split=split)
    assert any(isinstance(node, Gemm) and node.weights.groups > 1 for node in built.program.walk())
    assert run(built).is_clean
    inputs = inputs_of(built.block)
    assert error(built.block, inputs, interpret(built.program, inputs, built.block.parameters)) <= 1


@pytest.mark.parametrize(
    "maker",
    [
        Activation("maker", (0,), RELU),
        Multiply("maker", (0, 0)),
        Depthwise("maker", (0,), same(3)),
        Pool("maker", (0,), "max", same(3)),
        Grouped("maker", (0,), 40, 5, same(3)),
    ],
    ids=lambda stage: type(stage).__name__,
)
def test_what_narrow_groups_are_made_of_has_as_many_channels_as_they_read(maker):
    stages = [maker, Grouped("grouped", (1,), 10, 10, same(5)), Activation("relu", (2,), RELU)]
    built = build(finished("narrow", ImageShape(10, 7, 40), stages, 3))
    assert run(built).is_clean
    inputs = inputs_of(built.block)
    assert error(built.block, inputs, interpret(built.program, inputs, built.block.parameters)) <= 1


@pytest.mark.parametrize(("streamed", "split"), [(False, 2), (True, 3)])
def test_a_share_of_the_groups_among_the_channels_of_a_wider_image(streamed, split):
    device = replace(GPUS["sm_90"], local_bytes=40 * 1024) if streamed else GPUS["sm_90"]
    built = build(grouped(7, 9, 256, 256, 2, same(3)), device=device, tile=(7, 9), split=split)
    assert built.plan.homes[0].whole != streamed
    assert run(built_in_slots(built, np.random.default_rng(5), 8)).is_clean


WIDE = [(512, 512, 2, 3), (256, 512, 2, 3), (2048, 2048, 2, 3), (384, 384, 2, 5), (1232, 1232, 11, 3), (720, 720, 3, 3)]
WIDE += [(7392, 7392, 28, 3), (2048, 2048, 32, 3), (192, 384, 3, 5), (48, 96, 2, 5)]


@pytest.mark.parametrize(("channels", "out", "groups", "r"), WIDE)
def test_wide_groups_of_any_size_have_a_plan_where_there_is_least_memory(channels, out, groups, r):
    plan = plan_cuda(fold(single(14, 14, channels, Grouped("grouped", (0,), out, groups, same(r)), 1)), GPUS["sm_86"])
    assert isinstance(plan, CudaPlan)
    assert not plan.direct
