"""What a plan for a GPU needs of an SM: found out from a draft of its program, or bounded without one."""

from __future__ import annotations

from blockfuse.plan.cuda import CudaPlan
from blockfuse.plan.footprint import Footprint
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
    for the largest item; what it makes is there, too, unless that is sums in registers.
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
        made = _tile(folded, plan, prints, folded.value(index)) if unit.kind != "contract" else 0
        tile = max(tile, *(made + _tile(folded, plan, prints, term.source) for term in unit.terms))
    return plan.depth * slot + tile


def _tile(folded: Folded, plan: CudaPlan, prints: list[Footprint], value: int) -> int:
    """Elements of a value's tile in shared memory, without padding; 0 where it is in registers or in the stream."""
    home, held = plan.homes[value], prints[value]
    if home.registers or (value < folded.input_count and not home.whole):
        return 0
    is_whole = home.whole and value != len(folded.shapes) - 1
    channels = stored_channels(folded, plan, value) if is_whole else home.chunk
    return held.rows.size * held.cols.size * channels
