"""Convolutions whose windows are too large for any chunk: pixels arrive that lie under one tap at a time."""

from dataclasses import replace

import pytest

from blockfuse.block import Block
from blockfuse.machine import Engine
from blockfuse.plan.choose_cuda import plan_cuda
from blockfuse.plan.cuda import CudaPlan
from blockfuse.plan.cuda_cost import predict
from blockfuse.plan.device import GPUS
from blockfuse.plan.fold import fold
from blockfuse.program.interpret import interpret
from blockfuse.stages import Activation, Conv, Grouped, ImageShape, Stage, Window
from tests.cuda_kernels import build, error, inputs_of, run
from tests.residual_blocks import RELU, finished

SMALL = replace(GPUS["sm_90"], local_bytes=16 * 1024)
FAR = Window(3, 3, 1, 1, 9, 9, 9, 9, 9, 9)


def layer(height: int, width: int, channels: int, *stages: Stage) -> Block:
    return finished("layer", ImageShape(height, width, channels), list(stages), 2)


DILATED = layer(11, 12, 48, Conv("conv", (0,), 40, FAR), Activation("relu", (1,), RELU))
STRIDED = layer(13, 12, 32, Conv("conv", (0,), 24, Window(3, 2, 2, 2, 7, 8, 7, 8, 6, 7)))
GROUPED = layer(11, 12, 128, Grouped("grouped", (0,), 128, 2, FAR))
CASES = [
    (DILATED, "float16", Engine.WGMMA),
    (DILATED, "float32", Engine.MMA),
    (STRIDED, "bfloat16", Engine.MMA),
    (GROUPED, "float16", Engine.MMA),
]


@pytest.mark.parametrize(("block", "dtype", "engine"), CASES)
def test_pixels_under_one_tap_at_a_time(block, dtype, engine):
    built = build(replace(block, dtype=dtype), (4, 6), device=SMALL, engine=engine)
    assert built.plan.homes[0].by_taps
    found = run(built, count=True)
    assert found.is_clean
    predicted = predict(fold(built.block), built.plan, SMALL).cache_bytes
    assert 32 * found.counters.block_sectors == pytest.approx(predicted, rel=0.1)
    inputs = inputs_of(built.block)
    assert error(built.block, inputs, interpret(built.program, inputs, built.block.parameters)) <= 1


LARGE = [
    ("float16", layer(64, 64, 256, Conv("conv", (0,), 256, Window(3, 3, 1, 1, 36, 36, 36, 36, 36, 36)))),
    ("float32", layer(7, 7, 512, Conv("conv", (0,), 4096, Window(7, 7)))),
]


@pytest.mark.parametrize(("dtype", "block"), LARGE, ids=["far taps", "fully connected"])
def test_large_windows_have_a_plan_with_tiles(dtype, block):
    plan = plan_cuda(fold(replace(block, dtype=dtype, parameters={})), GPUS["sm_86"])
    assert isinstance(plan, CudaPlan)
    assert not plan.direct
