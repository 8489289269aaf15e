"""The waterline: definitions, known figures, and its relation to the roofline on totals."""

import numpy as np
import pytest

from blockfuse.block import Block
from blockfuse.plan.choose_cuda import plan_cuda
from blockfuse.plan.cost import interior_bytes, waterline
from blockfuse.plan.cuda import CudaPlan
from blockfuse.plan.cuda_cost import predict
from blockfuse.plan.device import GPUS
from blockfuse.plan.fold import fold
from blockfuse.stages import Conv, ImageShape, Window
from tests.residual_blocks import mbconv

A100, H100 = GPUS["sm_80"], GPUS["sm_90"]
FP16 = 2


def convnext(channels: int, side: int, batch: int) -> list[tuple[float, float]]:
    """(operations, DRAM bytes) of an unfused block: depthwise 7x7, norm, expand + GELU, project + scale + add."""
    pixels, wide = batch * side * side, 4 * channels
    image, hidden = FP16 * pixels * channels, FP16 * pixels * wide
    return [
        (2 * 49 * pixels * channels, 2 * image + FP16 * 49 * channels),
        (0, 2 * image),
        (2 * pixels * channels * wide, image + hidden + FP16 * channels * wide),
        (2 * pixels * channels * wide, hidden + 2 * image + FP16 * channels * wide),
    ]


def test_convnext_block_on_a100():
    """The roofline on totals says 100 %, the waterline 84.7 %: surplus intensity of one kernel pays no other's debt."""
    line = waterline(convnext(384, 14, 128), A100.tensor_peak, A100.memory_bandwidth)
    assert line.aggregate_efficiency == 1.0
    assert line.efficiency == pytest.approx(0.847, abs=0.002)


def test_large_gemm_cannot_be_faster_than_its_bytes():
    """A 3x3 convolution of an RGB image at 224x224 must move 6.7 MB of fp16: 3.3 us and 16.8 % on an A100."""
    operations, moved = 173_408_256, 2 * (224 * 224 * (3 + 64) + 9 * 3 * 64)
    assert moved == 6_727_040
    line = waterline([(operations, moved)], A100.tensor_peak, A100.memory_bandwidth)
    assert line.attainable_seconds == pytest.approx(3.3e-6, rel=0.01)
    assert line.efficiency == pytest.approx(0.168, abs=0.001)


def test_waterline_never_exceeds_the_roofline_on_totals():
    rng = np.random.default_rng(0)
    for _ in range(200):
        kernels = [tuple(row) for row in rng.uniform(1, 1e9, (rng.integers(1, 9), 2))]
        line = waterline(kernels, 1e12, 1e10)
        assert line.efficiency <= line.aggregate_efficiency + 1e-12
        sides = {n > b * line.level for n, b in kernels}
        assert (len(sides) == 1) == bool(np.isclose(line.efficiency, line.aggregate_efficiency))
        ideal = line.ideal_seconds + sum(line.lost_seconds)
        assert ideal == pytest.approx(line.attainable_seconds)


def test_bytes_of_a_block():
    window = Window(3, 3, pad_top=1, pad_left=1, pad_bottom=1, pad_right=1)
    stages = (Conv("a", (0,), 8, window), Conv("b", (1,), 4, window))
    block = Block((ImageShape(5, 7, 4),), stages, batch=3)
    weights = 9 * 4 * 8 + 8 + 9 * 8 * 4 + 4
    assert block.global_bytes == 4 * (3 * 35 * (4 + 4) + weights)
    assert interior_bytes(fold(block)) == 2 * 4 * 3 * 35 * 8


def test_channels_that_only_chunks_have_take_time_as_others_do():
    """144 hidden channels in chunks of 80 are 160."""
    wide, narrow = (fold(mbconv(56, 56, 32, hidden, batch=64)) for hidden in (160, 144))
    plan = plan_cuda(wide, H100, tile=(8, 14), warps=4)
    assert isinstance(plan, CudaPlan)
    assert plan.homes[1].chunk == 80
    costs = [predict(folded, plan, H100) for folded in (wide, narrow)]
    assert costs[0].bound != "memory"
    assert costs[0].seconds == pytest.approx(costs[1].seconds)
