"""The meaning of CPU tile programs: random blocks under random plans, and what every instruction is good for."""

import numpy as np
import pytest

from blockfuse.block import Block, reference
from blockfuse.errors import InternalError
from blockfuse.machine import Load, Loop, Node, Pixels, Program, Step, Tile
from blockfuse.plan.cpu import CpuPlan
from blockfuse.plan.cpu_tiling import unit_tiling
from blockfuse.plan.device import cpu_device
from blockfuse.plan.fold import Folded, fold
from blockfuse.plan.phases import by_rows
from blockfuse.program.cpu import program_cpu
from blockfuse.program.interpret import interpret
from blockfuse.target import parse_target
from tests.gated_blocks import (
    convnext,
    gate_around,
    gated_bottleneck,
    pre_activation,
    squeeze_excite,
    two_groupings,
)
from tests.random_blocks import ALL_KINDS, CPU_KINDS, KINDS, random_block
from tests.residual_blocks import basic, mbconv

DEVICE = cpu_device(parse_target("cpu:avx512", 2))
EXACT = 1e-9


def inputs_of(block: Block, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((block.batch, s.height, s.width, s.channels)) for s in block.inputs]


def plan_for(folded: Folded, mode: str = "rows", tasks: int = 2, rows: int = 2, chunk: int = 0) -> CpuPlan:
    folded = by_rows(folded)
    tilings = tuple(unit_tiling(folded, index, DEVICE) for index in range(len(folded.units)))
    return CpuPlan(mode, tasks, rows, tilings, chunk)


def error(program: Program, block: Block) -> float:
    """Largest difference from the reference over its largest value; infinite where something is missing."""
    inputs = inputs_of(block)
    wanted = reference(block, inputs)[-1]
    difference = np.abs(interpret(program, inputs, block.parameters) - wanted).max()
    return float(np.nan_to_num(difference / max(np.abs(wanted).max(), 1e-12), nan=np.inf))


SEEDS = [*((KINDS, n) for n in range(40)), *((ALL_KINDS, n) for n in range(60)), *((CPU_KINDS, n) for n in range(80))]


@pytest.mark.parametrize(("kinds", "seed"), SEEDS)
def test_random_blocks_under_random_plans(kinds: tuple[str, ...], seed: int):
    rng = np.random.default_rng(seed)
    block = random_block(rng, kinds=kinds)
    folded = fold(block)
    height = block.output.height
    tasks = int(rng.integers(1, height + 1)) if height > 1 else 1
    planar = tuple(bool(rng.integers(2)) for _ in block.inputs)
    program = program_cpu(folded, plan_for(folded, tasks=min(tasks, 4), rows=int(rng.integers(1, 6))), "random", planar)
    assert error(program, block) < EXACT


def test_shares_of_hidden_channels():
    block = mbconv(9, 7, 24, 96)
    program = program_cpu(fold(block), plan_for(fold(block), "channels", tasks=3, chunk=16), "shares")
    assert error(program, block) < EXACT


def remove(nodes: list[Node], target: object) -> list[Node]:
    """The nodes without one instruction."""
    kept: list[Node] = []
    for node in nodes:
        if node is target:
            continue
        if isinstance(node, Loop):
            node = Loop(node.var, node.count, node.kind, remove(node.body, target))  # noqa: PLW2901
        elif isinstance(node, Pixels):
            node = Pixels(node.region, node.pixels, node.vectors, remove(node.body, target))  # noqa: PLW2901
        kept.append(node)
    return kept


@pytest.mark.parametrize(
    ("block", "plan"),
    [
        (basic(9, 11, 16, 24, 2), {"rows": 2}),
        (mbconv(9, 7, 24, 96), {"mode": "channels", "tasks": 3, "chunk": 16}),
        *((make(), {"tasks": 1}) for make in (convnext, squeeze_excite, pre_activation, two_groupings)),
        *((make(), {"tasks": 3}) for make in (squeeze_excite, gated_bottleneck, gate_around)),
    ],
)
def test_every_instruction_counts(block: Block, plan: dict):
    program = program_cpu(fold(block), plan_for(fold(block), **plan), "whole", (True,) if "rows" in plan else ())
    for instruction in program.instructions():
        shorter = Program(**{**vars(program), "body": remove(program.body, instruction)})
        try:
            broken = error(shorter, block)
        except InternalError:
            continue
        assert broken > 1e-3, str(instruction)


def test_a_ring_too_short_is_noticed():
    block = basic(9, 11, 16)
    program = program_cpu(fold(block), plan_for(fold(block), tasks=1, rows=2), "short")
    ring: Tile = program.tiles[0]
    assert ring.ring
    ring.rows -= 1
    assert error(program, block) > 1e-3


def test_reading_what_a_tile_does_not_hold_is_an_error():
    block = basic(9, 11, 16)
    program = program_cpu(fold(block), plan_for(fold(block), tasks=1, rows=9), "outside")
    program.tiles[0].channels -= 1
    with pytest.raises(InternalError, match="not all in it"):
        error(program, block)


def test_programs_print():
    block = basic(9, 11, 16)
    program = program_cpu(fold(block), plan_for(fold(block), tasks=1, rows=2), "printed", (True,))
    text = str(program)
    for instruction in program.instructions():
        assert str(instruction).split("  ")[0].strip() in text
    assert any(isinstance(node, Load) for node in program.instructions())
    assert not any(isinstance(node, Step) for node in program.walk())
