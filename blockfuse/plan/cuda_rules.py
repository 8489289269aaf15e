"""The rules that turn an output tile into a complete CUDA plan: homes, chunks, warp tilings, items, strips."""

from __future__ import annotations

from dataclasses import replace

from blockfuse.errors import InternalError
from blockfuse.integers import round_up
from blockfuse.machine import WarpTiling
from blockfuse.plan.cuda import CudaPlan, Home, Slices, UnitPlan
from blockfuse.plan.cuda_groups import is_sum, wide_block
from blockfuse.plan.cuda_homes import HALF, Homes
from blockfuse.plan.cuda_limits import CORE, Limits, in_rows, multiples, tiling
from blockfuse.plan.footprint import Footprint, footprints
from blockfuse.plan.infeasible import Impossible
from blockfuse.plan.stack import over_stacks
from blockfuse.plan.units import Folded, Term, Unit

__all__ = ["Limits", "apply_rules"]

_SMALL_ITEM = 10240  # bytes: up to here several taps share an item
_PIECE_SUMS = 64  # float32 registers of a piece of a pixels loop
_MAX_STRIP = 8  # output rows of one thread in DEPTHWISE
_MAX_HELD = 64  # registers for pixels that stay while chunks are made of them
_GROUP_SUMS = 32  # float32 registers of GROUPED
_MAX_WIDE = 8  # n8 tiles of a unit of GROUPED


def apply_rules(
    folded: Folded, tile_p: int, tile_q: int, warps: int, limits: Limits, *, split: int = 1, images: int = 1
) -> CudaPlan:
    """The plan that the rules give for a tile.

    Args:
        folded: The block.
        tile_p: Output rows of a CTA.
        tile_q: Output columns of a CTA.
        warps: Warps of a CTA.
        limits: How generous to be.
        split: CTAs that share the channels of the result.
        images: Images of a CTA, one below the other; the tile is of all of them together.

    Raises:
        InternalError: The block has no footprints at this tile.
    """
    folded = over_stacks(folded, images)
    prints = footprints(folded, tile_p, tile_q)
    if isinstance(prints, Impossible):
        raise InternalError(f"block {folded.block.name}: {prints}")
    homes = Homes(folded, prints, warps, limits, split)
    found = homes.decide()
    units = _Units(folded, prints, homes, warps, limits)
    plans = tuple(units.plan(index, unit) for index, unit in enumerate(folded.units))
    engine = limits.engine
    return CudaPlan(tile_p, tile_q, warps, found, plans, limits.depth, engine=engine, split=split, images=images)


class _Units:
    """How every unit is computed, given where values live."""

    def __init__(self, folded: Folded, prints: list[Footprint], homes: Homes, warps: int, limits: Limits) -> None:
        self.folded, self.prints, self.homes, self.warps, self.limits = folded, prints, homes, warps, limits

    def plan(self, index: int, unit: Unit) -> UnitPlan:
        """The plan of one unit."""
        value = self.folded.value(index)
        rows = self.prints[value].made_rows.size
        match unit.kind:
            case "contract" | "grouped" if is_sum(self.folded, unit):
                return self._contraction(unit, value)
            case "depthwise":
                return UnitPlan(segment=strip(rows))
            case "grouped":
                return UnitPlan(segment=self._group_tiles(unit, value))
        return UnitPlan()

    def _home(self, value: int) -> Home:
        return self.homes.found[value]

    def _contraction(self, unit: Unit, value: int) -> UnitPlan:
        home, pixels = self._home(value), self.prints[value].pixels
        slices = tuple(self._slices(unit, term, home.chunk) for term in unit.terms)
        if home.registers:
            return self._to_registers(unit, value)
        if self.homes.is_chained(unit):
            return UnitPlan(in_rows(pixels, self.warps, self.limits.engine), slices)
        split = tiling(pixels, home.chunk, self.warps, self.limits.engine)
        if len(unit.terms) == 1 and self._is_one_item(unit, slices[0]):
            split = _by_pieces(split, home.chunk)
        return UnitPlan(split, slices)

    def _to_registers(self, unit: Unit, value: int) -> UnitPlan:
        """Pieces of one or two m16 tiles; the pixels they are made of stay in registers if those are not too many."""
        split = in_rows(self.prints[value].pixels, self.warps, self.limits.engine)
        source = unit.terms[0].source
        held = split.mb * self.homes.cores[source] // 4
        slices = (Slices(1, self._held(unit, unit.terms[0])),)
        piece = 2 if split.mb % 2 == 0 else 1
        return UnitPlan(replace(split, mb=piece), slices, hold=held <= _MAX_HELD)

    def _held(self, unit: Unit, term: Term) -> int:
        """Input channels of a sum that are in shared memory together."""
        home, block = self._home(term.source), wide_block(self.folded, unit)
        if block is not None:
            return block.inputs if home.whole else home.chunk
        whole = round_up(self.homes.cores[term.source], home.chunk)
        return whole if home.whole else home.chunk

    def _slices(self, unit: Unit, term: Term, chunk: int) -> Slices:
        """As many input channels per item as fit; several taps where items stay small."""
        held = self._held(unit, term)
        if not self._home(term.source).whole and term.source < self.folded.input_count:
            return Slices(1 if self._home(term.source).by_taps else term.window.taps, held)
        ks = max((k for k in multiples(held) if k * chunk * HALF <= self.limits.item), default=CORE)
        for taps in (term.window.taps, term.window.s):
            if ks == held and taps * ks * chunk * HALF <= min(_SMALL_ITEM, self.limits.item):
                return Slices(taps, ks)
        return Slices(1, ks)

    def _is_one_item(self, unit: Unit, slices: Slices) -> bool:
        (term,) = unit.terms
        return self._home(term.source).whole and slices == Slices(term.window.taps, self._held(unit, term))

    def _group_tiles(self, unit: Unit, value: int) -> int:
        """m16 tiles that one warp takes together: as many as registers allow and as leave work for all warps."""
        eighths = self.homes.block(unit).outputs // 8
        wide = max(d for d in range(1, _MAX_WIDE + 1) if eighths % d == 0)
        tiles = -(-self.prints[value].pixels // CORE)
        parts = self._home(value).chunk // 8 // wide
        most = max(1, _GROUP_SUMS // (4 * wide))
        return max((m for m in range(1, most + 1) if parts * -(-tiles // m) >= self.warps), default=1)


def strip(rows: int) -> int:
    """Output rows that one thread of DEPTHWISE makes of so many."""
    return max(d for d in range(1, min(rows, _MAX_STRIP) + 1) if rows % d == 0)


def _by_pieces(split: WarpTiling, channels: int) -> WarpTiling:
    """The tiling of a sum that one item completes: few m16 tiles at a time, in pieces of equal size."""
    per_tile = channels // split.wn // 2
    most = max(1, min(split.mb, _PIECE_SUMS // per_tile))
    pieces = -(-split.mb // most)
    return replace(split, mb=-(-split.mb // pieces))
