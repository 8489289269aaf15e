"""Phases of CPU kernels: what is made before what, and what lies in memory in between."""

from __future__ import annotations

import numpy as np
import pytest

from blockfuse.block import Block, reference
from blockfuse.machine import LoopKind, walk
from blockfuse.machine.program import Loop
from blockfuse.plan.choose_cpu import plan_cpu
from blockfuse.plan.cpu import CpuPlan, UnitTiling
from blockfuse.plan.device import cpu_device
from blockfuse.plan.fold import fold
from blockfuse.plan.phases import by_rows, is_by_channels, phases
from blockfuse.program.cpu import program_cpu
from blockfuse.program.interpret import interpret
from blockfuse.stages import Activation, Add, Conv, Function, ImageShape, Pool, Window
from blockfuse.target import parse_target
from tests.gated_blocks import (
    convnext,
    gate_around,
    gated_bottleneck,
    gated_groups,
    pre_activation,
    squeeze_excite,
    strided_gate,
    two_groupings,
)

GATED = (squeeze_excite, strided_gate, gated_bottleneck, gated_groups, gate_around)
EXACT = 1e-9


def names(block: Block) -> list[list[str]]:
    folded = by_rows(fold(block))
    return [[folded.units[index].name for index in phase.units] for phase in phases(folded)]


@pytest.mark.parametrize("make", [convnext, pre_activation, two_groupings])
def test_one_phase_where_bands_can_make_everything(make):
    assert len(phases(by_rows(fold(make())))) == 1


def test_a_gate_stands_between_two_phases():
    assert names(squeeze_excite()) == [
        ["expand", "dw", "pool_rows"],
        ["pool", "squeeze", "excite"],
        ["gate", "project"],
    ]


def test_what_only_the_end_reads_is_made_at_the_end():
    first, _, last = names(gated_bottleneck())
    assert "shortcut" not in first
    assert "shortcut" in last


def test_bands_make_no_row_that_others_read_twice():
    """The gated image lies under windows of what is pooled, so it is made before."""
    assert names(gate_around())[:2] == [["conv1"], ["conv2", "pool_rows"]]
    assert len(names(gate_around())) == 6


def test_images_of_different_heights_are_made_one_after_the_other():
    """A pool reads one of 8 rows, the end one of 4 that are made of those."""
    stages = (
        Conv("conv1", (0,), 8, Window(3, 3, 1, 1, 1, 1, 1, 1, 1, 1)),
        Conv("conv2", (1,), 8, Window(2, 2, 2, 2)),
        Pool("pool", (2,), "mean", Window(4, 3)),
        Pool("pool2", (1,), "max", Window(8, 6)),
        Add("add", (3, 4)),
        Activation("relu", (5,), Function("relu")),
    )
    block = Block((ImageShape(8, 6, 4),), stages, name="heights").with_random_parameters(3)
    found = phases(by_rows(fold(block)))
    for phase in found:
        shapes = by_rows(fold(block)).shapes
        assert {shapes[value].height for value in phase.kept} <= {phase.height}
    assert error(block, tasks=3, rows=1) < EXACT


def error(block: Block, tasks: int, rows: int) -> float:
    folded = by_rows(fold(block))
    plan = CpuPlan("rows", tasks, rows, tuple(UnitTiling(2, 2) for _ in folded.units))
    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal((block.batch, s.height, s.width, s.channels)) for s in block.inputs]
    wanted = reference(block, inputs)[-1]
    got = interpret(program_cpu(folded, plan, "phases"), inputs, block.parameters)
    return float(np.nan_to_num(np.abs(got - wanted).max() / np.abs(wanted).max(), nan=np.inf))


@pytest.mark.parametrize("make", GATED)
@pytest.mark.parametrize(("tasks", "rows"), [(1, 2), (2, 9), (3, 1), (4, 2)])
def test_phases_compute_the_block(make, tasks, rows):
    assert error(make(batch=2), tasks, rows) < EXACT


def test_pools_by_rows_are_pools():
    """Twice is the same as once; a pool alone, or of parts of an image, stays."""
    folded = by_rows(fold(squeeze_excite()))
    assert [unit.shape.height for unit in folded.units if unit.kind == "pool"] == [7, 1]
    assert by_rows(folded) == folded
    alone = fold(Block((ImageShape(5, 5, 8),), (Pool("pool", (0,), "max", Window(5, 5)),)))
    assert by_rows(alone) is alone
    parts = (Pool("pool", (0,), "max", Window(2, 5)), Conv("conv", (1,), 4, Window()))
    assert len(by_rows(fold(Block((ImageShape(5, 5, 8),), parts))).units) == 2


def test_shares_of_channels_need_channels_that_do_not_mix():
    for make, expected in ((squeeze_excite, True), (strided_gate, True), (gated_groups, False)):
        folded = by_rows(fold(make()))
        assert is_by_channels(folded, phases(folded)[0]) == expected
        assert not is_by_channels(folded, phases(folded)[-1])


@pytest.mark.parametrize("make", GATED)
@pytest.mark.parametrize("threads", [1, 2, 4])
def test_every_core_gets_a_task_of_one_image(make, threads):
    """Of heights that cores divide, so that no band is empty."""
    found = plan_cpu(fold(make(height=16)), cpu_device(parse_target("cpu:avx512", threads)))
    assert isinstance(found, list)
    assert threads in {candidate.plan.tasks for candidate in found}


def test_what_later_phases_read_outlives_tasks():
    folded = by_rows(fold(squeeze_excite()))
    tilings = tuple(UnitTiling(2, 2) for _ in folded.units)
    program = program_cpu(folded, CpuPlan("rows", 2, 2, tilings), "bands")
    shared = {tile.name.split("_", 1)[1] for tile in program.tiles if tile.shared}
    assert shared == {"dw", "pool_rows", "excite"}
    kinds = [node.kind for node in walk(program.body) if isinstance(node, Loop) and node.kind.is_parallel]
    assert kinds == [LoopKind.IMAGE, LoopKind.BAND, LoopKind.PHASE, LoopKind.BAND]
    alone = program_cpu(folded, CpuPlan("rows", 1, 2, tilings), "image")
    assert not any(tile.shared for tile in alone.tiles)
