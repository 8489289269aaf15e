"""Predicted time of CPU plans. The rates come from measurements of single kernels; see ``docs/decisions.md``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from blockfuse.plan.cost import Cost
from blockfuse.plan.cpu import CpuPlan
from blockfuse.plan.cpu_tiling import FLOAT, is_narrow, tile_cycles
from blockfuse.plan.device import Device
from blockfuse.plan.homes import Home, copied, homes
from blockfuse.plan.phases import Phase, by_rows, phases
from blockfuse.plan.row_span import RowSpan
from blockfuse.plan.units import Activate, Folded
from blockfuse.stages import ImageShape

# Of the cycles counted, once data is near.
_EFFICIENCY = {"contract": 0.95, "grouped": 0.85, "depthwise": 0.70, "pool": 0.25}
_PER_VECTOR = {"norm": 7.0, "border": 2.0, "map": 2.0}  # cycles
_EPILOGUE = {"sigmoid": 7.0, "silu": 7.0, "tanh": 8.0, "gelu": 8.0, "gelu_tanh": 8.0}  # cycles per vector
_STEP_SECONDS = 0.2e-6  # row bounds and loop set-up, per unit and step


@dataclass(frozen=True)
class _Part:
    """A phase under a plan.

    Attributes:
        phase: The phase.
        shares: Shares of the channels that its tasks are; 1 where they are bands.
        tasks: Tasks for one image.
        together: Images whose tasks run at the same time.
        rows: Rows of a step.
        steps: Steps of a task.
        used: Cores at work.
        band: Rows of a task.
    """

    phase: Phase
    shares: int
    tasks: int
    together: int
    rows: int
    steps: int
    used: int
    band: int

    @property
    def rounds(self) -> float:
        """Time of the busiest core over the mean."""
        tasks = self.tasks * self.together
        return -(-tasks // self.used) / (tasks / self.used)


def predict(folded: Folded, plan: CpuPlan, device: Device) -> Cost:
    """Predicted cost of a plan: the largest of arithmetic, cache and memory time, plus what starting tasks takes."""
    folded = by_rows(folded)
    batch, out = folded.block.batch, folded.shapes[-1]
    parts = _parts(folded, plan, device)
    places = homes(folded, [part.phase for part in parts], plan.tasks)
    work = done = arithmetic = cache = overhead = 0.0
    local = 0
    for number, part in enumerate(parts):
        cycles = 0.0
        for index in part.phase.units:
            repeat = _recompute(part, folded.value(index), folded.units[index].shape)
            work += folded.operations(index) * batch
            done += folded.operations(index) * batch * repeat
            cycles += _unit_cycles(folded, index, plan, part, device, places) * repeat
        arithmetic += cycles * batch / device.clock / part.used * part.rounds
        moved, held = _cache_seconds(folded, plan, device, part, is_first=number == 0)
        cache, local = cache + moved, max(local, held)
        overhead += _STEP_SECONDS * part.steps * part.tasks * batch * _sweeps(folded, part.phase, places) / part.used
        overhead += device.launch_seconds * (batch // part.together if part.tasks > 1 else number == 0)
    memory = _weight_bytes(folded, range(len(folded.units))) / device.memory_bandwidth
    if plan.mode == "channels":
        partial = 2 * out.elements * FLOAT * (_trips(folded, plan) + 1)  # read and written on every trip, and once more
        overhead += device.launch_seconds + partial * plan.tasks / device.local_bandwidth
    seconds = arithmetic + cache + 0.5 * memory + overhead
    bound = max((arithmetic, "arithmetic"), (cache, "cache"), (memory, "memory"))[1]
    recompute = done / work if work else 1.0
    return Cost(int(work), recompute, folded.block.global_bytes, local, seconds, bound)


def _parts(folded: Folded, plan: CpuPlan, device: Device) -> list[_Part]:
    """The phases, with how a plan divides them."""
    found, batch = phases(folded), folded.block.batch
    together = batch if len(found) == 1 or plan.tasks == 1 else 1
    parts = []
    for number, phase in enumerate(found):
        tasks = 1 if len(found) > 1 and phase.height == 1 else plan.tasks
        shares = tasks if number in plan.by_channels else 1
        band = -(-phase.height // (tasks // shares)) if plan.mode == "rows" else phase.height
        rows = min(plan.rows, band)
        used = min(device.cores, tasks * together)
        parts.append(_Part(phase, shares, tasks, together, rows, -(-band // rows), used, band))
    return parts


def _sweeps(folded: Folded, phase: Phase, places: Mapping[int, Home]) -> int:
    """Sweeps over rows of a phase: one per unit, and one per copy that joins need."""
    units = [index for index in phase.units if not folded.units[index].is_join]
    return len(units) + sum(len(list(copied(folded, places, index))) for index in phase.units)


def _trips(folded: Folded, plan: CpuPlan) -> int:
    """How often a task of ``channels`` mode goes through its chunks."""
    return folded.units[0].shape.channels // (plan.tasks * plan.chunk) if plan.mode == "channels" else 1


def _unit_cycles(
    folded: Folded, index: int, plan: CpuPlan, part: _Part, device: Device, places: Mapping[int, Home]
) -> float:
    """Cycles of one core for all of a unit, for one image, with its data in the nearest cache."""
    unit, tiling = folded.units[index], plan.units[index]
    vectors = unit.shape.elements / device.lanes
    cycles = vectors * sum(_EPILOGUE.get(s.function.kind, 0) for s in unit.epilogue if isinstance(s, Activate))
    match unit.kind:
        case "concat" | "slice":
            values = [value for value, _ in copied(folded, places, index)]
            moved = sum(min(folded.shapes[value].elements, unit.shape.elements) for value in values)
            return moved / device.lanes * _PER_VECTOR["map"]
        case "norm" | "border" | "map":
            return cycles + vectors * _PER_VECTOR[unit.kind]
        case "pool":
            return cycles + unit.terms[0].window.taps * vectors / (2 * _EFFICIENCY["pool"])
        case "contract":
            return cycles + _contract_cycles(folded, index, plan, part.shares, device)
    if unit.kind == "depthwise" or is_narrow(folded, index, device.lanes):
        return cycles + folded.depth(index) * vectors / (2 * _EFFICIENCY[unit.kind])
    width, share = unit.shape.width, unit.shape.channels // unit.groups
    row = tile_cycles(width, share, device.lanes, folded.depth(index), tiling.pixels, tiling.vectors)
    return cycles + row * unit.shape.height * unit.groups / _EFFICIENCY["grouped"]


def _contract_cycles(folded: Folded, index: int, plan: CpuPlan, shares: int, device: Device) -> float:
    unit, tiling = folded.units[index], plan.units[index]
    shape, depth = unit.shape, folded.depth(index)
    channels, repeats = shape.channels // shares, shares
    if plan.mode == "panels":
        channels, repeats = channels // plan.tasks, plan.tasks
    if plan.mode == "channels":
        repeats = shape.channels // plan.chunk if index == 0 else folded.units[0].shape.channels // plan.chunk
        channels, depth = (plan.chunk, depth) if index == 0 else (channels, plan.chunk)
    row = tile_cycles(shape.width, channels, device.lanes, depth, tiling.pixels, tiling.vectors)
    return row * shape.height * repeats / _EFFICIENCY["contract"]


def _recompute(part: _Part, value: int, shape: ImageShape) -> float:
    """Rows of a value that all bands make together, over its rows."""
    needed = part.phase.spans[value]
    if part.band == part.phase.height or needed == RowSpan():
        return 1.0
    return max(1.0, part.tasks * min(shape.height, needed.alive(part.band)) / shape.height)


def ring_bytes(folded: Folded, phase: Phase, rows: int, chunk: int = 0, shares: int = 1) -> int:
    """Bytes of the rings of a phase's values, for so many of its rows; those that outlive it are not among them."""
    total = 0
    units = [index for index in phase.units if not folded.units[index].is_join]  # most joins hold nothing of their own
    for value in set(map(folded.value, units)) - phase.kept - {len(folded.shapes) - 1}:
        shape = folded.shapes[value]
        held = shape.height if chunk else min(shape.height, phase.spans[value].alive(rows))
        total += held * shape.width * (chunk or shape.channels // shares) * FLOAT
    return total


def kept_bytes(folded: Folded, phase: Phase) -> int:
    """Bytes of what a phase leaves to later ones, for one image."""
    return sum(folded.shapes[value].elements for value in phase.kept) * FLOAT


def _cache_seconds(folded: Folded, plan: CpuPlan, device: Device, part: _Part, *, is_first: bool) -> tuple[float, int]:
    """Time to move what does not stay in a core's own cache, and the bytes that should."""
    batch, tasks = folded.block.batch, part.tasks * folded.block.batch
    weights = _weight_bytes(folded, part.phase.units)
    rings = ring_bytes(folded, part.phase, part.rows, plan.chunk, part.shares)
    per_core = device.cache_bandwidth / device.cores
    if plan.mode != "rows":
        streamed = weights // plan.tasks * tasks
    else:
        resident = weights // part.shares + rings <= 0.75 * device.local_bytes
        streamed = weights // part.shares * (part.used if resident else part.steps * tasks)
    steps = tasks * part.steps
    spilled = 2 * rings * steps if rings > 0.75 * device.local_bytes else 0
    images = _image_bytes(folded, part.phase, is_first=is_first) * batch
    return (streamed + spilled + images) / (per_core * part.used) * 0.5, rings


def _image_bytes(folded: Folded, phase: Phase, *, is_first: bool) -> int:
    """Bytes of the images that a phase reads from outside and makes for outside."""
    inside = set(map(folded.value, phase.units))
    read = {term.source for index in phase.units for term in folded.units[index].terms} - inside
    earlier = {value for value in read if value >= folded.input_count} | ({0} if is_first else set())
    made = {len(folded.shapes) - 1} & inside
    return sum(folded.shapes[value].elements for value in earlier | made) * FLOAT + kept_bytes(folded, phase)


def _weight_bytes(folded: Folded, units: Sequence[int]) -> int:
    return sum(folded.depth(index) * folded.units[index].shape.channels for index in units) * FLOAT
