"""Kernels whose sums wgmma makes, emulated: right within rounding, nothing to report, and nothing superfluous.

The emulator keeps the books of the asynchronous products: what was fenced, closed and waited for. That the hardware
orders no more than the rules say, and that the descriptors mean what we think, is not proven here.
"""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from blockfuse.block import Block
from blockfuse.errors import InternalError
from blockfuse.machine import Engine, Gemm
from blockfuse.plan.choose_cuda import plan_cuda
from blockfuse.plan.cuda import CudaPlan
from blockfuse.plan.cuda_limits import Limits
from blockfuse.plan.cuda_rules import apply_rules
from blockfuse.plan.device import GPUS, device_of
from blockfuse.plan.fold import fold
from blockfuse.program.cuda import program_cuda
from blockfuse.stages import Conv, Window
from blockfuse.target import parse_target
from tests.cuda_kernels import Built, build, built_as, rounded_weights, run
from tests.emulated.emulator.mutations import without_each_barrier, without_each_product_rule, without_each_wait
from tests.emulated.nvcc import compile_cubin, find_nvcc
from tests.random_blocks import random_block
from tests.residual_blocks import basic, bottleneck, convnext, mbconv, same, single

H200 = replace(GPUS["sm_90"], wgmma=True)

SMALL: list[tuple[Block, tuple[int, int]]] = [
    (basic(11, 9, 24, batch=2), (4, 6)),
    (basic(13, 11, 16, 32, stride=2), (4, 4)),
    (bottleneck(9, 10, 64, 32), (4, 6)),
    (bottleneck(11, 13, 32, 32, 64, stride=2, batch=2), (4, 4)),
    (mbconv(17, 13, 24, 96, 40, stride=2), (4, 5)),
    (mbconv(7, 7, 20, 144, r=5, batch=2), (7, 7)),
    (single(9, 11, 40, Conv("pointwise", (0,), 48, Window())), (9, 11)),
    (single(5, 6, 144, Conv("wide", (0,), 320, Window())), (5, 6)),
    (single(9, 11, 3, Conv("stem", (0,), 24, same(3, 2)), batch=2), (3, 4)),
    (single(12, 12, 64, Conv("dense", (0,), 64, same(3))), (12, 12)),
    (convnext(9, 10, 24, batch=2), (4, 6)),
]


def built_with_wgmma(block: Block, tile: tuple[int, int], warps: int = 4) -> Built:
    built = build(block, tile, warps, H200, Engine.WGMMA)
    assert built.program.uses(Engine.WGMMA)
    assert not any(n.acc.tiling.engine is Engine.MMA for n in built.program.walk() if isinstance(n, Gemm))
    return built


def assert_right(built: Built) -> None:
    result = run(built, count=True)
    assert not result.findings
    assert result.error <= 1
    assert result.counters.wgmma
    assert not result.counters.mma


@pytest.mark.parametrize(("block", "tile"), SMALL, ids=[f"{b.name}_{b.inputs[0]}" for b, _ in SMALL])
def test_small_and_ragged(block, tile):
    assert_right(built_with_wgmma(block, tile))


@pytest.mark.parametrize("index", [2, 5, 9])
def test_two_warpgroups(index):
    assert_right(built_with_wgmma(*SMALL[index], 8))


@pytest.mark.parametrize("index", [0, 5, 7])
def test_bfloat16(index):
    block, tile = SMALL[index]
    assert_right(built_with_wgmma(replace(block, dtype="bfloat16"), tile))


@pytest.mark.parametrize("seed", range(12))
def test_random_block(seed):
    block = random_block(np.random.default_rng(seed), dtype="bfloat16" if seed % 4 == 3 else "float16")
    result = run(build(block, engine=Engine.WGMMA))
    assert not result.findings, block
    assert result.error <= 1, block


# ---- honesty ---------------------------------------------------------------------------------------------------------

MUTATED = {
    "dense": (single(6, 6, 80, Conv("dense", (0,), 32, same(3))), (6, 6)),  # several trips of every loop
    "mbconv": (mbconv(7, 6, 16, 128), (4, 4)),
}
ONE_OF_EACH = (single(6, 6, 64, Conv("pointwise", (0,), 32, Window())), (6, 6))


@pytest.mark.parametrize("name", MUTATED)
def test_every_rule_that_is_kept_is_needed(name):
    built = built_with_wgmma(*MUTATED[name])
    mutants = [mutate(built.source) for mutate in (without_each_product_rule, without_each_barrier, without_each_wait)]
    assert all(mutants)
    silent = [m.description for group in mutants for m in group if run(built, m.source).is_clean]
    assert not silent


