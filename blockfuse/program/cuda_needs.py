"""What a plan for a GPU needs of an SM: found out from a draft of its program, or bounded without one."""

from __future__ import annotations

from blockfuse.plan.cuda import CudaPlan
from blockfuse.plan.stack import over_stacks
from blockfuse.plan.units import Folded
from blockfuse.program.cuda import draft_cuda
from blockfuse.program.cuda_tiles import footprints_of, stored_channels
from blockfuse.program.registers import live_registers


def needs(folded: Folded, plan: CudaPlan) -> tuple[int, int]:
    """Elements of shared memory, and registers of a thread, that the program of a plan needs."""
    program = draft_cuda(folded, plan, "candidate")
    return program.arena, live_registers(program)


def least_elements(folded: Folded, plan: CudaPlan) -> int:
    """Elements of shared memory without which there is no program for a plan.

    While a unit that reads weights works, what it reads is there, and so are all slots of the stream, each with room
    for the largest item.
    """
    folded = over_stacks(folded, plan.images)
    prints, slot, tile = footprints_of(folded, plan), 0, 0
    for index, (unit, chosen) in enumerate(zip(folded.units, plan.units, strict=True)):
        if unit.kind not in {"contract", "depthwise", "grouped"}:
            continue
        chunk = plan.homes[folded.value(index)].chunk
        taps = unit.terms[0].window.taps
        items = [slices.taps * slices.ks for slices in chosen.slices] if unit.kind == "contract" else [taps]
        slot = max(slot, *(item * chunk for item in items))
        for source in (term.source for term in unit.terms):
            home, held = plan.homes[source], prints[source]
            if home.registers or (source < folded.input_count and not home.whole):
                continue
            channels = stored_channels(folded, plan, source) if home.whole else home.chunk
            tile = max(tile, held.rows.size * held.cols.size * channels)
    return plan.depth * slot + tile
