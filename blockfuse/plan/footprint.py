"""Which part of every value lies under one output tile: stride, padding and dilation; pure integers.

Along one axis, output tile number ``t`` of ``tile`` pixels needs of a value the positions
``[t * tile * step - before, t * tile * step - before + size)``. Positions outside the image are held as zeros; where
there is one tile alone they are not computed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from blockfuse.plan.fold import Folded
from blockfuse.plan.infeasible import Impossible
from blockfuse.stages import ImageShape


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

    def inside(self, size: int) -> Extent:
        """Of the positions under tile 0, those of an image of ``size``; at least one, so that there is work."""
        before = min(self.before, 0)
        return Extent(self.step, before, max(1, min(self.size - self.before, size) + before))


@dataclass(frozen=True)
class Footprint:
    """Rows and columns of a value under one output tile.

    Attributes:
        rows: That are held.
        cols: That are held.
        made_rows: That are computed.
        made_cols: That are computed.
    """

    rows: Extent
    cols: Extent
    made_rows: Extent
    made_cols: Extent

    @property
    def pixels(self) -> int:
        """Pixels that are computed."""
        return self.made_rows.size * self.made_cols.size

    @property
    def has_border(self) -> bool:
        """Whether more is held than is computed."""
        return (self.rows, self.cols) != (self.made_rows, self.made_cols)


def footprints(folded: Folded, tile_p: int, tile_q: int) -> list[Footprint] | Impossible:
    """The footprint of every value, or why there is none.

    Args:
        folded: The block; every value but the last is read.
        tile_p: Output rows of a tile.
        tile_q: Output columns of a tile.

    Returns:
        One footprint per value; or, where two paths to a value move over it at different steps, the value's number in
        a sentence. That happens only where the tile is smaller than the output.
    """
    known = folded.footprints
    if (tile_p, tile_q) not in known:
        known[tile_p, tile_q] = _footprints(folded, tile_p, tile_q)
    found: list[Footprint] | Impossible = known[tile_p, tile_q]
    return found


def _footprints(folded: Folded, tile_p: int, tile_q: int) -> list[Footprint] | Impossible:
    out = folded.shapes[-1]
    alone = (tile_p >= out.height, tile_q >= out.width)
    found: list[tuple[Extent, Extent] | None] = [None] * len(folded.shapes)
    found[-1] = (Extent(1, 0, tile_p), Extent(1, 0, tile_q))
    prints: list[Footprint] = []
    for value in reversed(range(len(folded.shapes))):
        held = found[value]
        if held is None:
            return Impossible(f"value {value} is read by nothing")
        prints.append(_footprint(held, folded.shapes[value], alone))
        if value < folded.input_count:
            continue
        for source, wanted in _reads(folded, value - folded.input_count, prints[-1]):
            merged = _union(found[source], wanted, alone)
            if merged is None:
                return Impossible(f"two paths move over value {source} at different steps")
            found[source] = merged
    return prints[::-1]


def _footprint(held: tuple[Extent, Extent], shape: ImageShape, alone: tuple[bool, bool]) -> Footprint:
    rows, cols = held
    made_rows = rows.inside(shape.height) if alone[0] else rows
    made_cols = cols.inside(shape.width) if alone[1] else cols
    return Footprint(rows, cols, made_rows, made_cols)


def _reads(folded: Folded, index: int, mine: Footprint) -> list[tuple[int, tuple[Extent, Extent]]]:
    """The values a unit reads, with what it needs of them to make ``mine``."""
    unit = folded.units[index]
    only = Extent(0, 0, 1)
    reads = [
        (value, (only, only) if unit.is_gate(value, folded.shapes[value]) else (mine.made_rows, mine.made_cols))
        for value in unit.added
    ]
    for term in unit.terms:
        w = term.window
        rows = mine.made_rows.through(w.stride_h, w.pad_top, w.extent_h)
        cols = mine.made_cols.through(w.stride_w, w.pad_left, w.extent_w)
        reads.append((term.source, (rows, cols)))
    return reads


def _union(
    known: tuple[Extent, Extent] | None, new: tuple[Extent, Extent], alone: tuple[bool, bool]
) -> tuple[Extent, Extent] | None:
    """Both together; None where their steps differ along an axis with several tiles."""
    if known is None:
        return new
    axes = []
    for a, b, single in zip(known, new, alone, strict=True):
        if a.step != b.step and not single:
            return None
        axes.append(a.union(replace(b, step=a.step)))
    return axes[0], axes[1]
