"""Times that no plan for one way to divide a block's output can beat, known before there is a plan.

The terms are those of :mod:`blockfuse.plan.cuda_cost` that do not depend on where values live and how they are cut, at
their least. Most of the ways that a search looks at are worse than the best one known by this measure alone.
"""

from __future__ import annotations

from math import ceil

from blockfuse.errors import InternalError
from blockfuse.machine import WARPGROUP, Engine
from blockfuse.machine.groups import block_steps, group_block
from blockfuse.plan.cuda_cost import HALF, TAP_OPERATIONS, TENSOR_SHARE, Work
from blockfuse.plan.cuda_grids import Grid
from blockfuse.plan.cuda_homes import chunked_with_last
from blockfuse.plan.cuda_rules import strip
from blockfuse.plan.device import Device
from blockfuse.plan.footprint import Footprint, footprints
from blockfuse.plan.stack import over_stacks
from blockfuse.plan.units import Folded, Unit

_CORE = 16  # pixels of an mma tile
_ROUNDING = 1 - 1e-9  # sums of the same terms in another order


class Bound:
    """Least times of the ways to run a block on a device; equal parts are found out once."""

    def __init__(self, folded: Folded, device: Device) -> None:
        self._folded, self._device = folded, device
        self._known: dict[tuple[object, ...], float] = {}
        path = chunked_with_last(folded)
        self._shared = [value in path for value in range(len(folded.shapes))]
        self.least = device.launch_seconds + folded.block.global_bytes / device.memory_bandwidth

    def seconds(self, grid: Grid) -> float:
        """The least time of any plan for a way to divide the output."""
        key = (grid.tile, grid.engine, grid.split, grid.images)
        if key not in self._known:
            self._known[key] = max(self.least, self._device.launch_seconds + _ROUNDING * self._busy(grid))
        return self._known[key]

    def _busy(self, grid: Grid) -> float:
        """Seconds in which all rounds of CTAs keep their slowest pipe busy."""
        folded, device = over_stacks(self._folded, grid.images or 1), self._device
        (tile_p, tile_q), split = grid.tile or (0, 0), grid.split or 1
        prints = footprints(folded, tile_p, tile_q)
        if isinstance(prints, str):
            raise InternalError(f"block {folded.block.name}: {prints}")
        shares = [split if shared else 1 for shared in self._shared]
        made = [shape.channels / share for shape, share in zip(folded.shapes, shares, strict=True)]
        work = _least_work(folded, prints, made, grid.engine or Engine.MMA)
        out = folded.shapes[-1]
        ctas = folded.block.batch * -(-out.height // tile_p) * -(-out.width // tile_q) * split
        peak = device.tensor_peak * TENSOR_SHARE[grid.engine or Engine.MMA]
        slowest = max(
            work.tensor / (device.vector_peak if folded.block.dtype == "float32" else peak),
            work.vector / device.vector_peak,
            work.local / device.local_bandwidth,
            work.cache / device.cache_bandwidth,
        )
        return -(-ctas // device.cores) * slowest * device.cores


def _least_work(folded: Folded, prints: list[Footprint], made: list[float], engine: Engine) -> Work:
    """What one CTA does at least, which makes these numbers of channels."""
    work = Work()
    for value in range(folded.input_count):
        readers = [index for index, unit in enumerate(folded.units) if value in {term.source for term in unit.terms}]
        read = sum(prints[folded.value(index)].pixels for index in readers)
        pixels = min(prints[value].pixels, read) if readers else prints[value].pixels
        work.cache += pixels * folded.shapes[value].channels * HALF
        work.local += pixels * folded.shapes[value].channels * HALF
    for index, unit in enumerate(folded.units):
        _add_unit(work, folded, prints, made, unit, folded.value(index), engine)
    work.cache += prints[-1].pixels * made[-1] * HALF
    return work


def _add_unit(
    work: Work, folded: Folded, prints: list[Footprint], made: list[float], unit: Unit, value: int, engine: Engine
) -> None:
    pixels, channels = prints[value].pixels, made[value]
    m16_tiles = -(-pixels // _CORE)
    if unit.kind == "contract":  # its result may stay in registers
        together = WARPGROUP if engine is Engine.WGMMA else 1
        tiles = -(-m16_tiles // together) * together
        depth = sum(folded.shapes[term.source].channels * term.window.taps for term in unit.terms)
        work.tensor += 2 * tiles * _CORE * depth * channels
        work.local += depth * HALF * channels * (1 if engine is Engine.MMA else tiles // WARPGROUP)
        stored = sum(_rounded(made[term.source]) * term.window.taps for term in unit.terms)
        work.cache += stored * _rounded(channels) * HALF
        return
    work.local += 2 * pixels * channels * HALF
    term = unit.terms[0]
    if unit.kind == "grouped":
        block = group_block(unit.groups, folded.shapes[term.source].channels, unit.shape.channels)
        steps = block_steps(block.inputs, term.window.r, term.window.s) * _CORE
        weights = -(-unit.shape.channels // block.outputs) * block.outputs * steps
        work.tensor += 2 * m16_tiles * _CORE * weights
        work.cache += weights * HALF
        return
    work.vector += 2 * TAP_OPERATIONS * pixels * channels * term.window.taps
    is_depthwise = unit.kind == "depthwise"
    segment = strip(prints[value].made_rows.size) if is_depthwise else 1
    rows = (segment - 1) * term.window.stride_h + term.window.extent_h if is_depthwise else term.window.r
    work.local += pixels * channels * HALF * term.window.s * rows / segment
    work.cache += _rounded(channels) * term.window.taps * HALF if is_depthwise else 0


def _rounded(channels: float) -> int:
    """Channels of whole mma tiles."""
    return ceil(channels / _CORE) * _CORE
