"""The rules that turn an output tile into a complete CUDA plan: homes, chunks, warp tilings, items, strips."""

from __future__ import annotations

from dataclasses import dataclass

from blockfuse.errors import InternalError
from blockfuse.machine import WarpTiling
from blockfuse.plan.cuda import CudaPlan, Home, Slices, UnitPlan
from blockfuse.plan.fold import Folded, Term, Unit
from blockfuse.plan.footprint import Footprint, footprints

_CORE = 16  # channels, and pixels, of an mma tile
_HALF = 2  # bytes
_LARGE_TILE = 64 * 1024  # bytes: a hidden value above this lives a chunk at a time
_SMALL_ITEM = 10240  # bytes: up to here several taps share an item
_MAX_SUMS = 96  # float32 registers for the sums of a value that is made chunk by chunk
_PIECE_SUMS = 64  # float32 registers of a piece of a pixels loop
_MAX_STRIP = 8  # output rows of one thread in DEPTHWISE
_MAX_PASS = 128  # channels of one DEPTHWISE or REDUCE
_TENSOR_CYCLES = 1.6  # per m16n8k16 of one SM, estimated
_FRAGMENT_CYCLES = 4.0  # of shared memory, per 512-byte fragment load


@dataclass(frozen=True)
class Limits:
    """How generous a plan is with shared memory.

    Attributes:
        depth: Slots of the weight stream.
        item: Bytes of one item.
        chunk: Channels of a value that lives a chunk at a time.
    """

    depth: int
    item: int
    chunk: int


def apply_rules(folded: Folded, tile_p: int, tile_q: int, warps: int, limits: Limits) -> CudaPlan:
    """The plan that the rules give for a tile.

    Args:
        folded: The block.
        tile_p: Output rows of a CTA.
        tile_q: Output columns of a CTA.
        warps: Warps of a CTA.
        limits: How generous to be.

    Raises:
        InternalError: The block has no footprints at this tile.
    """
    return _Rules(folded, tile_p, tile_q, warps, limits).plan()


