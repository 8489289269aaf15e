"""What a plan for a GPU needs of an SM: found out from a draft of its program, or bounded without one."""

from __future__ import annotations

from blockfuse.dtypes import item_size
from blockfuse.machine.occupancy import CTA_SHARED, ctas_per_sm
from blockfuse.plan.cuda import CudaPlan
from blockfuse.plan.cuda_cost import cta_count
from blockfuse.plan.device import Device
from blockfuse.plan.stack import over_stacks
from blockfuse.plan.units import Folded
from blockfuse.program.cuda import draft_cuda
from blockfuse.program.cuda_tiles import footprints_of
from blockfuse.program.registers import live_registers

OTHER_REGISTERS = 56  # addresses, loop variables, what the compiler keeps


def needs(folded: Folded, plan: CudaPlan) -> tuple[int, int]:
    """Elements of shared memory, and registers of a thread, that the program of a plan needs."""
    program = draft_cuda(folded, plan, "candidate")
    return program.arena, live_registers(program)


def resident(folded: Folded, plan: CudaPlan, device: Device, elements: int, live: int) -> int:
    """CTAs that an SM holds at once, and has.

    Args:
        folded: The block.
        plan: How it is run.
        device: What it is planned for.
        elements: Of shared memory, that a CTA needs.
        live: Registers of a thread, beside those that the compiler needs.
    """
    each = -(-cta_count(over_stacks(folded, plan.images), plan) // device.cores)
    shared_bytes = elements * item_size(folded.block.dtype)
    sizes = {"sm_threads": device.resident_threads, "sm_shared": device.local_bytes + CTA_SHARED}
    return max(1, min(each, ctas_per_sm(32 * plan.warps, live + OTHER_REGISTERS, shared_bytes, **sizes)))


def most_resident(folded: Folded, plan: CudaPlan, device: Device) -> int:
    """CTAs that an SM might hold at once, if they needed little more than slots for filters and what they multiply."""
    return resident(folded, plan, device, _about(over_stacks(folded, plan.images), plan), 0)


def least_elements(folded: Folded, plan: CudaPlan) -> int:
    """Elements of shared memory without which there is no program for a plan: those of the largest tile, or item."""
    folded = over_stacks(folded, plan.images)
    filters = [
        unit.terms[0].window.taps * plan.homes[folded.value(index)].chunk
        for index, unit in enumerate(folded.units)
        if unit.kind == "depthwise"
    ]
    return max([*_tiles(folded, plan).values(), *filters], default=0)


def _about(folded: Folded, plan: CudaPlan) -> int:
    """Elements of the slots for some filter and of the tile that is multiplied with it, of those that have most."""
    tiles = _tiles(folded, plan)
    most = max(tiles.values(), default=0)
    for index, unit in enumerate(folded.units):
        chunk = plan.homes[folded.value(index)].chunk
        items = [slices.taps * slices.ks * chunk for slices in plan.units[index].slices]
        items = [unit.terms[0].window.taps * chunk] if unit.kind == "depthwise" else items
        held = [tiles.get(term.source, 0) for term in unit.terms]
        most = max([most, *(plan.depth * item + tile for item, tile in zip(items, held, strict=False))])
    return most


def _tiles(folded: Folded, plan: CudaPlan) -> dict[int, int]:
    """Elements of the tiles that units read, less what layouts add to them; without those that arrive with filters."""
    prints = footprints_of(folded, plan)
    read = {term.source for unit in folded.units for term in unit.terms} - set(folded.block.partial)
    return {
        value: prints[value].rows.size
        * prints[value].cols.size
        * (folded.shapes[value].channels if home.whole else home.chunk)
        for value, home in enumerate(plan.homes[:-1])
        if value in read and not home.registers and not home.by_taps
    }