KINDS = {
    "wgmma_fence": "product-not-fenced",
    "wgmma_wait_group": "sums-in-flight",
    "wgmma_commit_group": "sums-in-flight",
    "fence_proxy": "proxy-fence-missing",
}


@pytest.mark.parametrize("what", KINDS)
def test_findings_name_the_rule(what):
    built = built_with_wgmma(*ONE_OF_EACH)
    mutants = [m for m in without_each_product_rule(built.source) if what in m.description]
    assert KINDS[what] in {finding.kind for finding in run(built, mutants[-1].source).findings}


def broken(pattern: str, text: str) -> set[str]:
    """Findings of the kernel with something changed in its own text."""
    built = built_with_wgmma(*ONE_OF_EACH)
    start = built.source.rindex("__global__")
    body, count = re.subn(pattern, text, built.source[start:])
    assert count
    return {finding.kind for finding in run(built, built.source[:start] + body).findings}


def test_descriptors_must_agree():
    assert "divergent-descriptor" in broken(r"(?<=\(uint64_t\))2ULL", "(threadIdx.x & 2)")


def test_descriptors_must_be_aligned():
    assert broken(r"(?<=\(uint64_t\))2ULL", "8ULL") & {"misaligned"}


def test_descriptors_of_unswizzled_weights_are_not_modelled():
    assert "unsupported-descriptor" in broken(r"1073741888u?", "64")


# ---- programs and plans ----------------------------------------------------------------------------------------------


def test_rings_begin_where_the_swizzle_does():
    built = built_with_wgmma(*SMALL[0])
    assert built.program.ring is not None
    assert built.program.ring.offset % 512 == built.program.ring.slot % 512 == 0
    assert "__align__(1024)" in built.source


def test_half_a_warpgroup_is_refused():
    built = built_with_wgmma(*SMALL[6])
    units = [replace(unit, tiling=replace(unit.tiling, wm=2, wn=2)) for unit in built.plan.units if unit.tiling]
    with pytest.raises(InternalError, match="not whole warpgroups"):
        program_cuda(fold(built.block), replace(built.plan, units=tuple(units)), "half")


@pytest.mark.parametrize(("device", "expected"), [(H200, Engine.WGMMA), (GPUS["sm_90"], Engine.MMA)])
def test_plans_use_wgmma_where_it_is_faster_and_there(device, expected):
    plan = plan_cuda(fold(basic(28, 28, 256, batch=32)), device)
    assert isinstance(plan, CudaPlan)
    assert plan.engine is expected


@pytest.mark.parametrize("target", ["sm_90a", "sm_90", "sm_80,sm_90a", "sm_80", "sm_100a"])
def test_code_for_hopper_alone_may_use_wgmma(target):
    variants = parse_target(target).variants
    assert [device_of(one).wgmma for one in variants] == [one.name == "sm_90a" for one in variants]


@pytest.mark.skipif(find_nvcc() is None, reason="nvcc is not installed")
@pytest.mark.parametrize(
    ("block", "tile", "warps"),
    [(bottleneck(56, 56, 256, 64), (8, 14), 8), (mbconv(28, 28, 32, 192), (7, 14), 4), (convnext(8, 8, 32), (4, 8), 4)],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_products_overlap_without_spills(block, tile, warps):
    built = built_with_wgmma(block, tile, warps)
    planned = 2 * built.program.arena
    found = compile_cubin(built.source, "sm_90a", dynamic_shared_bytes=planned)
    assert (found.spill_load_bytes, found.spill_store_bytes, found.stack_bytes) == (0, 0, 0)
    assert found.shared_bytes == planned <= H200.local_bytes
    assert found.registers * built.program.threads <= 65536
    assert not found.remarks


@pytest.mark.skipif(find_nvcc() is None, reason="nvcc is not installed")
def test_sums_that_a_loop_carries_are_zero_before_the_first_fence():
    """Else ptxas puts a fence of its own between products, for zeros that the compiler makes as late as it can."""
    block = rounded_weights(single(14, 14, 240, Conv("project", (0,), 80, Window())))
    built = built_as(block, apply_rules(fold(block), 14, 14, 8, Limits(2, 80 * 80 * 2, 80, 1 << 20, Engine.WGMMA)))
    assert "for project_k in 3 (slice)" in str(built.program)
    assert not compile_cubin(built.source, "sm_90a").remarks
