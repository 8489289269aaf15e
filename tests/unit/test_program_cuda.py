"""CUDA programs: their text, their meaning, and the rules they must keep."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from blockfuse.block import Block, reference
from blockfuse.errors import InternalError
from blockfuse.machine import Epilogue, Gemm, Load, Loop, Node, Program, Step, Tile, Zero
from blockfuse.machine.affine import Affine
from blockfuse.plan.choose_cuda import plan_cuda
from blockfuse.plan.cuda import CudaPlan
from blockfuse.plan.cuda_rules import Limits, apply_rules
from blockfuse.plan.device import GPUS
from blockfuse.plan.fold import fold
from blockfuse.plan.footprint import footprints
from blockfuse.plan.infeasible import Impossible, Infeasible
from blockfuse.program.check import check, executions, stream_length, task
from blockfuse.program.cuda import program_cuda
from blockfuse.program.interpret import interpret
from blockfuse.program.registers import live_registers
from blockfuse.stages import Add, Conv, ImageShape, Norm, Window
from tests.random_blocks import random_block
from tests.residual_blocks import basic, bottleneck, global_pool, max_pool, mbconv

H200 = GPUS["sm_90"]


def program_of(
    block: Block, tile: tuple[int, int] | None = None, warps: int | None = None, split: int | None = None
) -> Program:
    folded = fold(block)
    plan = plan_cuda(folded, H200, tile=tile, warps=warps, split=split)
    assert isinstance(plan, CudaPlan), str(plan)
    return program_cuda(folded, plan, block.name)


@pytest.mark.parametrize(
    ("name", "block", "warps"),
    [("basic_28x28x128", basic(28, 28, 128), 8), ("mbconv_28x28_32_192", mbconv(28, 28, 32, 192), 4)],
)
def test_text(golden, name, block, warps):
    golden(f"{name}_cuda.txt", str(program_of(block, (7, 14), warps)))


def assert_computes(program: Program, block: Block) -> None:
    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal((block.batch, s.height, s.width, s.channels)) for s in block.inputs]
    expected = reference(block, inputs)[-1]
    actual = interpret(program, inputs, block.parameters)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-9 * max(1.0, float(np.abs(expected).max())))


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # means of windows outside the image
@pytest.mark.parametrize("seed", range(60))
def test_programs_of_random_blocks_compute_them(seed):
    block = random_block(np.random.default_rng(seed), dtype="float16")
    assert_computes(program_of(block), block)


@pytest.mark.parametrize(
    "block",
    [
        basic(9, 11, 24),
        basic(11, 13, 16, 32, stride=2, batch=2),
        bottleneck(9, 10, 64, 16),
        bottleneck(11, 13, 32, 32, 64, stride=2),
        mbconv(17, 13, 24, 96, 40, stride=2),
        mbconv(15, 15, 40, 120, 48, r=5, stride=2),
        mbconv(7, 7, 24, 144, r=5, batch=3),
        bottleneck(1, 1, 64, 32, batch=3),
        max_pool(13, 11, 20),
        global_pool(7, 7, 40),
    ],
    ids=lambda block: f"{block.name}_{block.inputs[0]}",
)
@pytest.mark.parametrize("tile", [None, (4, 5)])  # without one, small blocks share the result's channels, too
def test_programs_of_residual_blocks_compute_them(block, tile):
    assert_computes(program_of(block, tile), block)


# ---- plans -----------------------------------------------------------------------------------------------------------


def test_hidden_channels_of_an_inverted_bottleneck_live_a_chunk_at_a_time():
    plan = plan_cuda(fold(mbconv(28, 28, 64, 768)), H200)
    assert [home.whole for home in plan.homes] == [True, False, False, True]


def test_no_value_that_lives_by_chunks_is_made_twice():
    for seed in range(40):
        program = program_of(random_block(np.random.default_rng(seed), dtype="float16"), split=1)
        items = [(n.item.base, n.item.index.at(env)) for n, env in executions(program) if isinstance(n, Step)]
        assert len(items) == len(set(items))


def test_what_does_not_fit_says_so_in_numbers():
    tiny = replace(H200, local_bytes=4 * 1024)
    found = plan_cuda(fold(basic(14, 14, 256)), tiny, warps=4)
    assert isinstance(found, Infeasible)
    assert found.limit == "shared memory"
    assert found.need > found.available == tiny.local_bytes
    assert str(found).startswith("shared memory: needs ")


def test_less_shared_memory_gives_a_plan_that_needs_less():
    folded = fold(basic(28, 28, 128))
    small = replace(H200, local_bytes=100 * 1024)
    plans = [plan_cuda(folded, device, tile=(7, 14)) for device in (H200, small)]
    needs = [2 * program_cuda(folded, plan, "basic").arena for plan in plans if isinstance(plan, CudaPlan)]
    assert len(needs) == 2
    assert needs[0] > small.local_bytes >= needs[1]


def test_single_stages_get_smaller_tiles_where_the_usual_ones_do_not_fit():
    """All channels of a pixel are normalized together."""
    block = Block((ImageShape(7, 7, 8192),), (Norm("norm", (0,), 1e-6),), batch=32, dtype="float16")
    plan = plan_cuda(fold(block), GPUS["sm_80"])
    assert isinstance(plan, CudaPlan), plan
    assert min(plan.tile_p, plan.tile_q) < 4
    check(program_cuda(fold(block), plan, "k"))


def test_too_many_inputs_are_refused():
    image = ImageShape(4, 4, 8)
    adds = [Add(f"add{i}", (10 + i, i)) for i in range(1, 11)]
    block = Block((image,) * 11, (Conv("conv", (0,), 8, Window()), *adds), dtype="float16")
    found = plan_cuda(fold(block), H200)
    assert str(found) == "inputs of one kernel: needs 11 tensors, 10 available; cut the block"


def test_paths_of_different_stride_share_a_tile_only_where_there_is_one():
    folded = fold(basic(1, 1, 16, 32, stride=2))
    assert not isinstance(footprints(folded, 1, 1), Impossible)


def test_an_image_in_one_tile_is_computed_without_its_border():
    held = footprints(fold(mbconv(7, 7, 16, 96, r=5)), 7, 7)
    assert not isinstance(held, Impossible)
    assert [place.pixels for place in held] == [49, 49, 49, 49]
    assert [place.rows.size for place in held] == [7, 11, 7, 7]
    program = program_of(mbconv(7, 7, 16, 96, r=5), (7, 7))
    assert [node.target.name for node in task(program) if isinstance(node, Zero) and isinstance(node.target, Tile)] == [
        "expand"
    ]


def test_a_plan_for_another_block_is_refused():
    plan = apply_rules(fold(mbconv(8, 8, 16, 32)), 4, 4, 4, Limits(3, 20480, 64, 1 << 20))
    with pytest.raises(InternalError, match="has no tiling"):
        program_cuda(fold(basic(8, 8, 16, 32, stride=2)), replace(plan, homes=plan.homes), "wrong")


# ---- rules -----------------------------------------------------------------------------------------------------------


def parents(nodes: list[Node]):
    for node in nodes:
        yield nodes, node
        if hasattr(node, "body"):
            yield from parents(node.body)


def remove(program: Program, kind: type) -> None:
    nodes, node = next((nodes, node) for nodes, node in parents(program.body) if isinstance(node, kind))
    nodes.remove(node)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [(Load, "which nothing has written"), (Zero, "nothing has zeroed"), (Epilogue, "which nothing has written")],
)
def test_check_finds_what_is_missing(kind, reason):
    program = program_of(basic(9, 9, 32), split=1)
    remove(program, kind)
    with pytest.raises(InternalError, match=reason):
        check(program)


def steps(program: Program) -> list[Step]:
    return [node for node in program.walk() if isinstance(node, Step)]


def test_check_finds_wrong_numbers():
    program = program_of(basic(9, 9, 32))
    steps(program)[0].number = Affine(5)
    with pytest.raises(InternalError, match="numbered"):
        check(program)


def test_check_finds_items_that_are_streamed_twice():
    program = program_of(basic(9, 9, 32))
    nodes = task(program)
    nodes.append(next(node for node in nodes if isinstance(node, Loop | Step)))
    with pytest.raises(InternalError, match="streamed twice"):
        check(program)


def test_check_finds_gaps_in_the_stream():
    program = program_of(basic(9, 9, 32), split=1)
    remove(program, Step)
    with pytest.raises(InternalError, match="in no item"):
        check(program)


def test_check_finds_small_slots():
    program = program_of(basic(9, 9, 32))
    program.ring.slot -= 64
    with pytest.raises(InternalError, match="larger than a slot"):
        check(program)


def test_check_finds_misplaced_tiles():
    program = program_of(basic(9, 9, 32))
    program.tiles[0].offset += 8
    with pytest.raises(InternalError, match="not placed"):
        check(program)


def test_check_finds_pitches_that_ldmatrix_cannot_read():
    program = program_of(basic(9, 9, 32))
    next(node for node in program.walk() if isinstance(node, Gemm)).source.pitch -= 4
    with pytest.raises(InternalError, match="ldmatrix"):
        check(program)


def test_the_stream_holds_every_weight_once():
    block = basic(9, 9, 32)
    assert stream_length(program_of(block)) == 2 * 9 * 32 * 32


def test_live_registers_count_sums_fragments_and_addresses():
    program = program_of(basic(28, 28, 128), (7, 14), 8)
    sums = list(dict.fromkeys(node.acc for node in program.walk() if isinstance(node, Gemm)))
    tiles = [acc.tiling.mb for acc in sums]
    assert live_registers(program) == max(acc.registers for acc in sums) + 4 * max(tiles) + 4 + sum(tiles)
