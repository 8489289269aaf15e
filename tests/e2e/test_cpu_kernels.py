"""CPU kernels against the float64 reference: random blocks, programs by hand, and programs with an instruction less."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from blockfuse.block import Block
from blockfuse.machine import Loop, Node, Pixels, Program
from blockfuse.plan.cpu import CpuPlan, UnitTiling
from blockfuse.plan.fold import fold
from blockfuse.plan.phases import by_rows
from blockfuse.program.cpu import program_cpu
from blockfuse.program.interpret import interpret
from blockfuse.stages import Activation, Add, Conv, Depthwise, Function, Grouped, ImageShape, Pool, Window
from tests import cpu_programs
from tests.cpu_kernels import call, compile_programs, error, random_inputs
from tests.fuzz.blocks import any_plan
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
from tests.random_blocks import ALL_KINDS, CPU_KINDS, KINDS, random_block
from tests.residual_blocks import anti_aliased, response
from tests.slots import into_slots

SEEDS = [*((KINDS, n) for n in range(30)), *((ALL_KINDS, n) for n in range(50)), *((CPU_KINDS, n) for n in range(25))]
RELU, RELU6 = Function("relu"), Function("clip", 0.0, 6.0)
PAD1 = cpu_programs.PAD1


def check(block: Block, program: Program, seed: int, shift: int = 1) -> None:
    """Compile, run and compare."""
    kernel = compile_programs([program])[program.name]
    inputs = random_inputs(block, seed)
    assert error(block, inputs, call(kernel, program, inputs, block.parameters, shift)) <= 1


@pytest.mark.parametrize(("kinds", "seed"), SEEDS)
def test_random_block(kinds, seed):
    rng = np.random.default_rng(seed)
    block = random_block(rng, kinds=kinds)
    planar = tuple(bool(rng.random() < 0.3) for _ in block.inputs)
    check(block, program_cpu(fold(block), any_plan(rng, block), f"random_{seed}", planar), seed)


@pytest.mark.parametrize(
    ("kinds", "seed"), [*((ALL_KINDS, n) for n in range(100, 130)), *((CPU_KINDS, n) for n in range(130, 145))]
)
def test_random_block_among_the_channels_of_wider_images(kinds, seed):
    rng = np.random.default_rng(seed)
    block = random_block(rng, kinds=kinds)
    check(block, into_slots(program_cpu(fold(block), any_plan(rng, block), f"random_{seed}"), rng), seed)


@pytest.mark.parametrize("seed", range(200, 220))
def test_random_block_for_any_batch(seed):
    """One kernel for several batches; the interpreter runs the same program."""
    rng = np.random.default_rng(seed)
    block = replace(random_block(rng, kinds=ALL_KINDS), any_batch=True)
    planar = tuple(bool(rng.random() < 0.3) for _ in block.inputs)
    program = program_cpu(fold(block), any_plan(rng, block), f"random_{seed}", planar)
    kernel = compile_programs([program])[program.name]
    for batch in (1, 3, 2):
        images = replace(block, batch=batch)
        inputs = random_inputs(images, seed)
        actual = call(kernel, replace(program, batch=batch), inputs, block.parameters)
        assert error(images, inputs, actual) <= 1
        if not any(planar):
            assert error(images, inputs, interpret(program, inputs, block.parameters)) <= 1


@pytest.mark.parametrize("make", cpu_programs.PROGRAMS)
def test_program_by_hand(make):
    check(*make(), 1)


def inverted_residual() -> tuple[Block, Program]:
    """Expand, depthwise, project and add, shared by the hidden channels."""
    stages = (
        Conv("expand", (0,), 64, Window()),
        Activation("relu6", (1,), RELU6),
        Depthwise("dw", (2,), PAD1),
        Activation("relu6", (3,), RELU6),
        Conv("project", (4,), 24, Window()),
        Add("add", (5, 0)),
    )
    block = Block((ImageShape(7, 7, 24),), stages).with_random_parameters(4)
    tilings = (UnitTiling(7, 2), UnitTiling(7, 1), UnitTiling(7, 2))
    return block, program_cpu(fold(block), CpuPlan("channels", 2, 7, tilings, chunk=16), "split")


def basic_block() -> tuple[Block, Program]:
    """Two 3x3 convolutions with a projection, a planar input, filter-row slices, two bands."""
    stages = (
        Conv("conv1", (0,), 16, Window(3, 3, 2, 2, 1, 1, 1, 1, 1, 1)),
        Activation("relu", (1,), RELU),
        Conv("conv2", (2,), 16, PAD1),
        Conv("shortcut", (0,), 16, Window(1, 1, 2, 2)),
        Add("add", (3, 4)),
        Activation("relu", (5,), RELU),
    )
    block = Block((ImageShape(11, 7, 6),), stages).with_random_parameters(5)
    tilings = (UnitTiling(2, 2, prefetch=True), UnitTiling(4, 1, filter_rows=True))
    return block, program_cpu(fold(block), CpuPlan("rows", 2, 2, tilings), "basic", (True,))


def in_rows(block: Block, rows: int = 2, tasks: int = 1, lanes: int = 16) -> tuple[Block, Program]:
    """A block's program in bands and steps of rows."""
    folded = by_rows(fold(block))
    units = tuple(UnitTiling(3, 2) for _ in folded.units)
    return block, program_cpu(folded, CpuPlan("rows", tasks, rows, units, lanes=lanes), block.name)


FRAMED = (
    anti_aliased(11, 9, 12, "reflect", batch=2),
    anti_aliased(9, 12, 20, "edge"),
    response(7, 5, 20, 44, batch=2),
)
WHOLE = (convnext, squeeze_excite, pre_activation, two_groupings)
GATED = (squeeze_excite, strided_gate, gated_bottleneck, gated_groups, gate_around)


