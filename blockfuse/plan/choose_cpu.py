"""Candidate CPU plans for a block, and what each is predicted to cost.

The rules and rates come from measurements of single kernels; see ``docs/decisions.md``.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from blockfuse.plan.cost import Cost, global_bytes
from blockfuse.plan.cpu import CpuPlan, UnitTiling
from blockfuse.plan.device import Device
from blockfuse.plan.fold import AddValue, Folded, Unit
from blockfuse.plan.infeasible import Infeasible
from blockfuse.plan.row_span import RowSpan, row_spans
from blockfuse.stages import ImageShape

_FLOAT = 4
_EFFICIENCY = {"contract": 0.95, "depthwise": 0.70, "pool": 0.25}  # of the cycles counted, once data is near
_STEP_SECONDS = 0.2e-6  # row bounds and loop set-up, per unit and step
_ROWS_PER_STEP = (1, 2, 4, 7, 14)
_LARGE_PANEL = 400_000  # bytes of one weight panel beyond which it is applied one filter row at a time


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
    problem = _obstacle(folded, planar)
    if problem:
        return problem
    plans = dict.fromkeys(_plans(folded, device, planar))
    candidates = [Candidate(plan, predict(folded, plan, device)) for plan in plans]
    return sorted(candidates, key=lambda candidate: candidate.cost.seconds)


def _obstacle(folded: Folded, planar: tuple[bool, ...]) -> Infeasible | None:
    """The largest rings of rows must fit what a task may allocate; there is no other limit on a CPU."""
    del planar
    spans = row_spans(folded)
    need = sum(_ring_bytes(folded, spans, 1))
    available = 1 << 30
    return Infeasible("buffer memory", need, available, remedy="cut the block") if need > available else None


def _plans(folded: Folded, device: Device, planar: tuple[bool, ...]) -> Iterator[CpuPlan]:
    height = folded.shapes[-1].height
    tilings = tuple(unit_tiling(folded, index, device) for index in range(len(folded.units)))
    per_image = -(-device.cores // folded.block.batch) if device.cores > folded.block.batch else 1
    if len(folded.units) == 1 and not any(planar):
        yield from _single_plans(folded, device, tilings[0])
    for wanted in {per_image, 1, device.cores}:
        band = -(-height // min(wanted, height))
        bands = -(-height // band)
        for rows in {*(r for r in _ROWS_PER_STEP if r < band), band}:
            yield CpuPlan("rows", bands, rows, tilings, lanes=device.lanes, threads=device.cores)
    if not any(planar):
        yield from _channel_plans(folded, device, tilings)


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
    inside = any(isinstance(step, AddValue) and step.value >= folded.input_count for step in project.epilogue)
    if folded.block.batch != 1 or not (plain and chained) or inside or not project.terms[0].window.is_pointwise:
        return
    hidden = expand.shape.channels
    for chunk in range(device.lanes, hidden // device.cores + 1, device.lanes):
        trips = hidden // (device.cores * chunk)
        if trips * device.cores * chunk == hidden:
            yield CpuPlan("channels", device.cores, project.shape.height, tilings, chunk, device.lanes, device.cores)


# ---- tiles -----------------------------------------------------------------------------------------------------------


def unit_tiling(folded: Folded, index: int, device: Device) -> UnitTiling:
    """The register tile of one unit.

    A tile of MR pixels and NR vectors keeps MR * NR sums, NR weights and a pixel in registers; per channel it takes
    max(MR NR, MR + NR) / 2 cycles (two multiply-adds or two loads per cycle), but no less than the latency of 4. A
    fully connected layer reads every weight once, so that memory decides: narrow panels with prefetch.
    """
    unit = folded.units[index]
    width, channels = unit.shape.width, unit.shape.channels
    if unit.kind == "pool":
        return UnitTiling(1, 1)
    if unit.kind == "depthwise":
        return UnitTiling(_depthwise_pixels(width, min(14, device.registers - 4)), 1)
    if unit.shape.pixels == 1:
        return UnitTiling(1, 4, prefetch=True)
    depth = sum(folded.shapes[t.source].channels * t.window.taps for t in unit.terms)
    options = [
        (mr, nr)
        for mr, nr in itertools.product(range(1, 15), range(1, 17))
        if mr * nr + nr + 1 <= device.registers and mr <= width
    ]
    pixels, vectors = min(options, key=lambda o: (_tile_cycles(width, channels, device.lanes, depth, *o), o[1]))
    panel_bytes = depth * vectors * device.lanes * _FLOAT
    kxk = all(term.window.r > 1 for term in unit.terms)
    sweeps = unit.shape.height * -(-width // pixels)
    prefetch = sweeps <= vectors * device.lanes and depth * channels * _FLOAT > device.local_bytes // 4
    return UnitTiling(pixels, vectors, prefetch, kxk and panel_bytes > _LARGE_PANEL)


def _tile_cycles(width: int, channels: int, lanes: int, depth: int, mr: int, nr: int) -> float:
    """Cycles for one row of pixels: sums over column tiles and panels, plus start and finish of every tile."""
    tiles = -(-width // mr)
    widths = [width // tiles + (1 if i < width % tiles else 0) for i in range(tiles)]
    widths = [max(widths)] * tiles
    vectors = _vector_count(channels, lanes)
    panels = [nr] * (vectors // nr) + ([vectors % nr] if vectors % nr else [])
    total = 0.0
    for m, n in itertools.product(widths, panels):
        total += depth * max(m * n / 2, (m + n) / 2, 4.0) + m * n + 4
    return total


def _vector_count(channels: int, lanes: int) -> int:
    """Vectors that hold the channels: whole ones, then one each of the powers of two that are left."""
    return channels // lanes + (channels % lanes).bit_count()


def _depthwise_pixels(width: int, limit: int) -> int:
    for pixels in (14, 7, 8, 10, 12, 6, 4):
        if pixels <= limit and width % pixels == 0:
            return pixels
    tiles = -(-width // limit)
    return -(-width // tiles)


# ---- prediction ------------------------------------------------------------------------------------------------------


def predict(folded: Folded, plan: CpuPlan, device: Device) -> Cost:
    """Predicted cost of a plan: the largest of arithmetic, cache and memory time, plus what starting tasks takes."""
    spans = row_spans(folded)
    batch, out = folded.block.batch, folded.shapes[-1]
    band = -(-out.height // plan.tasks) if plan.mode == "rows" else out.height
    rows = min(plan.rows, band)
    steps = -(-band // rows)
    tasks = plan.tasks * batch
    used = min(device.cores, tasks)
    rounds = -(-tasks // used) / (tasks / used)
    work = done = 0.0
    arithmetic = 0.0
    for index, unit in enumerate(folded.units):
        repeat = _recompute(spans[folded.value(index)], unit.shape, plan, band)
        work += folded.operations(index) * batch
        done += folded.operations(index) * batch * repeat
        arithmetic += _unit_cycles(folded, index, plan, device) * batch * repeat / device.clock
    arithmetic = arithmetic / used * rounds
    cache, local = _cache_seconds(folded, plan, device, spans, rows, steps * tasks, used)
    memory = _memory_seconds(folded, plan, device)
    overhead = device.launch_seconds + _STEP_SECONDS * steps * tasks * len(folded.units) / used
    if plan.mode == "channels":
        partial = (
            2 * out.elements * _FLOAT * (_trips(folded, plan) + 1)
        )  # read and written on every trip, and once more
        overhead += device.launch_seconds + partial * plan.tasks / device.local_bandwidth
    seconds = arithmetic + cache + 0.5 * memory + overhead
    bound = max((arithmetic, "arithmetic"), (cache, "cache"), (memory, "memory"))[1]
    recompute = done / work if work else 1.0
    return Cost(int(work), recompute, global_bytes(folded.block), local, seconds, bound)


def _trips(folded: Folded, plan: CpuPlan) -> int:
    """How often a task of ``channels`` mode goes through its chunks."""
    return folded.units[0].shape.channels // (plan.tasks * plan.chunk) if plan.mode == "channels" else 1


def _unit_cycles(folded: Folded, index: int, plan: CpuPlan, device: Device) -> float:
    """Cycles of one core for all of a unit, for one image, with its data in the nearest cache."""
    unit, tiling = folded.units[index], plan.units[index]
    shape = unit.shape
    taps = sum(term.window.taps for term in unit.terms)
    if unit.kind != "contract":
        rate = _EFFICIENCY[unit.kind] * 2 * device.lanes  # taps per cycle
        return taps * shape.elements / rate
    depth = sum(folded.shapes[term.source].channels * term.window.taps for term in unit.terms)
    channels, repeats = shape.channels, 1
    if plan.mode == "panels":
        channels, repeats = channels // plan.tasks, plan.tasks
    if plan.mode == "channels":
        repeats = shape.channels // plan.chunk if index == 0 else folded.units[0].shape.channels // plan.chunk
        channels, depth = (plan.chunk, depth) if index == 0 else (channels, plan.chunk)
    row = _tile_cycles(shape.width, channels, device.lanes, depth, tiling.pixels, tiling.vectors)
    return row * shape.height * repeats / _EFFICIENCY["contract"]


def _recompute(needed: RowSpan, shape: ImageShape, plan: CpuPlan, band: int) -> float:
    """Rows of a value that all bands make together, over its rows."""
    if plan.mode != "rows" or needed == RowSpan():
        return 1.0
    return max(1.0, plan.tasks * min(shape.height, needed.alive(band)) / shape.height)


def _ring_bytes(folded: Folded, spans: list[RowSpan], rows: int, chunk: int = 0) -> list[int]:
    """Bytes of the ring of each intermediate value."""
    sizes = []
    for index in range(len(folded.units) - 1):
        shape = folded.units[index].shape
        held = shape.height if chunk else min(shape.height, spans[folded.value(index)].alive(rows))
        sizes.append(held * shape.width * (chunk or shape.channels) * _FLOAT)
    return sizes


def _cache_seconds(
    folded: Folded, plan: CpuPlan, device: Device, spans: list[RowSpan], rows: int, steps: int, used: int
) -> tuple[float, int]:
    """Time to move what does not stay in a core's own cache, and the bytes that should."""
    weights = _weight_bytes(folded)
    rings = sum(_ring_bytes(folded, spans, rows, plan.chunk))
    per_core = device.cache_bandwidth / device.cores
    if plan.mode != "rows":
        weights //= plan.tasks
        streamed = weights * plan.tasks * folded.block.batch
    else:
        resident = weights + rings <= 0.75 * device.local_bytes
        streamed = weights * (used if resident else steps)
    spilled = 2 * rings * steps if rings > 0.75 * device.local_bytes else 0
    images = folded.block.inputs[0].elements + folded.shapes[-1].elements
    return (streamed + spilled + images * folded.block.batch * _FLOAT) / (per_core * used) * 0.5, rings


def _weight_bytes(folded: Folded) -> int:
    return sum(_unit_weight_bytes(folded, unit) for unit in folded.units)


def _unit_weight_bytes(folded: Folded, unit: Unit) -> int:
    if unit.kind == "pool":
        return 0
    per_output = sum(
        t.window.taps * (folded.shapes[t.source].channels if unit.kind == "contract" else 1) for t in unit.terms
    )
    return per_output * unit.shape.channels * _FLOAT


def _memory_seconds(folded: Folded, plan: CpuPlan, device: Device) -> float:
    """Time to read the weights from memory once: a network's weights rarely stay in the cache between two runs."""
    del plan
    return _weight_bytes(folded) / device.memory_bandwidth
