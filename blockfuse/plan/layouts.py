"""How tiles lie in shared memory: what a warp reads or writes at a time should be in different banks.

Sums read 8 neighbouring pixels at a time under every tap, 16 bytes of each, and are written the same way. Neighbours
are an odd number of 16 bytes apart, so that 8 in a row need one pass. Where the 8 go on in the next row, that row must
begin where the next neighbour would, as far as banks go; so there may be padding behind rows. Where a window moves by
several pixels, those it reads together lie together, and a gap keeps others, filled together, in different banks.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

from blockfuse.machine.banks import BANK_BYTES, BANKS
from blockfuse.machine.layout import Layout
from blockfuse.plan.banks import DepthwiseReads, PoolReads
from blockfuse.plan.footprint import Footprint
from blockfuse.plan.units import Folded, Term

_HALF = 2  # bytes
_TOGETHER = 8  # pixels of an access
_WORDS = 4  # of each
_GRAIN = 8  # elements of 16 bytes
_LINE = 64  # elements of all banks
_MOST_PIXELS = 128  # that are looked at
_VECTORS = {"depthwise", "pool", "norm", "border", "map"}  # kinds of units that work on pixels one by one


@dataclass(frozen=True)
class Walk:
    """Pixels of a tile that sums read or fill, row by row, 8 at a time.

    Attributes:
        rows: Rows of the sums.
        cols: Columns of the sums.
        stride_h: Rows of the tile from one to the next.
        stride_w: Columns of the tile.
        top: First row.
        left: First column.
        weight: How often it happens.
    """

    rows: int
    cols: int
    stride_h: int = 1
    stride_w: int = 1
    top: int = 0
    left: int = 0
    weight: int = 1

    def passes(self, layout: Layout) -> float:
        """Passes through the banks per access; 1 if there are no conflicts."""
        return 1.0 if self._is_even(layout) else _mean_passes(self, layout)

    def padding(self, layout: Layout) -> int | None:
        """The least with which the first pixel of a row follows the last one of the row before, as far as banks go."""
        if self.stride_h % layout.apart_h or self.stride_w % layout.apart_w:
            return None
        wanted = self.cols * layout.step_w(self.stride_w)
        steps = (
            (padding, _padded(layout, padding, layout.gap).step_h(self.stride_h)) for padding in range(0, _LINE, _GRAIN)
        )
        return next((padding for padding, step in steps if (step - wanted) % _LINE == 0), None)

    def places(self, layout: Layout, rows: int) -> list[int]:
        """Where in the tile the pixels of the first rows of the sums read or are written."""
        down = [layout.place(self.top + row * self.stride_h, 0) for row in range(rows)]
        right = [layout.place(0, self.left + col * self.stride_w) for col in range(self.cols)]
        return [first + place for first in down for place in right]

    def _is_even(self, layout: Layout) -> bool:
        """Whether each pixel is as far from the one before, as far as banks go, by an odd number of 16 bytes."""
        if self.stride_h % layout.apart_h or self.stride_w % layout.apart_w:
            return False
        down, right = layout.step_h(self.stride_h), layout.step_w(self.stride_w)
        return right % (2 * _GRAIN) == _GRAIN and (down - self.cols * right) % _LINE == 0


@functools.lru_cache(maxsize=65536)
def _mean_passes(walk: Walk, layout: Layout) -> float:
    places = walk.places(layout, min(walk.rows, -(-_MOST_PIXELS // walk.cols)))
    groups = [places[low : low + _TOGETHER] for low in range(0, len(places), _TOGETHER)]
    return sum(map(_passes, groups)) / len(groups)


def _passes(places: list[int]) -> int:
    """Passes of one access: the largest number of different words in one bank."""
    if not any(place % _GRAIN for place in places):
        grains = [place // _GRAIN % (BANKS // _WORDS) for place in set(places)]
        return max(map(grains.count, grains))
    words = {place * _HALF // BANK_BYTES + word for place in places for word in range(_WORDS)}
    banks = [word % BANKS for word in words]
    return max(map(banks.count, banks))


def _padded(layout: Layout, padding: int, gap: int = 0) -> Layout:
    return Layout(layout.rows, layout.cols, layout.pitch, layout.apart_h, layout.apart_w, gap, padding)


@functools.lru_cache(maxsize=65536)
def laid_out(plain: Layout, walks: tuple[Walk, ...]) -> Layout:
    """The layout with the gap and padding that cost the walks fewest passes, and of those the smallest."""
    choices = []
    for gap in _gaps(plain):
        wanted = [walk.padding(_padded(plain, 0, gap)) for walk in walks]
        choices += [_padded(plain, padding, gap) for padding in {0, *(one for one in wanted if one)}]
    return min(choices, key=lambda one: (cost(one, walks), one.size))


def cost(layout: Layout, walks: tuple[Walk, ...]) -> float:
    """Passes of all walks together."""
    return sum(walk.weight * walk.passes(layout) for walk in walks)


def _gaps(layout: Layout) -> range:
    return range(0, _LINE, _GRAIN) if layout.apart_w > 1 else range(1)


@functools.lru_cache(maxsize=65536)
def depthwise_layout(
    reads: DepthwiseReads, channels: int, apart: tuple[int, int], fill: Walk | None, multiple: int = 4
) -> Layout:
    """The layout of a tile that DEPTHWISE reads with the fewest modelled wavefronts, and of those the smallest.

    Args:
        reads: The access pattern.
        channels: Channels of the tile.
        apart: By how many rows and columns the window moves.
        fill: How sums fill the tile; None where something else does.
        multiple: Elements that the tile is written in at a time: what the pitch must be a multiple of.
    """
    choices = [
        Layout(reads.rows, reads.cols, pitch, *kept)
        for kept in dict.fromkeys([(1, 1), apart])
        for pitch in range(channels, channels + 33, multiple)
    ]
    walks = (fill,) if fill else ()

    def total(layout: Layout) -> tuple[float, int]:
        return round(reads.cost(layout) + cost(layout, walks) / _LINE, 9), layout.size

    best = min(choices, key=total)
    gaps = [_padded(best, padding, gap) for gap in _gaps(best) for padding in range(0, _LINE, _GRAIN)]
    return min(gaps, key=total)


@functools.lru_cache(maxsize=65536)
def pool_layout(reads: PoolReads, plain: Layout) -> Layout:
    """The layout of a tile that several lanes reduce with the fewest passes, and of those the smallest."""
    choices = [replace(plain, pitch=pitch) for pitch in range(plain.pitch, plain.pitch + _LINE, _GRAIN)]
    best = min(choices, key=lambda one: (reads.passes(one), one.size))
    gaps = [_padded(best, padding, gap) for gap in _gaps(best) for padding in range(0, _LINE, _GRAIN)]
    return min(gaps, key=lambda one: (reads.passes(one), one.size))


# ---- what works on a value ------------------------------------------------------------------------------------------
def readers(folded: Folded, value: int) -> list[tuple[int, Term]]:
    """The units that read a value through a window, with the term."""
    return [(i, term) for i, unit in enumerate(folded.units) for term in unit.terms if term.source == value]


def apart(folded: Folded, value: int) -> tuple[int, int]:
    """By how many rows and columns all windows over a value move; 1 where they differ."""
    windows = [term.window for _, term in readers(folded, value)]
    found = ({window.stride_h for window in windows}, {window.stride_w for window in windows})
    down, right = (strides.pop() if len(strides) == 1 else 1 for strides in found)
    return down, right


def filled(folded: Folded, prints: list[Footprint], value: int) -> Walk | None:
    """How a unit fills the tile of a value, 8 neighbours at a time; None where it comes from memory."""
    if value < folded.input_count:
        return None
    place = prints[value]
    top, left = place.rows.before - place.made_rows.before, place.cols.before - place.made_cols.before
    return Walk(place.made_rows.size, place.made_cols.size, top=top, left=left)


def gathered(prints: list[Footprint], made: int, term: Term) -> Walk:
    """How the sums of a value read one of their operands."""
    window, place = term.window, prints[made]
    return Walk(place.made_rows.size, place.made_cols.size, window.stride_h, window.stride_w, weight=window.taps)


def matrix_layout(folded: Folded, prints: list[Footprint], value: int, pitch: int, *, dense: bool = False) -> Layout:
    """The layout of a tile that sums read; a dense one has no room behind rows."""
    reads = [(i, term) for i, term in readers(folded, value) if folded.units[i].kind not in _VECTORS]
    walks = [gathered(prints, folded.value(i), term) for i, term in reads]
    fill = filled(folded, prints, value)
    rows, cols = prints[value].rows.size, prints[value].cols.size
    kept = apart(folded, value) if walks else (1, 1)
    plain = Layout(rows, cols, pitch, *kept)
    return plain if dense else laid_out(plain, (*walks, *([fill] if fill else [])))


def vector_layout(folded: Folded, prints: list[Footprint], value: int, channels: int) -> Layout:
    """The layout of a tile without room between pixels: what follows the last pixel of a row begins the next one."""
    plain = Layout(prints[value].rows.size, prints[value].cols.size, channels, *apart(folded, value))
    paddings = [gathered(prints, folded.value(i), term).padding(plain) for i, term in readers(folded, value)]
    return _padded(plain, next((padding for padding in paddings if padding), 0))


def is_summed(folded: Folded, value: int) -> bool:
    """Whether sums fill a value's tile."""
    return value >= folded.input_count and folded.units[value - folded.input_count].kind not in _VECTORS


def is_in_vectors(folded: Folded, value: int) -> bool:
    """Whether a tile is best without room between pixels: sums neither read nor fill it, nor what is made of it.

    Units that work on pixels one by one go through two tiles in the same order. DEPTHWISE has an order of its own, and
    several lanes reduce what is pooled: they read neighbours at a time, as sums do.
    """
    if folded.block.pooled and value == len(folded.shapes) - 1:
        return False
    made = [folded.value(i) for i, unit in enumerate(folded.units) if value in unit.reads and unit.kind != "depthwise"]
    makers = folded.units[value - folded.input_count :][:1] if value >= folded.input_count else ()
    sources = [term.source for unit in makers if unit.kind != "depthwise" for term in unit.terms]
    return all(_has_no_sums(folded, one) for one in (value, *made, *sources))


def _has_no_sums(folded: Folded, value: int) -> bool:
    units = [unit for unit in folded.units if value in unit.reads]
    units += folded.units[value - folded.input_count :][:1] if value >= folded.input_count else ()
    return all(unit.kind in _VECTORS for unit in units)
