"""How the pixels of a tile lie in its storage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Layout:
    """Rows of pixels, with room between them.

    Where readers move by several pixels, those of the same remainder lie together, so that what is read at a time are
    neighbours::

        rows 0, 2, 4, .. 1, 3, 5, ..      of each:  columns 0, 2, 4, ..  gap  1, 3, 5, ..  padding

    Attributes:
        rows: Rows held.
        cols: Columns held.
        pitch: Elements from a pixel to its neighbour.
        apart_h: Rows are kept apart by their remainder of this.
        apart_w: Columns are.
        gap: Elements between columns of one remainder and those of the next.
        padding: Elements behind every row.
    """

    rows: int
    cols: int
    pitch: int
    apart_h: int = 1
    apart_w: int = 1
    gap: int = 0
    padding: int = 0

    @property
    def group(self) -> int:
        """Elements from the first column of one remainder to that of the next."""
        return -(-self.cols // self.apart_w) * self.pitch + self.gap

    @property
    def row(self) -> int:
        """Elements from one row to its neighbour."""
        return (self.apart_w - 1) * self.group + self.cols // self.apart_w * self.pitch + self.padding

    @property
    def size(self) -> int:
        """Elements of all rows."""
        return ((self.apart_h - 1) * -(-self.rows // self.apart_h) + self.rows // self.apart_h) * self.row

    @property
    def is_plain(self) -> bool:
        """Whether pixel after pixel lies behind the one before."""
        return (self.apart_h, self.apart_w, self.padding) == (1, 1, 0)

    def step_h(self, rows: int) -> int:
        """Elements from a row to the one so many below, which has the same remainder."""
        return rows // self.apart_h * self.row

    def step_w(self, cols: int) -> int:
        """Elements from a pixel to the one so many further right, which has the same remainder."""
        return cols // self.apart_w * self.pitch

    def place(
        self,
        y: Any,
        x: Any,
        quotient: Callable[[Any, int], Any] = lambda a, b: a // b,
        remainder: Callable[[Any, int], Any] = lambda a, b: a % b,
    ) -> Any:
        """First element of a pixel; of many, or of one that is not known yet, by suitable divisions."""
        if self.apart_h > 1:
            y = remainder(y, self.apart_h) * -(-self.rows // self.apart_h) + quotient(y, self.apart_h)
        x, other = (x, 0) if self.apart_w == 1 else (quotient(x, self.apart_w), remainder(x, self.apart_w))
        return y * self.row + x * self.pitch + other * self.group
