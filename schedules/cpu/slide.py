"""Windows that slide over every channel by itself: what DEPTHWISE, GROUPED and REDUCE have in common.

for vector of channels:
  for row:
    for tile of columns:                   tiles with the same taps inside the image share one loop
      sums[pixel] = start
      for filter row inside the image:
        for input column under the tile:   loaded once, then added to every pixel whose window it is in
          sums[p] = add(sums[p], x, tap)   for every part of x
      target = steps(sums)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from blockfuse.machine import Depthwise, Grouped, Reduce
from blockfuse.schedules.cpu.context import Kernel
from blockfuse.schedules.cpu.epilogue import Finish
from blockfuse.schedules.cpu.vectors import panels, runs
from blockfuse.schedules.cpu.window import (
    ColumnTile,
    all_taps,
    column_tiles,
    input_column,
    input_row,
    rows_inside,
    rows_may_leave,
    taps_inside,
)
from blockfuse.schedules.emit import Expr, Index, load

UNROLLED_COLUMNS = 16
"""Filter columns up to which a filter row is written out."""


@dataclass(frozen=True)
class Place:
    """Where sums are made.

    Attributes:
        tile: The columns; of a run of equal tiles, the first.
        column: Output column of the first pixel.
        before: Channels of the region before the vector.
        channel: Image channel of the first lane.
        lanes: Lanes of the vector.
        rows: Filter rows that lie inside the image.
    """

    tile: ColumnTile
    column: Index
    before: Index
    channel: Index
    lanes: int
    rows: Index


class Sliding(ABC):
    """One DEPTHWISE, GROUPED or REDUCE."""

    def __init__(self, kernel: Kernel, node: Depthwise | Grouped | Reduce, *, skips_padding: bool) -> None:
        self.kernel = kernel
        self.window = node.window
        self._node = node
        self._view = kernel.vector_view(node.source)
        self._finish = Finish(kernel, node.target, node.steps)
        self._skips = skips_padding or not node.source.padded

    @abstractmethod
    def start(self, place: Place) -> Expr:
        """What sums start from."""

    @abstractmethod
    def add(self, place: Place, total: Expr, x: Expr, r: Index, s: Index, part: int) -> Expr:
        """A sum with a part of the input vector under tap (r, s) added to it."""

    def parts(self, place: Place, x: Expr) -> list[Expr]:  # noqa: ARG002 - an interface
        """What is added one after the other for an input vector."""
        return [x]

    def end(self, place: Place, total: Expr, pixel: int) -> Expr:  # noqa: ARG002 - an interface
        """What the epilogue's steps are applied to."""
        return total

    def lower(self) -> None:
        """Emit the region."""
        kernel, node, emitter = self.kernel, self._node, self.kernel.emitter
        first, count = kernel.channels(node.region.channels)
        rows = kernel.bounds(node.region.rows)
        tiles = column_tiles(*kernel.columns(node.region.cols), node.pixels)
        tile_runs = runs(tiles, lambda tile: (tile.width, self.taps(tile)))
        for panel, panel_count in runs(panels(count, kernel.lanes, 1), lambda panel: panel.widths):
            with emitter.loop(panel_count, "vector") as i:
                before = emitter.bind("before", panel.first + i * panel.size)
                with kernel.rows(rows) as h:
                    self._finish.enter_row(h)
                    low, height = self._filter_rows(h)
                    for tile, tile_count in tile_runs:
                        with emitter.loop(tile_count, "tile") as t:
                            column = tile.first + t * tile.width
                            self._tile(Place(tile, column, before, first + before, panel.size, height), h, low)

    def taps(self, tile: ColumnTile) -> tuple[tuple[int, ...], ...]:
        """For every filter column, the pixels it counts for."""
        return taps_inside(self.window, self._view.tile.image, tile) if self._skips else all_taps(self.window, tile)

    def _filter_rows(self, h: Index) -> tuple[Index, Index]:
        """First filter row that counts for output row ``h``, and their number."""
        image, bind = self._view.tile.image, self.kernel.emitter.bind
        if not (self._skips and rows_may_leave(self.window, image)):
            return 0, self.window.r
        low, high = rows_inside(self.window, image, h, 0, self.window.r)
        low = bind("low_r", low)
        return low, bind("rows_r", high - low)

    def _tile(self, place: Place, h: Index, low: Index) -> None:
        kernel, emitter, view = self.kernel, self.kernel.emitter, self._view
        start = self.start(place)
        for p in range(place.tile.width):
            emitter.store(kernel.registers[place.lanes][p], 0, start, place.lanes)
        with emitter.loop(place.rows, "r") as i:
            r = low + i
            column = place.column * self.window.stride_w * view.pixel
            x = emitter.bind("x", view.row(input_row(self.window, h, r)) + column + place.channel)
            (self._row_unrolled if self.window.s <= UNROLLED_COLUMNS else self._row_looped)(place, x, r)
        for p in range(place.tile.width):
            total = self.end(place, load(kernel.registers[place.lanes][p], 0, place.lanes), p)
            self._finish.store(total, place.column + p, place.channel, place.lanes)

    def _row_unrolled(self, place: Place, x: Index, r: Index) -> None:
        """One filter row, input column by input column."""
        under: dict[int, list[tuple[int, int]]] = {}  # input column -> (filter column, pixel)
        for s, pixels in enumerate(self.taps(place.tile)):
            for p in pixels:
                under.setdefault(input_column(self.window, p, s), []).append((s, p))
        for column in sorted(under):
            value = load(self._view.buffer, x + column * self._view.pixel, place.lanes)
            self._add(place, under[column], value, r)

    def _row_looped(self, place: Place, x: Index, r: Index) -> None:
        """One filter row, pixel by pixel, for windows too wide to be written out."""
        taps = self.taps(place.tile)
        for p in range(place.tile.width):
            inside = [s for s, pixels in enumerate(taps) if p in pixels]
            if not inside:
                continue
            with self.kernel.emitter.loop(len(inside), "s", start=inside[0]) as s:
                column = input_column(self.window, p, s)
                value = load(self._view.buffer, x + column * self._view.pixel, place.lanes)
                self._add(place, [(s, p)], value, r)

    def _add(self, place: Place, over: Sequence[tuple[Index, int]], value: Expr, r: Index) -> None:
        """Add an input vector to the sums of pixels, under the filter columns that are over it."""
        for number, part in enumerate(self.parts(place, value)):
            for s, p in over:
                register = self.kernel.registers[place.lanes][p]
                total = load(register, 0, place.lanes)
                self.kernel.emitter.store(register, 0, self.add(place, total, part, r, s, number), place.lanes)
