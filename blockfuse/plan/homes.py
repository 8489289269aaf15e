"""Concatenation and slicing inside a CPU kernel as a matter of addresses instead of copies.

A value that is concatenated is made where the concatenation has its channels, in one ring of rows, and a slice is read
where its source lies::

    ring of concat: [ conv .......... | depthwise ....... ]      conv is read by depthwise, both by what reads concat

What cannot be so is copied: an input of the block, a value concatenated twice, a slice that is concatenated, and what
bands make more rows of than they make of the concatenation, where memory holds that as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from blockfuse.plan.phases import Phase
from blockfuse.plan.row_span import RowSpan
from blockfuse.plan.units import Folded, Unit


@dataclass(frozen=True)
class Home:
    """Where a value lies that has no storage of its own.

    Attributes:
        value: The one that has.
        first: Which of its channels is the value's channel 0.
    """

    value: int
    first: int


def homes(folded: Folded, found: Sequence[Phase], tasks: int, planar: Sequence[bool] = ()) -> Mapping[int, Home]:
    """The values without storage of their own.

    Args:
        folded: The block.
        found: Its phases.
        tasks: Bands of a phase.
        planar: For each input, whether memory holds it channel by channel.
    """
    return _Homes(folded, found, tasks, planar or (False,) * folded.input_count).run()


def parts(folded: Folded, unit: Unit) -> list[tuple[int, int]]:
    """What a concatenation consists of: for every part its value and its first channel."""
    values = [term.source for term in unit.terms]
    widths = [folded.shapes[value].channels for value in values]
    return list(zip(values, accumulate(widths, initial=0), strict=False))


def copied(folded: Folded, homes: Mapping[int, Home], index: int) -> Iterator[tuple[int, int]]:
    """The parts of a join that are copied: for each its value, and the first channel of it, or in the concatenation."""
    unit, value = folded.units[index], folded.value(index)
    if unit.kind == "slice" and value not in homes:
        yield unit.terms[0].source, unit.first
    if unit.kind != "concat":
        return
    own = homes.get(value, Home(value, 0))
    for part, first in parts(folded, unit):
        if homes.get(part) != Home(own.value, own.first + first):
            yield part, first


class _Homes:
    def __init__(self, folded: Folded, found: Sequence[Phase], tasks: int, planar: Sequence[bool]) -> None:
        self.folded, self.tasks, self.planar = folded, tasks, planar
        self.phase = {folded.value(index): phase for phase in found for index in phase.units}
        self.last = len(folded.shapes) - 1
        self.homes: dict[int, Home] = {}

    def run(self) -> Mapping[int, Home]:
        for index, unit in reversed(list(enumerate(self.folded.units))):
            if unit.kind == "concat":
                self._concatenate(self.folded.value(index), unit)
        for index, unit in enumerate(self.folded.units):
            if unit.kind == "slice":
                self._slice(self.folded.value(index), unit)
        return self.homes

    def _concatenate(self, value: int, unit: Unit) -> None:
        own = self.homes.get(value, Home(value, 0))
        for part, first in parts(self.folded, unit):
            if part not in self.homes and self._can_be_made_in(part, own.value):
                self.homes[part] = Home(own.value, own.first + first)

    def _can_be_made_in(self, part: int, owner: int) -> bool:
        if part < self.folded.input_count or self.folded.units[part - self.folded.input_count].kind == "slice":
            return False
        if part == owner or self.phase[part] is not self.phase[owner]:
            return False
        if self._is_whole(owner):
            return self.tasks == 1 or self.phase[part].height == 1 or self.phase[part].spans[part] == RowSpan()
        return not self._is_whole(part)

    def _slice(self, value: int, unit: Unit) -> None:
        source = unit.terms[0].source
        own = self.homes.get(source, Home(source, 0))
        if value != self.last and self._can_be_read_in(value, source, own.value):
            self.homes[value] = Home(own.value, own.first + unit.first)

    def _can_be_read_in(self, value: int, source: int, owner: int) -> bool:
        if owner < self.folded.input_count:
            return not self.planar[owner] or not self._is_whole(value)
        return self._is_whole(owner) or (self.phase[source] is self.phase[value] and not self._is_whole(value))

    def _is_whole(self, value: int) -> bool:
        """Whether memory holds all rows of a value."""
        return value == self.last or value in self.phase[value].kept
