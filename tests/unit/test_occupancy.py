"""How many CTAs share an SM: what plans choose fits, and is predicted to hide what a CTA waits for."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from blockfuse.machine.occupancy import CTA_SHARED, REGISTERS, ctas_per_sm
from blockfuse.plan.choose_cuda import plan_cuda
from blockfuse.plan.cuda import CudaPlan
from blockfuse.plan.cuda_cost import cta_count, predict
from blockfuse.plan.device import gpu_device
from blockfuse.plan.fold import fold
from blockfuse.plan.stack import over_stacks
from blockfuse.program.cuda_needs import OTHER_REGISTERS, needs, resident
from tests.random_blocks import random_block
from tests.residual_blocks import mbconv

H200 = gpu_device("sm_90a")


@pytest.mark.parametrize(
    ("threads", "registers", "shared_bytes", "ctas"),
    [(128, 128, 0, 4), (128, 129, 0, 3), (256, 255, 0, 1), (96, 32, 0, 21), (64, 16, 0, 32), (256, 32, 115712, 2)],
)
def test_ctas_of_an_sm(threads, registers, shared_bytes, ctas):
    assert ctas_per_sm(threads, registers, shared_bytes, sm_threads=2048, sm_shared=228 * 1024) == ctas


@pytest.mark.parametrize("seed", range(10))
def test_planned_ctas_fit_into_an_sm_that_has_as_many(seed):
    rng = np.random.default_rng(seed)
    dtype = str(rng.choice(["float16", "bfloat16", "float32"]))
    folded = fold(replace(random_block(rng, dtype=dtype), batch=int(rng.choice([1, 48, 256]))))
    device = gpu_device(str(rng.choice(["sm_80", "sm_86", "sm_90a"])))
    plan = plan_cuda(folded, device)
    assert isinstance(plan, CudaPlan)
    elements, live = needs(folded, plan)
    size = 4 if dtype == "float32" else 2
    assert plan.resident * (elements * size + CTA_SHARED) <= device.local_bytes + CTA_SHARED
    assert plan.resident == 1 or plan.resident * 32 * plan.warps * (live + OTHER_REGISTERS) <= REGISTERS
    assert plan.resident * 32 * plan.warps <= device.resident_threads
    assert plan.resident <= -(-cta_count(over_stacks(folded, plan.images), plan) // device.cores)


def test_ctas_that_share_an_sm_fill_each_others_waits():
    """Alone, each waits; of two at once the pipe is busy, and an odd one at the end waits again."""
    plan = plan_cuda(fold(mbconv(28, 28, 32, 192)), H200, tile=(14, 14), warps=4)
    assert isinstance(plan, CudaPlan)
    seconds = {}
    for images, ctas in product((33, 66, 99), (1, 2)):
        folded = fold(mbconv(28, 28, 32, 192, batch=images))
        seconds[images, ctas] = predict(folded, replace(plan, resident=ctas), H200).seconds
    launch = H200.launch_seconds
    assert seconds[33, 2] == seconds[33, 1]  # one CTA for each SM
    alone = seconds[33, 1] - launch
    assert seconds[66, 1] - launch == pytest.approx(2 * alone)
    assert alone < seconds[66, 2] - launch < 2 * alone
    assert seconds[99, 2] - seconds[66, 2] == pytest.approx(alone)


def test_a_block_of_many_tiles_is_planned_for_several_ctas_per_sm():
    plan = plan_cuda(fold(mbconv(56, 56, 24, 144, batch=32)), H200)
    assert isinstance(plan, CudaPlan)
    assert plan.resident > 1
    assert f", {plan.resident} CTAs per SM" in str(plan)


@pytest.mark.parametrize(("live", "ctas"), [(8, 8), (72, 4), (73, 3), (199, 2)])
def test_the_compiler_is_left_its_registers(live, ctas):
    folded = fold(mbconv(56, 56, 32, 192, batch=256))
    plan = plan_cuda(folded, H200, tile=(7, 14), warps=4)
    assert isinstance(plan, CudaPlan)
    assert resident(folded, plan, H200, 0, live) == ctas
