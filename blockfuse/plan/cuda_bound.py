"""Times that no plan for one way to divide a block's output can beat, known before there is a plan.

The terms are those of :mod:`blockfuse.plan.cuda_cost` that do not depend on where values live and how they are cut, at
their least. Most of the ways that a search looks at are worse than the best one known by this measure alone.
"""

from __future__ import annotations

from blockfuse.errors import InternalError
from blockfuse.machine import WARPGROUP, Engine
from blockfuse.machine.groups import block_steps, group_block
from blockfuse.plan.cuda_cost import HALF, TAP_OPERATIONS, TENSOR_SHARE
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
        out = folded.shapes[-1]
        ctas = folded.block.batch * -(-out.height // tile_p) * -(-out.width // tile_q) * split
        engine = grid.engine or Engine.MMA
        tensor, vector, local = 0.0, 0.0, 0.0
        for index, unit in enumerate(folded.units):
            value = folded.value(index)
            channels = unit.shape.channels / (split if self._shared[value] else 1)
            more = _unit(folded, unit, prints, value, channels, engine)
            tensor, vector, local = tensor + more[0], vector + more[1], local + more[2]
        peak = device.vector_peak if folded.block.dtype == "float32" else device.tensor_peak * TENSOR_SHARE[engine]
        slowest = max(tensor / peak, vector / device.vector_peak, local / device.local_bandwidth)
        return -(-ctas // device.cores) * slowest * device.cores


def _unit(
    folded: Folded, unit: Unit, prints: list[Footprint], value: int, channels: float, engine: Engine
) -> tuple[float, float, float]:
    """Operations of the tensor cores and of ordinary arithmetic, and bytes of shared memory, of one CTA's share."""
    pixels = prints[value].pixels
    m16_tiles = -(-pixels // _CORE)
    written = 2 * pixels * channels * HALF
    if unit.kind == "contract":
        together = WARPGROUP if engine is Engine.WGMMA else 1
        tiles = -(-m16_tiles // together) * together
        depth = sum(folded.shapes[term.source].channels * term.window.taps for term in unit.terms)
        weights = depth * HALF * channels * (1 if engine is Engine.MMA else tiles // WARPGROUP)
        return 2 * tiles * _CORE * depth * channels, 0.0, weights  # its result may stay in registers
    term = unit.terms[0]
    if unit.kind == "grouped":
        block = group_block(unit.groups, folded.shapes[term.source].channels, unit.shape.channels)
        steps = block_steps(block.inputs, term.window.r, term.window.s)
        blocks = -(-unit.shape.channels // block.outputs)
        return 2 * m16_tiles * _CORE * blocks * block.outputs * steps * _CORE, 0.0, written
    segment = strip(prints[value].made_rows.size) if unit.kind == "depthwise" else 1
    rows = (segment - 1) * term.window.stride_h + term.window.extent_h if unit.kind == "depthwise" else term.window.r
    read = pixels * channels * HALF * term.window.s * rows / segment
    return 0.0, 2 * TAP_OPERATIONS * pixels * channels * term.window.taps, written + read
