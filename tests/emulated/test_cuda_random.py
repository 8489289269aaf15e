"""Kernels of seeded random blocks, emulated."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from blockfuse.plan.cuda import CudaPlan
from blockfuse.plan.choose_cuda import plan_cuda
from blockfuse.plan.device import GPUS
from blockfuse.plan.fold import fold
from tests.cuda_kernels import build, built_as, run
from tests.random_blocks import random_block


@pytest.mark.parametrize("seed", range(40))
def test_random_block(seed):
    built = build(random_block(np.random.default_rng(seed), dtype="float16"))
    result = run(built)
    assert not result.findings, built.block
    assert result.error <= 1, built.block
