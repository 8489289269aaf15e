"""What a plan for a GPU needs of an SM: found out from a draft of its program, or bounded without one."""

from __future__ import annotations

from blockfuse.plan.cuda import CudaPlan
from blockfuse.plan.stack import over_stacks
from blockfuse.plan.units import Folded
from blockfuse.program.cuda import draft_cuda
from blockfuse.program.cuda_tiles import footprints_of
from blockfuse.program.registers import live_registers


def needs(folded: Folded, plan: CudaPlan) -> tuple[int, int]:
    """Elements of shared memory, and registers of a thread, that the program of a plan needs."""
    program = draft_cuda(folded, plan, "candidate")
    return program.arena, live_registers(program)


def least_elements(folded: Folded, plan: CudaPlan) -> int:
    """Elements of shared memory without which there is no program for a plan: those of the largest tile, or item."""
    folded = over_stacks(folded, plan.images)
    prints = footprints_of(folded, plan)
    read = {term.source for unit in folded.units for term in unit.terms}
    tiles = [
        prints[value].rows.size
        * prints[value].cols.size
        * (folded.shapes[value].channels if home.whole else home.chunk)
        for value, home in enumerate(plan.homes[:-1])
        if value in read and not home.registers and not home.by_taps and value not in folded.block.partial
    ]
    filters = [
        unit.terms[0].window.taps * plan.homes[folded.value(index)].chunk
        for index, unit in enumerate(folded.units)
        if unit.kind == "depthwise"
    ]
    return max([*tiles, *filters], default=0)
