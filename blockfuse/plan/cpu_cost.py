"""Predicted time of CPU plans. The rates come from measurements of single kernels; see ``docs/decisions.md``."""

from __future__ import annotations

from blockfuse.plan.cost import Cost
from blockfuse.plan.cpu import CpuPlan
from blockfuse.plan.cpu_tiling import FLOAT, is_narrow, tile_cycles
from blockfuse.plan.device import Device
from blockfuse.plan.row_span import RowSpan, row_spans
from blockfuse.plan.units import Activate, Folded
from blockfuse.stages import ImageShape

# Of the cycles counted, once data is near.
_EFFICIENCY = {"contract": 0.95, "grouped": 0.85, "depthwise": 0.70, "pool": 0.25}
_PER_VECTOR = {"norm": 7.0, "map": 2.0}  # cycles
_EPILOGUE = {"sigmoid": 7.0, "silu": 7.0, "tanh": 8.0, "gelu": 8.0, "gelu_tanh": 8.0}  # cycles per vector
_STEP_SECONDS = 0.2e-6  # row bounds and loop set-up, per unit and step


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
        partial = 2 * out.elements * FLOAT * (_trips(folded, plan) + 1)  # read and written on every trip, and once more
        overhead += device.launch_seconds + partial * plan.tasks / device.local_bandwidth
    seconds = arithmetic + cache + 0.5 * memory + overhead
    bound = max((arithmetic, "arithmetic"), (cache, "cache"), (memory, "memory"))[1]
    recompute = done / work if work else 1.0
    return Cost(int(work), recompute, folded.block.global_bytes, local, seconds, bound)


def _trips(folded: Folded, plan: CpuPlan) -> int:
    """How often a task of ``channels`` mode goes through its chunks."""
    return folded.units[0].shape.channels // (plan.tasks * plan.chunk) if plan.mode == "channels" else 1


def _unit_cycles(folded: Folded, index: int, plan: CpuPlan, device: Device) -> float:
    """Cycles of one core for all of a unit, for one image, with its data in the nearest cache."""
    unit, tiling = folded.units[index], plan.units[index]
    vectors = unit.shape.elements / device.lanes
    cycles = vectors * sum(_EPILOGUE.get(s.function.kind, 0) for s in unit.epilogue if isinstance(s, Activate))
    match unit.kind:
        case "norm" | "map":
            return cycles + vectors * _PER_VECTOR[unit.kind]
        case "pool":
            return cycles + unit.terms[0].window.taps * vectors / (2 * _EFFICIENCY["pool"])
        case "contract":
            return cycles + _contract_cycles(folded, index, plan, device)
    if unit.kind == "depthwise" or is_narrow(folded, index, device.lanes):
        return cycles + folded.depth(index) * vectors / (2 * _EFFICIENCY[unit.kind])
    width, share = unit.shape.width, unit.shape.channels // unit.groups
    row = tile_cycles(width, share, device.lanes, folded.depth(index), tiling.pixels, tiling.vectors)
    return cycles + row * unit.shape.height * unit.groups / _EFFICIENCY["grouped"]


def _contract_cycles(folded: Folded, index: int, plan: CpuPlan, device: Device) -> float:
    unit, tiling = folded.units[index], plan.units[index]
    shape, depth = unit.shape, folded.depth(index)
    channels, repeats = shape.channels, 1
    if plan.mode == "panels":
        channels, repeats = channels // plan.tasks, plan.tasks
    if plan.mode == "channels":
        repeats = shape.channels // plan.chunk if index == 0 else folded.units[0].shape.channels // plan.chunk
        channels, depth = (plan.chunk, depth) if index == 0 else (channels, plan.chunk)
    row = tile_cycles(shape.width, channels, device.lanes, depth, tiling.pixels, tiling.vectors)
    return row * shape.height * repeats / _EFFICIENCY["contract"]


def _recompute(needed: RowSpan, shape: ImageShape, plan: CpuPlan, band: int) -> float:
    """Rows of a value that all bands make together, over its rows."""
    if plan.mode != "rows" or needed == RowSpan():
        return 1.0
    return max(1.0, plan.tasks * min(shape.height, needed.alive(band)) / shape.height)


def ring_bytes(folded: Folded, spans: list[RowSpan], rows: int, chunk: int = 0) -> list[int]:
    """Bytes of the ring of each intermediate value."""
    sizes = []
    for index in range(len(folded.units) - 1):
        shape = folded.units[index].shape
        held = shape.height if chunk else min(shape.height, spans[folded.value(index)].alive(rows))
        sizes.append(held * shape.width * (chunk or shape.channels) * FLOAT)
    return sizes


def _cache_seconds(
    folded: Folded, plan: CpuPlan, device: Device, spans: list[RowSpan], rows: int, steps: int, used: int
) -> tuple[float, int]:
    """Time to move what does not stay in a core's own cache, and the bytes that should."""
    weights = _weight_bytes(folded)
    rings = sum(ring_bytes(folded, spans, rows, plan.chunk))
    per_core = device.cache_bandwidth / device.cores
    if plan.mode != "rows":
        weights //= plan.tasks
        streamed = weights * plan.tasks * folded.block.batch
    else:
        resident = weights + rings <= 0.75 * device.local_bytes
        streamed = weights * (used if resident else steps)
    spilled = 2 * rings * steps if rings > 0.75 * device.local_bytes else 0
    images = folded.block.inputs[0].elements + folded.shapes[-1].elements
    return (streamed + spilled + images * folded.block.batch * FLOAT) / (per_core * used) * 0.5, rings


def _weight_bytes(folded: Folded) -> int:
    return sum(folded.depth(index) * unit.shape.channels for index, unit in enumerate(folded.units)) * FLOAT


def _memory_seconds(folded: Folded, plan: CpuPlan, device: Device) -> float:
    """Time to read the weights from memory once: a network's weights rarely stay in the cache between two runs."""
    del plan
    return _weight_bytes(folded) / device.memory_bandwidth
