"""What the search for a plan leaves out could not have been better: bounds are below what they bound."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from blockfuse.machine import Engine
from blockfuse.plan import choose_cuda
from blockfuse.plan.choose_cuda import _limits, _size
from blockfuse.plan.cuda import CudaPlan
from blockfuse.plan.cuda_bound import Bound
from blockfuse.plan.cuda_cost import predict
from blockfuse.plan.cuda_grids import USUAL_TILE, Grid, grids
from blockfuse.plan.device import gpu_device
from blockfuse.plan.fold import fold
from blockfuse.plan.stack import stacked
from blockfuse.program.cuda_needs import least_elements, needs
from tests.random_blocks import ALL_KINDS, random_block

PLANS = 40


def drawn(seed: int):
    """A block, a device, and ways to divide the block's output."""
    rng = np.random.default_rng(seed)
    dtype = str(rng.choice(["float16", "bfloat16", "float32"]))
    folded = fold(replace(random_block(rng, dtype=dtype, kinds=ALL_KINDS), batch=int(rng.integers(1, 5))))
    device = gpu_device(str(rng.choice(["sm_80", "sm_86", "sm_90a"])))
    found = list(grids(folded, device, Grid(), USUAL_TILE))
    return folded, device, [found[i] for i in rng.permutation(len(found))[:PLANS]]


@pytest.mark.parametrize("seed", range(12))
def test_no_plan_beats_the_bound_of_its_grid(seed):
    folded, device, found = drawn(seed)
    bound = Bound(folded, device)
    for grid in found:
        limits = _limits(device, grid.engine or Engine.MMA, _size(folded))
        least = min(predict(folded, grid.plan(folded, one), device).seconds for one in limits)
        assert bound.least <= bound.seconds(grid) <= least, grid


@pytest.mark.parametrize("seed", range(12))
def test_no_program_needs_less_than_the_bound(seed):
    folded, device, found = drawn(seed)
    for grid in found[:6]:
        for limits in _limits(device, grid.engine or Engine.MMA, _size(folded)):
            plan = grid.plan(folded, limits)
            assert least_elements(folded, plan) <= needs(folded, plan)[0], plan


@pytest.mark.parametrize("seed", range(8))
def test_the_search_finds_what_one_without_bounds_finds(seed, monkeypatch):
    folded, device, found = drawn(seed)
    quick = choose_cuda._cheapest(folded, found, device)
    monkeypatch.setattr(Bound, "seconds", lambda _self, _grid: 0.0)
    monkeypatch.setattr(choose_cuda, "least_elements", lambda *_: 0)
    slow = choose_cuda._cheapest(folded, found, device)
    assert quick == slow
    assert isinstance(quick, CudaPlan) or quick.need > quick.available


def test_stacks_of_images_are_made_once():
    folded, _, _ = drawn(3)
    assert stacked(folded, 2) is stacked(folded, 2)
