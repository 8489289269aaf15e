"""Which rows of every value lie under some output rows of a block: what bands and rings of rows are made of."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from blockfuse.errors import InternalError
from blockfuse.plan.units import Folded, Term

EVERY_ROW = 1 << 24
"""More rows than any image has."""


@dataclass(frozen=True)
class RowSpan:
    """Rows ``[stride*h0 - before, stride*(h1-1) + after)`` of a value lie under output rows ``[h0, h1)``."""

    stride: int = 1
    before: int = 0
    after: int = 1

    def through(self, term: Term) -> RowSpan:
        """The rows of a term's source under these rows of its result."""
        window = term.window
        before = self.before * window.stride_h + window.pad_top
        after = (self.after - 1) * window.stride_h - window.pad_top + window.extent_h
        return RowSpan(self.stride * window.stride_h, min(before, EVERY_ROW), min(after, EVERY_ROW))

    def union(self, other: RowSpan | None) -> RowSpan:
        """What covers both; every row, where the two move over the value at different steps."""
        if other is None:
            return self
        if other.stride != self.stride:
            return RowSpan(self.stride, EVERY_ROW, EVERY_ROW)
        return RowSpan(self.stride, max(self.before, other.before), max(self.after, other.after))

    @property
    def is_every_row(self) -> bool:
        """Whether any output row needs the whole value, so that bands would each make all of it."""
        return min(self.before, self.after) >= EVERY_ROW // 2

    def alive(self, rows: int) -> int:
        """Rows under ``rows`` output rows."""
        return self.stride * (rows - 1) + self.after + self.before


EVERY = RowSpan(1, EVERY_ROW, EVERY_ROW)
"""All rows of a value, whatever the output rows: what a gate of one pixel reads."""


def spans_under(folded: Folded, units: Sequence[int], made: Collection[int]) -> dict[int, RowSpan]:
    """The rows of the values that some units read or make, under a range of rows of what they make for others.

    Args:
        folded: The block.
        units: Numbers of the units, ascending.
        made: Values that are needed in that range of rows.
    """
    found = dict.fromkeys(made, RowSpan())
    for index in reversed(units):
        unit, mine = folded.units[index], found.get(folded.value(index))
        if mine is None:
            raise InternalError(f"unit {unit.name} is read by nothing")
        for term in unit.terms:
            found[term.source] = mine.through(term).union(found.get(term.source))
        for value in unit.added:
            gate = folded.shapes[value].height < unit.shape.height
            found[value] = (EVERY if gate else mine).union(found.get(value))
    return found
