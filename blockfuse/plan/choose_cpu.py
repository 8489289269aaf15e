"""Candidate CPU plans for a block, and what each is predicted to cost.

The rules and rates come from measurements of single kernels; see ``docs/decisions.md``.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from blockfuse.plan.cost import Cost
from blockfuse.plan.cpu import CpuPlan, UnitTiling
from blockfuse.plan.cpu_cost import kept_bytes, predict, ring_bytes
from blockfuse.plan.cpu_tiling import unit_tiling
from blockfuse.plan.device import Device
from blockfuse.plan.infeasible import Infeasible
from blockfuse.plan.phases import Phase, by_rows, is_by_channels, phases
from blockfuse.plan.units import Folded

_ROWS_PER_STEP = (1, 2, 4, 7, 14)


@dataclass(frozen=True)
class Candidate:
    """A plan and its predicted cost."""

    plan: CpuPlan
    cost: Cost


def plan_cpu(folded: Folded, device: Device, planar: tuple[bool, ...] = ()) -> list[Candidate] | Infeasible:
    """Plans for running the whole block as one kernel, fastest predicted first.

    Args:
        folded: The block.
        device: Where it runs.
        planar: For each input, whether memory holds it as N, C, H, W.
    """
    folded = by_rows(folded)
    problem = _obstacle(folded)
    if problem is not None:
        return problem
    plans = dict.fromkeys(_plans(folded, device, planar))
    candidates = [Candidate(plan, predict(folded, plan, device)) for plan in plans]
    return sorted(candidates, key=lambda candidate: candidate.cost.seconds)


def cost_cpu(folded: Folded, plan: CpuPlan, device: Device) -> Cost:
    """What one of these plans is predicted to cost.

    Raises:
        ValueError: It is none for this block.
    """
    folded = by_rows(folded)
    if len(plan.units) != len(folded.units):
        raise ValueError(f"{plan} is for another block")
    return predict(folded, plan, device)


def _obstacle(folded: Folded) -> Infeasible | None:
    """The largest rings of rows, and what phases leave to each other, must fit what a task may allocate."""
    found, available = phases(folded), 1 << 30
    need = sum(ring_bytes(folded, phase, 1) + kept_bytes(folded, phase) for phase in found)
    return Infeasible("buffer memory", need, available, remedy="cut the block") if need > available else None


def _plans(folded: Folded, device: Device, planar: tuple[bool, ...]) -> Iterator[CpuPlan]:
    found = phases(folded)
    height = max(phase.height for phase in found)
    tilings = tuple(unit_tiling(folded, index, device) for index in range(len(folded.units)))
    if len(folded.units) == 1 and not any(planar):
        yield from _single_plans(folded, device, tilings[0])
    for wanted in {min(-(-device.cores // folded.block.batch), height), 1, device.cores}:
        band = -(-height // min(wanted, height))
        bands = -(-height // band)
        for split in _splits(folded, found, bands, device.lanes):
            most = height if split else band
            for rows in {*(r for r in _ROWS_PER_STEP if r < most), most}:
                yield CpuPlan("rows", bands, rows, tilings, lanes=device.lanes, threads=device.cores, by_channels=split)
    if not any(planar):
        yield from _channel_plans(folded, device, tilings)


def _splits(folded: Folded, found: Sequence[Phase], tasks: int, lanes: int) -> Iterator[tuple[int, ...]]:
    """Any of the phases whose tasks may be shares of channels, of whole vectors each."""
    able = [
        number
        for number, phase in enumerate(found)
        if phase.height > 1
        and is_by_channels(folded, phase)
        and folded.units[phase.units[0]].shape.channels % (tasks * lanes) == 0
    ]
    most = len(able) if len(found) > 1 and tasks > 1 else 0
    for count in range(most + 1):
        yield from itertools.combinations(able, count)


def _single_plans(folded: Folded, device: Device, tiling: UnitTiling) -> Iterator[CpuPlan]:
    """A unit by itself: bands recompute nothing, so there may be more of them than cores."""
    unit = folded.units[0]
    height = unit.shape.height
    for rows in (14, 8, 7, 4, 2, 1):
        if height % rows == 0 and (height // rows) * folded.block.batch % device.cores == 0:
            yield CpuPlan("rows", height // rows, rows, (tiling,), lanes=device.lanes, threads=device.cores)
    if unit.kind != "contract" or device.cores == 1:
        return
    for shares in (unit.shape.channels // (tiling.vectors * device.lanes), device.cores):
        if shares > 1 and unit.shape.channels % shares == 0:
            yield CpuPlan("panels", shares, height, (tiling,), lanes=device.lanes, threads=device.cores)


def _channel_plans(folded: Folded, device: Device, tilings: tuple[UnitTiling, ...]) -> Iterator[CpuPlan]:
    """Shares of the hidden channels of expand - depthwise - project, for small images on several cores."""
    if [unit.kind for unit in folded.units] != ["contract", "depthwise", "contract"] or device.cores == 1:
        return
    expand, depthwise, project = folded.units
    plain = all(len(u.terms) == 1 for u in folded.units) and not (expand.added or depthwise.added)
    chained = depthwise.terms[0].source == folded.value(0) and project.terms[0].source == folded.value(1)
    inside = any(value >= folded.input_count for value in project.added)
    if folded.block.batch != 1 or not (plain and chained) or inside or not project.terms[0].window.is_pointwise:
        return
    hidden = expand.shape.channels
    for chunk in range(device.lanes, hidden // device.cores + 1, device.lanes):
        trips = hidden // (device.cores * chunk)
        if trips * device.cores * chunk == hidden:
            yield CpuPlan("channels", device.cores, project.shape.height, tilings, chunk, device.lanes, device.cores)
