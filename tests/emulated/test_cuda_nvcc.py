"""Kernels compiled for real architectures: registers are enough, and shared memory is what the plan says."""

from __future__ import annotations

import pytest

from blockfuse.plan.device import GPUS
from tests.cuda_kernels import build
from tests.emulated.nvcc import compile_cubin, find_nvcc
from tests.residual_blocks import basic, bottleneck, mbconv

pytestmark = pytest.mark.skipif(find_nvcc() is None, reason="nvcc is not installed")

CASES = [
    (basic(28, 28, 128), (7, 14), 8),
    (mbconv(28, 28, 32, 192), (7, 14), 4),
    (bottleneck(56, 56, 64, 64, 256), (7, 8), 8),
    (mbconv(56, 56, 24, 144, 40, r=5, stride=2), (7, 7), 4),
    (basic(56, 56, 64, 128, stride=2), None, None),
]


@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
@pytest.mark.parametrize(("block", "tile", "warps"), CASES, ids=[f"{b.name}_{b.inputs[0]}" for b, _, _ in CASES])
def test_no_spills_and_the_planned_shared_memory(block, tile, warps, arch):
    built = build(block, tile, warps)
    planned = 2 * built.program.arena
    found = compile_cubin(built.source, arch, dynamic_shared_bytes=planned)
    assert (found.spill_load_bytes, found.spill_store_bytes, found.stack_bytes) == (0, 0, 0)
    assert found.shared_bytes == planned <= GPUS["sm_90"].local_bytes
    assert found.registers * built.program.threads <= 65536
