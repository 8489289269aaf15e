"""Times that no plan for one way to divide a block's output can beat, known before there is a plan.

The terms are those of :mod:`blockfuse.plan.cuda_work` that do not depend on where values live and how they are cut, at
their least. Most of the ways that a search looks at are worse than the best one known by this measure alone.
"""

from __future__ import annotations

from math import ceil

from blockfuse.dtypes import item_size
from blockfuse.errors import InternalError
from blockfuse.integers import round_up
from blockfuse.machine import WARPGROUP, Engine
from blockfuse.machine.groups import block_steps
from blockfuse.plan.cuda_chunks import chunked_with_last
from blockfuse.plan.cuda_cost import START_SECONDS, TENSOR_SHARE
from blockfuse.plan.cuda_grids import Grid
from blockfuse.plan.cuda_groups import is_sum, narrow_block
from blockfuse.plan.cuda_rules import strip
from blockfuse.plan.cuda_work import TAP_OPERATIONS, Work
from blockfuse.plan.device import Device
from blockfuse.plan.footprint import Footprint, footprints
from blockfuse.plan.infeasible import Impossible
from blockfuse.plan.stack import over_stacks
from blockfuse.plan.units import Folded, Unit
from blockfuse.stages import Window

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
        """Seconds in which all rounds of CTAs keep their slowest pipe busy, or one CTA with its start takes."""
        folded, device = over_stacks(self._folded, grid.images or 1), self._device
        (tile_p, tile_q), split = grid.tile or (0, 0), grid.split or 1
        prints = footprints(folded, tile_p, tile_q)
        if isinstance(prints, Impossible):
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
        return max(-(-ctas // device.cores) * slowest * device.cores, slowest * device.cores + START_SECONDS)


def _least_work(folded: Folded, prints: list[Footprint], made: list[float], engine: Engine) -> Work:
    """What one CTA does at least, which makes these numbers of channels."""
    work = Work()
    for index, unit in enumerate(folded.units):
        value = folded.value(index)
        if unit.kind == "contract":
            _add_contraction(work, folded, prints, made, unit, value, engine)
        elif not is_sum(folded, unit):
            _add_unit(work, folded, prints, made, unit, value)
    return work


def _add_contraction(
    work: Work, folded: Folded, prints: list[Footprint], made: list[float], unit: Unit, value: int, engine: Engine
) -> None:
    """A dense sum; its result may stay in registers."""
    channels, size = made[value], item_size(folded.block.dtype)
    m16_tiles = -(-prints[value].pixels // _CORE)
    together = WARPGROUP if engine is Engine.WGMMA else 1
    tiles = round_up(m16_tiles, together)
    depth = sum(folded.shapes[term.source].channels * term.window.taps for term in unit.terms)
    work.tensor += 2 * tiles * _CORE * depth * channels
    work.local += depth * size * channels * (1 if engine is Engine.MMA else tiles // WARPGROUP)
    stored = sum(_rounded(made[term.source]) * term.window.taps for term in unit.terms)
    work.cache += stored * _rounded(channels) * size


def _add_unit(work: Work, folded: Folded, prints: list[Footprint], made: list[float], unit: Unit, value: int) -> None:
    pixels, channels, size = prints[value].pixels, made[value], item_size(folded.block.dtype)
    work.local += 2 * pixels * channels * size
    if unit.kind == "grouped":
        term, block = unit.terms[0], narrow_block(folded, unit)
        steps = block_steps(block.inputs, term.window.r, term.window.s) * _CORE
        outputs = ceil(unit.shape.channels / block.outputs) * block.outputs
        work.tensor += 2 * round_up(pixels, _CORE) * outputs * steps
        work.cache += ceil(channels / block.outputs) * block.outputs * steps * size
        return
    window = Window() if unit.kind == "border" else unit.terms[0].window
    work.vector += 2 * TAP_OPERATIONS * pixels * channels * window.taps
    is_depthwise = unit.kind == "depthwise"
    segment = strip(prints[value].made_rows.size) if is_depthwise else 1
    rows = (segment - 1) * window.stride_h + window.extent_h if is_depthwise else window.r
    is_on_chip = unit.terms[0].source not in folded.block.partial
    work.local += pixels * channels * size * window.s * rows / segment if is_on_chip else 0
    work.cache += _rounded(channels) * window.taps * size if is_depthwise else 0


def _rounded(channels: float) -> int:
    """Channels of whole mma tiles."""
    return ceil(channels / _CORE) * _CORE
