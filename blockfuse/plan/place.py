"""Concatenation and splitting of channels as a matter of addresses instead of copies.

Images that are concatenated lie side by side in one wider image: the kernels that make them write there, and the
kernels that read the result find it there. Where concatenations grow, each reading all results before it as in DenseNet
(arXiv 1608.06993), one image holds them all::

    concat_1 = a b        a: channels 0.. of concat_3      concat_1: the first ones of concat_3
    concat_2 = a b c      b: those behind a                concat_2: the first ones of concat_3
    concat_3 = a b c d    c: those behind b

What splits or slices channels only names some of them. Where all parts of an image come back side by side in a
concatenation, as in the C2f blocks of YOLO, the image is a part itself.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from blockfuse.channels import CHANNELS, channel_ranges, is_of_channels
from blockfuse.graph import Graph, Op
from blockfuse.machine import Slot


@dataclass(frozen=True)
class Place:
    """Where an image lies.

    Attributes:
        buffer: Name of the image whose memory it is in; that of the widest one there.
        slot: Which of its channels.
    """

    buffer: str
    slot: Slot


@dataclass(frozen=True)
class Placement:
    """Images that lie among the channels of others.

    Attributes:
        places: Of every such image.
        free: Names of the operators that need no code for that reason.
    """

    places: Mapping[str, Place] = field(default_factory=dict)
    free: frozenset[str] = frozenset()

    def slots(self, names: Sequence[str]) -> tuple[Slot | None, ...]:
        """For each image the channels it has in its memory, None where it has all of them."""
        found = (self.places.get(name) for name in names)
        return tuple(place.slot if place else None for place in found)


def place(graph: Graph, ops: Sequence[Op], made: Collection[str], *, multiple: int = 1) -> Placement:
    """Decide which images lie among the channels of others.

    Args:
        graph: The network.
        ops: Operators that run by themselves, in order of execution.
        made: Images that kernels make; only those can lie anywhere.
        multiple: What the first channel and the width of every place must be a multiple of, so that kernels can move
            as many elements at a time.
    """
    ranges = {
        name: (op.inputs[0], first) for op in ops for name, first in channel_ranges(graph, op).items() if op.inputs
    }
    placing = _Placing(graph, frozenset(made), multiple, ranges)
    for op in ops:
        placing.concatenate(op)
    placing.settle()
    for op in ops:
        placing.split(op)
    return Placement(placing.places, frozenset(placing.free))


class _Placing:
    """What is placed so far: every row holds the parts of one concatenation that others may continue."""

    def __init__(
        self, graph: Graph, made: frozenset[str], multiple: int, ranges: Mapping[str, tuple[str, int]]
    ) -> None:
        self.graph, self.made, self.multiple = graph, made, multiple
        self.ranges = ranges  # of what splits and slices name: the image, and the first channel
        self.parts: dict[str, tuple[str, ...]] = {}  # by result: the images made by kernels that it consists of
        self.rows: list[str] = []  # the longest results
        self.places: dict[str, Place] = {}
        self.free: set[str] = set()

    def concatenate(self, op: Op) -> None:
        """Let a concatenation be side by side, unless its parts lie elsewhere in another order."""
        if op.kind != "Concat" or not is_of_channels(self.graph, op):
            return
        parts = tuple(part for name in self._joined(op.inputs) for part in self.parts.get(name, (name,)))
        if len(set(parts)) < len(parts) or not self.made.issuperset(parts) or not self._is_aligned(parts):
            return
        touched = [row for row in self.rows if not set(self.parts[row]).isdisjoint(parts)]
        if len(touched) > 1 or any(not _continues(parts, self.parts[row]) for row in touched):
            return
        self.parts[op.output] = parts
        self.free.add(op.name)
        if not touched:
            self.rows.append(op.output)
        elif len(parts) > len(self.parts[touched[0]]):
            self.rows[self.rows.index(touched[0])] = op.output

    def _joined(self, names: Sequence[str]) -> list[str]:
        """The names, with an image in the place of all its parts in order."""
        joined: list[str] = []
        start = 0
        while start < len(names):
            whole, count = self._whole(names[start:])
            joined.append(whole)
            start += count
        return joined

    def _whole(self, names: Sequence[str]) -> tuple[str, int]:
        """The image that the first names make up, and how many these are; else the first name."""
        source, _ = self.ranges.get(names[0], ("", 0))
        end = 0
        for count, name in enumerate(names, 1):
            if self.ranges.get(name) != (source, end):
                break
            end += self._width(name)
            if end == self._width(source):
                return source, count
        return names[0], 1

    def settle(self) -> None:
        """Give all parts, and results that others continue, their place in the longest result."""
        for row in self.rows:
            width = self._width(row)
            firsts = [0, *accumulate(self._width(part) for part in self.parts[row])]
            self.places |= {
                part: Place(row, Slot(first, width)) for part, first in zip(self.parts[row], firsts, strict=False)
            }
            self.places |= {
                name: Place(row, Slot(0, width))
                for name, parts in self.parts.items()
                if name != row and parts[0] == self.parts[row][0]
            }

    def split(self, op: Op) -> None:
        """Let the results of a split, or a slice, be parts of the image it reads."""
        ranges = channel_ranges(self.graph, op)
        source = op.inputs[0] if op.inputs else ""
        if not ranges or source not in self.made | set(self.parts) | set(self.places):
            return
        whole = self.places.get(source, Place(source, Slot(0, self._width(source))))
        found = {name: Slot(whole.slot.first + first, whole.slot.width) for name, first in ranges.items()}
        if any(number % self.multiple for slot in found.values() for number in (slot.first, slot.width)):
            return
        self.places |= {name: Place(whole.buffer, slot) for name, slot in found.items()}
        self.free.add(op.name)

    def _width(self, name: str) -> int:
        return self.graph.tensor(name).shape[CHANNELS]

    def _is_aligned(self, parts: Sequence[str]) -> bool:
        return all(self._width(part) % self.multiple == 0 for part in parts)


def _continues(parts: tuple[str, ...], known: tuple[str, ...]) -> bool:
    """Whether one of two concatenations begins with all of the other."""
    shared = min(len(parts), len(known))
    return parts[:shared] == known[:shared]
