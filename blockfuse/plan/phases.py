"""Phases of a CPU kernel: what follows each other inside it, because a later part needs all of an earlier one's images.

A squeeze-excite block has three. The first makes the image that is gated, and the mean of each of its rows, in bands of
rows on all cores; the second, one task, is the rest of the pool and the two layers of the gate; the third scales,
projects and adds, in bands again. Every unit belongs to the last phase that is early enough for all that read it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from blockfuse.plan.row_span import RowSpan, spans_under
from blockfuse.plan.units import AddValue, Folded, MultiplyValue, Unit
from blockfuse.stages import Window


@dataclass(frozen=True)
class Phase:
    """Units that are made together, step by step through rings of rows.

    Attributes:
        units: Their numbers, ascending.
        height: Rows of what it makes for later phases or as the result, which its bands are bands of.
        kept: Values that later phases read; memory holds all of them, not rings of rows.
        spans: Of every value that its units read or make, the rows under a band.
    """

    units: tuple[int, ...]
    height: int
    kept: frozenset[int]
    spans: dict[int, RowSpan] = field(hash=False)


def phases(folded: Folded) -> tuple[Phase, ...]:
    """The phases in order; one, where every value can be made band by band."""
    return _Numbering(folded).run()


class _Numbering:
    """Phases counted from the end, found from the last unit to the first."""

    def __init__(self, folded: Folded) -> None:
        self.folded = folded
        self.members: dict[int, list[int]] = {}  # phase -> units, last one first
        self.numbers: dict[int, int] = {}  # value -> phase that makes it
        self.kept: dict[int, set[int]] = {}  # phase -> values

    def run(self) -> tuple[Phase, ...]:
        for index in reversed(range(len(self.folded.units))):
            value = self.folded.value(index)
            readers = [i for i, unit in enumerate(self.folded.units) if value in unit.reads]
            number = max((self._before(index, reader) for reader in readers), default=0)
            while not self._fits(value, number, readers):
                number += 2
            if self._is_outside(number, readers):
                self.kept.setdefault(number, set()).add(value)
            self.members.setdefault(number, []).append(index)
            self.numbers[value] = number
        return tuple(self._phase(number) for number in sorted(self.members, reverse=True))

    def _before(self, index: int, reader: int) -> int:
        """Phase of a unit whose result a reader needs all of before its first row, or may read row by row."""
        heights = [self.folded.units[i].shape.height for i in (index, reader)]
        return self.numbers[self.folded.value(reader)] + (1 if min(heights) == 1 < max(heights) else 0)

    def _is_outside(self, number: int, readers: list[int]) -> bool:
        """Whether a value of that phase is the result, or read by later phases."""
        return not readers or any(self.numbers[self.folded.value(reader)] < number for reader in readers)

    def _fits(self, value: int, number: int, readers: list[int]) -> bool:
        """Whether bands of the phase make bands of this value, and, where others read it, no row twice."""
        needed, height = self._spans(number).get(value, RowSpan()), self.folded.shapes[value].height
        if not self._is_outside(number, readers):
            return height == 1 or not needed.is_every_row
        made = self.kept.get(number, set())
        return needed == RowSpan() and all(self.folded.shapes[other].height == height for other in made)

    def _spans(self, number: int) -> dict[int, RowSpan]:
        return spans_under(self.folded, sorted(self.members.get(number, [])), self.kept.get(number, set()))

    def _phase(self, number: int) -> Phase:
        units, made = tuple(sorted(self.members[number])), self.kept[number]
        kept = frozenset(made - {len(self.folded.shapes) - 1})
        return Phase(units, self.folded.shapes[max(made)].height, kept, self._spans(number))


def is_by_channels(folded: Folded, phase: Phase) -> bool:
    """Whether shares of the channels can make a phase: no unit sums over channels that the phase itself makes."""
    inside = {folded.value(index) for index in phase.units}
    units = [folded.units[index] for index in phase.units]
    alone = all(
        unit.kind in {"depthwise", "pool", "map"} or not inside & {term.source for term in unit.terms} for unit in units
    )
    plain = all(unit.kind in {"contract", "depthwise", "pool", "map"} for unit in units)
    return alone and plain and len({unit.shape.channels for unit in units}) == 1


# ---- pools of whole images -------------------------------------------------------------------------------------------


def by_rows(folded: Folded) -> Folded:
    """The same units, with pools over whole images in two: over every row, which bands can make, and over the results.

    A block that is such a pool alone stays as it is.
    """
    wholes = [index for index, unit in enumerate(folded.units) if pools_everything(folded, unit)]
    if not wholes or len(folded.units) == 1:
        return folded
    units = [each for index, unit in enumerate(folded.units) for each in _in_two(folded, index, unit, wholes)]
    return replace(folded, units=tuple(units))


def pools_everything(folded: Folded, unit: Unit) -> bool:
    """Whether a unit pools a whole image of several rows and columns."""
    if unit.kind != "pool":
        return False
    image, window = folded.shapes[unit.terms[0].source], unit.terms[0].window
    whole = Window(image.height, image.width, window.stride_h, window.stride_w)
    return image.height > 1 and image.width > 1 and window == whole


def _in_two(folded: Folded, index: int, unit: Unit, wholes: list[int]) -> Iterator[Unit]:
    """A unit that reads the values by their new numbers; where it pools a whole image, two."""

    def moved(value: int) -> int:
        return value + sum(folded.value(whole) <= value for whole in wholes)

    terms = tuple(replace(term, source=moved(term.source)) for term in unit.terms)
    steps = tuple(
        replace(step, value=moved(step.value)) if isinstance(step, AddValue | MultiplyValue) else step
        for step in unit.epilogue
    )
    if index not in wholes:
        yield replace(unit, terms=terms, epilogue=steps)
        return
    term, image = terms[0], folded.shapes[unit.terms[0].source]
    rows = replace(unit.shape, height=image.height)
    yield replace(
        unit, terms=(replace(term, window=Window(1, image.width)),), shape=rows, epilogue=(), name=f"{unit.name}_rows"
    )
    rest = replace(term, source=moved(folded.value(index)) - 1, window=Window(image.height, 1))
    yield replace(unit, terms=(rest,), epilogue=steps)
