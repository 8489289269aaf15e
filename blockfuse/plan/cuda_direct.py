"""The last resort: a single layer from memory to memory, with nothing on the chip that could be too small."""

from __future__ import annotations

from math import ceil

from blockfuse.dtypes import item_size
from blockfuse.integers import round_up
from blockfuse.plan.cost import Cost
from blockfuse.plan.cuda import CudaPlan, Home, UnitPlan
from blockfuse.plan.device import Device
from blockfuse.plan.footprint import footprints
from blockfuse.plan.infeasible import Impossible
from blockfuse.plan.units import Folded

_WARPS = 4
_LANES = 4  # channels of a thread, at most
_CHUNK = 128  # channels of a CTA, at most
_SHARE = 0.1  # assumed: of the ordinary arithmetic units' peak, that loads from memory leave


def can_be_direct(folded: Folded) -> bool:
    """Whether a block is a single layer of one window between images of one type."""
    is_plain = not folded.block.pooled and not folded.block.partial
    return is_plain and len(folded.units) == 1 and folded.units[0].can_be_direct


def direct(folded: Folded) -> CudaPlan:
    """The plan: one group of neighbouring channels of one pixel for every thread."""
    out = folded.shapes[-1]
    chunk = min(_CHUNK, round_up(out.channels, _LANES))
    pixels = max(1, 32 * _WARPS * _LANES // chunk)
    tile_q = min(out.width, pixels)
    tile_p = min(out.height, max(1, pixels // tile_q))
    homes = tuple(Home(chunk) for _ in folded.shapes)
    split = -(-out.channels // chunk)
    return CudaPlan(tile_p, tile_q, _WARPS, homes, (UnitPlan(),), split=split, direct=True)


def predict_direct(folded: Folded, plan: CudaPlan, device: Device) -> Cost:
    """What it is predicted to take: every product reads its operands through the cache."""
    block, unit, out = folded.block, folded.units[0], folded.shapes[-1]
    (term,), size = unit.terms, item_size(folded.block.dtype)
    operations = folded.operations(0) * block.batch
    swept = max(operations, 2 * term.window.taps * out.elements * block.batch)
    ctas = block.batch * ceil(out.height / plan.tile_p) * ceil(out.width / plan.tile_q) * plan.split
    prints = footprints(folded, plan.tile_p, plan.tile_q)
    under = 0 if isinstance(prints, Impossible) else prints[term.source].pixels
    channels = folded.shapes[term.source].channels
    read = under * (
        channels if unit.kind == "contract" else min(channels, plan.homes[-1].chunk * channels // out.channels)
    )
    weights = folded.depth(0) * min(plan.homes[-1].chunk, out.channels)
    moved = ctas * (read + weights + plan.tile_p * plan.tile_q * min(plan.homes[-1].chunk, out.channels)) * size
    times = {
        "arithmetic": swept / (_SHARE * device.vector_peak),
        "cache": moved / device.cache_bandwidth,
        "memory": block.global_bytes / device.memory_bandwidth,
    }
    bound = max(times, key=lambda name: times[name])
    waves = round_up(ctas, device.cores) / ctas
    seconds = device.launch_seconds + max(times["memory"], waves * times[bound])
    return Cost(operations, 1.0, block.global_bytes, 0, seconds, bound, moved)