class _Rules:
    """The plan under construction."""

    def __init__(self, folded: Folded, tile_p: int, tile_q: int, warps: int, limits: Limits) -> None:
        self.folded, self.warps, self.limits = folded, warps, limits
        self.tile = (tile_p, tile_q)
        prints = footprints(folded, tile_p, tile_q)
        if isinstance(prints, str):
            raise InternalError(f"block {folded.block.name}: {prints}")
        self.prints: list[Footprint] = prints
        self.cores = [-(-shape.channels // _CORE) * _CORE for shape in folded.shapes]
        self.last = len(folded.shapes) - 1
        self.homes: dict[int, Home] = {}

    def plan(self) -> CudaPlan:
        for value in range(self.folded.input_count):
            self.homes[value] = Home(self.cores[value])
        for unit in self.folded.units:
            if unit.kind == "contract":
                self._chunk_before(unit)
        for index, unit in enumerate(self.folded.units):
            value = self.folded.value(index)
            if value not in self.homes:
                self.homes[value] = self._whole_home(unit, value)
        units = tuple(self._unit(index, unit) for index, unit in enumerate(self.folded.units))
        homes = tuple(self.homes[value] for value in range(len(self.folded.shapes)))
        return CudaPlan(*self.tile, self.warps, homes, units, self.limits.depth)

    # ---- homes -------------------------------------------------------------------------------------------------------
    def _chunk_before(self, unit: Unit) -> None:
        """Give the hidden values between a contraction and the one before it a chunk at a time, where that pays."""
        path = self._path(unit)
        if not path:
            return
        maker = self._maker(path[-1])
        if maker is None or not all(self.homes.get(t.source, Home(_CORE)).whole for t in maker.terms):
            return
        wide, hidden = path[-1], self.cores[path[0]]
        large = max(self.prints[v].pixels * self.cores[v] * _HALF for v in path) > _LARGE_TILE
        chunk = _share(hidden, self.limits.chunk)
        if chunk < hidden and (large or self.cores[wide] > self.cores[self._value(unit)]):
            for value in path:
                self.homes[value] = Home(chunk, whole=False)

    def _path(self, unit: Unit) -> list[int]:
        """The values from a unit's first operand back to a contraction's result, each read by one unit alone."""
        path: list[int] = []
        value = unit.terms[0].source
        while True:
            maker = self._maker(value)
            readers = [u for u in self.folded.units if value in u.reads]
            if maker is None or len(readers) > 1 or value in readers[0].added or value in self.homes:
                return []
            path.append(value)
            if maker.kind == "contract":
                return path
            if maker.kind != "depthwise" or maker.added:
                return []
            value = maker.terms[0].source

    def _maker(self, value: int) -> Unit | None:
        return None if value < self.folded.input_count else self.folded.units[value - self.folded.input_count]

    def _value(self, unit: Unit) -> int:
        return self.folded.value(self.folded.units.index(unit))

    def _whole_home(self, unit: Unit, value: int) -> Home:
        """All channels stay; they are made at once if the sums fit into registers."""
        channels = self.cores[value]
        if unit.kind != "contract":
            return Home(_divisor(channels, _MAX_PASS))
        if not all(self.homes[term.source].whole for term in unit.terms):
            return Home(channels)
        wanted = channels
        while wanted > _CORE and self._sums(value, wanted) > _MAX_SUMS:
            wanted = _divisor(channels, wanted - 1)
        return Home(wanted)

    def _sums(self, value: int, channels: int) -> int:
        tiling = self._tiling(value, channels)
        return tiling.mb * channels // tiling.wn // 2

    # ---- units -------------------------------------------------------------------------------------------------------
    def _unit(self, index: int, unit: Unit) -> UnitPlan:
        value = self.folded.value(index)
        rows = self.prints[value].made_rows.size
        if unit.kind == "depthwise":
            return UnitPlan(segment=max(d for d in range(1, min(rows, _MAX_STRIP) + 1) if rows % d == 0))
        if unit.kind == "pool":
            return UnitPlan()
        chunk = self.homes[value].chunk
        slices = tuple(self._slices(term, chunk) for term in unit.terms)
        tiling = self._tiling(value, chunk)
        if len(unit.terms) == 1 and self._is_one_item(unit.terms[0], slices[0]):
            tiling = _by_pieces(tiling, chunk)
        return UnitPlan(tiling, slices)

    def _held(self, term: Term) -> int:
        """Input channels that are in shared memory together."""
        home = self.homes[term.source]
        whole = -(-self.cores[term.source] // home.chunk) * home.chunk
        return whole if home.whole else home.chunk

    def _slices(self, term: Term, chunk: int) -> Slices:
        """As many input channels per item as fit; several taps where items stay small."""
        held = self._held(term)
        ks = max((k for k in _multiples(held) if k * chunk * _HALF <= self.limits.item), default=_CORE)
        for taps in (term.window.taps, term.window.s):
            if ks == held and taps * ks * chunk * _HALF <= min(_SMALL_ITEM, self.limits.item):
                return Slices(taps, ks)
        return Slices(1, ks)

    def _is_one_item(self, term: Term, slices: Slices) -> bool:
        return self.homes[term.source].whole and slices == Slices(term.window.taps, self._held(term))

    def _tiling(self, value: int, channels: int) -> WarpTiling:
        """The split of warps that costs the slowest pipe least: tensor cores, or fragment loads."""
        tiles = -(-self.prints[value].pixels // _CORE)
        choices = []
        for wn in (n for n in range(1, self.warps + 1) if self.warps % n == 0 and channels % (_CORE * n) == 0):
            mi, ni = -(-tiles // (self.warps // wn)), channels // _CORE // wn
            tensor, fragments = 2 * mi * ni * _TENSOR_CYCLES, (mi + ni) * _FRAGMENT_CYCLES
            choices.append((max(tensor, fragments), tensor + fragments, wn, mi))
        _, _, wn, mi = min(choices)
        return WarpTiling(self.warps // wn, wn, mi)


def _by_pieces(tiling: WarpTiling, channels: int) -> WarpTiling:
    """The tiling of a sum that one item completes: few m16 tiles at a time, in pieces of equal size."""
    per_tile = channels // tiling.wn // 2
    most = max(1, min(tiling.mb, _PIECE_SUMS // per_tile))
    pieces = -(-tiling.mb // most)
    return WarpTiling(tiling.wm, tiling.wn, -(-tiling.mb // pieces))


def _multiples(size: int) -> list[int]:
    """Divisors of ``size`` that are multiples of 16."""
    return [d for d in range(_CORE, size + 1, _CORE) if size % d == 0]


def _divisor(size: int, limit: int) -> int:
    """The largest divisor up to ``limit`` that is a multiple of 16."""
    return max((d for d in _multiples(size) if d <= limit), default=_CORE)


def _share(size: int, limit: int) -> int:
    """A chunk of up to ``limit`` channels: an even share if there is a good one, else what pads least."""
    even = _divisor(size, limit)
    if even * 2 >= min(limit, size):
        return even
    return min(range(limit, limit // 2, -_CORE), key=lambda chunk: -(-size // chunk) * chunk)
