"""Which part of every value lies under one output tile: stride, padding and dilation; pure integers.

Along one axis, output tile number ``t`` of ``tile`` pixels needs of a value the positions
``[t * tile * step - before, t * tile * step - before + size)``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from blockfuse.fold import Folded


@dataclass(frozen=True)
class Extent:
    """A value's positions under one output tile, along one axis.

    Attributes:
        step: Positions from the first one of a tile to that of the next, per output position.
        before: Positions before ``t * tile * step`` that are needed.
        size: Number of positions.
    """

    step: int
    before: int
    size: int

    def through(self, stride: int, pad: int, extent: int) -> Extent:
        """What a window of ``extent`` positions, moved by ``stride``, reads to make these positions."""
        return Extent(self.step * stride, self.before * stride + pad, (self.size - 1) * stride + extent)

    def union(self, other: Extent) -> Extent:
        """What covers both, given that both move by the same step (or do not move at all)."""
        before = max(self.before, other.before)
        return Extent(self.step, before, max(self.size - self.before, other.size - other.before) + before)


@dataclass(frozen=True)
class Footprint:
    """Rows and columns of a value under one output tile."""

    rows: Extent
    cols: Extent

    @property
    def pixels(self) -> int:
        """Rows times columns."""
        return self.rows.size * self.cols.size


def footprints(folded: Folded, tile_p: int, tile_q: int) -> list[Footprint] | str:
    """The footprint of every value, or why there is none.

    Args:
        folded: The block; every value but the last is read.
        tile_p: Output rows of a tile.
        tile_q: Output columns of a tile.

    Returns:
        One footprint per value; or, where two paths to a value move over it at different steps, the value's number in
        a sentence. That happens only where the tile is smaller than the output.
    """
    out = folded.shapes[-1]
    alone = (tile_p >= out.height, tile_q >= out.width)
    found: list[Footprint | None] = [None] * len(folded.shapes)
    found[-1] = Footprint(Extent(1, 0, tile_p), Extent(1, 0, tile_q))
    for index in reversed(range(len(folded.units))):
        mine = found[folded.value(index)]
        if mine is None:
            return f"value {folded.value(index)} is read by nothing"
        for source, wanted in _reads(folded, index, mine):
            merged = _union(found[source], wanted, alone)
            if merged is None:
                return f"two paths move over value {source} at different steps"
            found[source] = merged
    return [footprint for footprint in found if footprint is not None]


def _reads(folded: Folded, index: int, mine: Footprint) -> list[tuple[int, Footprint]]:
    """The values a unit reads, with what it needs of them to make ``mine``."""
    unit = folded.units[index]
    reads = [(value, mine) for value in unit.added]
    for term in unit.terms:
        w = term.window
        rows = mine.rows.through(w.stride_h, w.pad_top, w.extent_h)
        cols = mine.cols.through(w.stride_w, w.pad_left, w.extent_w)
        reads.append((term.source, Footprint(rows, cols)))
    return reads


def _union(known: Footprint | None, new: Footprint, alone: tuple[bool, bool]) -> Footprint | None:
    """Both together; None where their steps differ along an axis with several tiles."""
    if known is None:
        return new
    axes = []
    for a, b, single in ((known.rows, new.rows, alone[0]), (known.cols, new.cols, alone[1])):
        if a.step != b.step and not single:
            return None
        axes.append(a.union(replace(b, step=a.step)))
    return Footprint(*axes)