def in_shares(block: Block, phase: int = 0) -> tuple[Block, Program]:
    """A gated block of which one phase is shared by the channels, in steps of rows."""
    folded = by_rows(fold(block))
    units = tuple(UnitTiling(3, 2) for _ in folded.units)
    plan = CpuPlan("rows", 2, 3, units, lanes=4, by_channels=(phase,))
    return block, program_cpu(folded, plan, f"{block.name}_shares")


def shared_gate() -> tuple[Block, Program]:
    return in_shares(squeeze_excite())


def banded_gate() -> tuple[Block, Program]:
    return in_rows(squeeze_excite(), tasks=3)


@pytest.mark.parametrize("lanes", [4, 16])
@pytest.mark.parametrize("width", [4, 8, 16, 24, 32])
def test_group_widths(width, lanes):
    """Narrow groups share vectors, wide ones are swept alone; stride, dilation and uneven padding."""
    window = Window(3, 3, 2, 1, 1, 2, 1, 2, 0, 1)
    stage = Grouped("conv", (0,), 3 * width, 3, window)
    block = Block((ImageShape(9, 7, 3 * width),), (stage, Activation("relu", (1,), RELU)), batch=2)
    check(*in_rows(block.with_random_parameters(width), tasks=2, lanes=lanes), 1)


def test_pixels_one_page_apart_are_moved_apart():
    """A ring of 1024 channels has a pitch of its own."""
    stages = (Conv("expand", (0,), 1024, Window()), Conv("project", (1,), 8, PAD1))
    block = Block((ImageShape(3, 4, 8),), stages).with_random_parameters(7)
    _, program = in_rows(block, rows=1)
    assert [tile.pitch - tile.channels for tile in program.tiles] == [16]
    check(block, program, 1)


@pytest.mark.parametrize("make", dict.fromkeys((*WHOLE, *GATED)))
@pytest.mark.parametrize("tasks", [1, 3])
def test_whole_block(make, tasks):
    check(*in_rows(make(batch=2), tasks=tasks), 1)


@pytest.mark.parametrize(("make", "phase"), [(squeeze_excite, 0), (strided_gate, 0), (gated_bottleneck, 2)])
def test_phases_in_shares_of_channels(make, phase):
    block, program = in_shares(make(batch=3), phase)
    check(block, program, 1)
    inputs = random_inputs(block, 1)
    assert error(block, inputs, interpret(program, inputs, block.parameters)) <= 1


@pytest.mark.parametrize("tasks", [1, 2])
def test_phases_for_any_batch(tasks):
    block, program = in_rows(replace(squeeze_excite(batch=2), any_batch=True), tasks=tasks)
    kernel = compile_programs([program])[program.name]
    for batch in (1, 3):
        images = replace(block, batch=batch)
        inputs = random_inputs(images, batch)
        assert error(images, inputs, call(kernel, replace(program, batch=batch), inputs, block.parameters)) <= 1


def without(nodes: list[Node], dropped: Node) -> list[Node]:
    """Nodes without one instruction, wherever it stands."""
    kept: list[Node] = []
    for node in nodes:
        if isinstance(node, Loop | Pixels):
            kept.append(replace(node, body=without(node.body, dropped)))
        elif node is not dropped:
            kept.append(node)
    return kept


@pytest.mark.parametrize(
    "make", [inverted_residual, basic_block, shared_gate, banded_gate, *cpu_programs.PROGRAMS, *WHOLE]
)
def test_every_instruction_counts(make):
    """Whichever instruction is deleted, the result is wrong: the lowering takes nothing for granted."""
    block, program = in_rows(make()) if make in WHOLE else make()
    mutants = [
        replace(program, name=f"{program.name}_{n}", body=without(program.body, instruction))
        for n, instruction in enumerate(program.instructions())
    ]
    kernels = compile_programs([program, *mutants], poison=True)
    inputs = random_inputs(block, 2)
    assert error(block, inputs, call(kernels[program.name], program, inputs, block.parameters)) <= 1
    for mutant, instruction in zip(mutants, program.instructions(), strict=True):
        result = call(kernels[mutant.name], mutant, inputs, block.parameters)
        assert not error(block, inputs, result) <= 1, f"{instruction} can go"


@pytest.mark.parametrize("filter_rows", [False, True])
def test_shares_of_output_channels(filter_rows):
    block = replace(cpu_programs.conv_block(ImageShape(7, 7, 24), 96, PAD1), batch=2)
    tiling = UnitTiling(7, 2, prefetch=True, filter_rows=filter_rows)
    check(block, program_cpu(fold(block), CpuPlan("panels", 2, 7, (tiling,)), "panels"), 1)


def test_window_wider_than_is_written_out():
    """A global pool of a wide image loops over the columns of its window."""
    shape = ImageShape(5, 37, 20)
    block = Block((shape,), (Pool("pool", (0,), "mean", Window(5, 37)), Conv("fc", (1,), 10, Window())))
    block = block.with_random_parameters(6)
    plan = CpuPlan("rows", 1, 1, (UnitTiling(1, 1),) * 3)
    check(block, program_cpu(fold(block), plan, "wide"), 1)


@pytest.mark.parametrize("shift", [0, 1, 3])
def test_any_alignment(shift):
    check(*basic_block(), 3, shift)


@pytest.mark.parametrize("block", FRAMED, ids=[block.name for block in FRAMED])
@pytest.mark.parametrize("tasks", [1, 3])
def test_frames_slopes_and_lengths(block, tasks):
    check(*in_rows(replace(block, dtype="float32"), tasks=tasks), 1)
