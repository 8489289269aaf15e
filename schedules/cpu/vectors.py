"""Channels as vectors: widths, panels, and runs of equal things.

A vector never has a mask: the channels beyond the last full vector are taken by narrower ones, 8, 4, 2 and 1 wide.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Panel:
    """Neighbouring vectors of output channels that one sweep over the pixels sums.

    Attributes:
        first: First channel.
        widths: Lanes of each vector.
    """

    first: int
    widths: tuple[int, ...]

    @property
    def size(self) -> int:
        """Channels in all vectors."""
        return sum(self.widths)

    @property
    def vectors(self) -> list[tuple[int, int]]:
        """First channel, counted from the panel's, and lanes of each vector."""
        return [(sum(self.widths[:i]), width) for i, width in enumerate(self.widths)]


def widths(channels: int, lanes: int) -> list[int]:
    """Lanes of the vectors that cover ``channels``: full ones, then falling powers of two."""
    full, rest = divmod(channels, lanes)
    out = [lanes] * full
    while rest:
        out.append(1 << (rest.bit_length() - 1))
        rest -= out[-1]
    return out


def panels(channels: int, lanes: int, vectors: int) -> list[Panel]:
    """``channels`` as panels of at most ``vectors`` vectors."""
    all_widths = widths(channels, lanes)
    groups = [tuple(all_widths[i : i + vectors]) for i in range(0, len(all_widths), vectors)]
    firsts = [sum(all_widths[: i * vectors]) for i in range(len(groups))]
    return [Panel(first, group) for first, group in zip(firsts, groups, strict=True)]


def runs(items: Sequence[T], key: Callable[[T], Hashable]) -> list[tuple[T, int]]:
    """The first of each run of neighbours with equal keys, and the run's length."""
    out: list[tuple[T, int]] = []
    for item in items:
        if out and key(out[-1][0]) == key(item):
            out[-1] = (out[-1][0], out[-1][1] + 1)
        else:
            out.append((item, 1))
    return out
