"""Kernels of seeded random blocks, emulated: what one CTA makes, and with which engine, is chosen by cost or drawn.

CI runs 84 of them; ``make emulate`` runs 378.
"""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pytest

from blockfuse.machine import Engine
from blockfuse.plan.choose_cuda import plan_cuda
from blockfuse.plan.device import GPUS
from blockfuse.plan.fold import fold
from blockfuse.plan.infeasible import Infeasible
from tests.cuda_kernels import Built, at_batch, build, built_as, built_in_slots, rounded_weights, run
from tests.emulated.covering import sliced
from tests.random_blocks import ALL_KINDS, random_block

ALL = bool(os.environ.get("BLOCKFUSE_EMULATE_ALL"))
SMALL = replace(GPUS["sm_90"], local_bytes=12 * 1024)  # makes plans fall back to fewer slots and smaller items


def assert_right(built: Built) -> None:
    result = run(built)
    assert not result.findings, built.block
    assert result.error <= 1, built.block


@pytest.mark.parametrize("seed", sliced(range(300 if ALL else 30), os.environ.get("BLOCKFUSE_EMULATE_SLICE", "")))
def test_random_block(seed):
    rng = np.random.default_rng(1000 + seed)
    block = random_block(rng, dtype=str(rng.choice(["float16", "bfloat16"])), kinds=ALL_KINDS)
    engine = [Engine.MMA, Engine.WGMMA][seed % 2]
    plan = plan_cuda(fold(rounded_weights(block)), GPUS["sm_90"], engine=engine)
    if isinstance(plan, Infeasible):  # such as groups of odd widths, whose filters come in one piece
        assert plan.need > plan.available
        return
    assert_right(built_as(rounded_weights(block), plan))


@pytest.mark.parametrize("seed", range(40 if ALL else 8))
def test_random_block_of_few_kinds(seed):
    assert_right(build(random_block(np.random.default_rng(seed), dtype="float16")))


@pytest.mark.parametrize(("seed", "step"), [(n, (1, 2, 8)[n % 3]) for n in range(600, 612 if ALL else 606)])
def test_random_block_among_the_channels_of_wider_images(seed, step):
    rng = np.random.default_rng(seed)
    assert_right(built_in_slots(build(random_block(rng, dtype="float16")), rng, step))


@pytest.mark.parametrize("seed", range(40, 50 if ALL else 45))
def test_random_block_in_bfloat16(seed):
    assert_right(build(random_block(np.random.default_rng(seed), dtype="bfloat16")))


@pytest.mark.parametrize("seed", range(700, 706))
def test_random_block_for_any_batch(seed):
    block = random_block(np.random.default_rng(seed), dtype="float16")
    built = build(replace(block, any_batch=True))
    for batch in (1, 3):
        assert_right(at_batch(built, batch))


@pytest.mark.parametrize("seed", [400, 416, 417, 422, 432, 437, 443, 450, 456, 458])
def test_random_block_in_little_shared_memory(seed):
    built = build(random_block(np.random.default_rng(seed), dtype="float16"), device=SMALL)
    assert built.plan.depth == 2
    assert_right(built)
