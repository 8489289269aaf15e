"""GEMM: the micro-kernel.

for filter row inside the image:           bounds depend on the output row, not on anything inside
  for filter column, input channel:        one loop where the values under filter columns are neighbours
    for p, v:                              written out
      sums[p][v] += x[p] * w[v]            one multiply-add with x broadcast from memory
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tvm import tirx

from blockfuse.errors import InternalError
from blockfuse.machine import Gemm, Region
from blockfuse.schedules.cpu.context import Kernel
from blockfuse.schedules.cpu.pack import LINE
from blockfuse.schedules.cpu.vectors import Panel, runs
from blockfuse.schedules.cpu.window import (
    ColumnTile,
    all_taps,
    filter_rows,
    input_row,
    rows_inside,
    rows_may_leave,
    taps_inside,
)
from blockfuse.schedules.emit import Buffer, Index, broadcast, load


@dataclass(frozen=True)
class Piece:
    """What is in registers: some pixels of one row by the vectors of one panel.

    Attributes:
        tile: Its columns; of a run of equal tiles, the first.
        row: Output row.
        column: Output column of the first pixel.
        panel: The vectors.
        channel: Image channel of the first lane.
        before: Channels of the region before the panel.
        number: Pieces before this one that use the panel.
        pieces: Pieces that use the panel; 0 where code cannot know.
    """

    tile: ColumnTile
    row: Index
    column: Index
    panel: Panel
    channel: Index
    before: Index
    number: Index
    pieces: int

    def sums(
        self, registers: Mapping[int, Sequence[Buffer]], pixels: Iterable[int] | None = None
    ) -> Iterator[tuple[Buffer, int, int, int]]:
        """Register, pixel, first lane in the panel and width of every sum, or of those of some pixels."""
        vectors = self.panel.vectors
        for p in range(self.tile.width) if pixels is None else pixels:
            for j, (lane, width) in enumerate(vectors):
                yield registers[width][p * len(vectors) + j], p, lane, width


class Term:
    """One GEMM inside a PIXELS node: its source, window and weights."""

    def __init__(self, kernel: Kernel, gemm: Gemm, region: Region) -> None:
        if gemm.weights.outputs != region.channels:
            raise InternalError(f"{gemm} makes channels other than {region.channels}")
        self._kernel = kernel
        self._gemm = gemm
        self._view = kernel.view(gemm.source)
        self._channel = kernel.bind("c", gemm.weights.inputs.low + gemm.channel)
        self._inputs = gemm.weights.inputs.size.const
        self._weights = kernel.emitter.bind("weights", kernel.layout.parts[gemm].at(kernel.env))
        first, self._filter_rows = filter_rows(gemm.window, gemm.weights.taps)
        self._first_row = kernel.bind("first_r", first)
        self._rows: tuple[Index, Index] = (self._first_row, self._filter_rows)

    def taps(self, tile: ColumnTile) -> tuple[tuple[int, ...], ...]:
        """For every filter column, the pixels it is multiplied for."""
        window, source = self._gemm.window, self._gemm.source
        return all_taps(window, tile) if source.padded else taps_inside(window, source.image, tile)

    def enter_row(self, h: Index) -> None:
        """Compute once which filter rows count for output row ``h``: all where the source holds its padding."""
        window, source, bind = self._gemm.window, self._gemm.source, self._kernel.emitter.bind
        self._rows = (self._first_row, self._filter_rows)
        if not source.padded and rows_may_leave(window, source.image):
            low, high = rows_inside(window, source.image, h, *self._rows)
            self._rows = (bind("low_r", low), bind("rows_r", high - low))

    def emit(self, piece: Piece) -> None:
        """Add this term to the sums of a piece."""
        emitter, window, view = self._kernel.emitter, self._gemm.window, self._view
        column = (piece.column * window.stride_w - window.pad_left) * view.pixel + self._channel * view.channel
        panel = emitter.bind("panel_w", self._weights + piece.before * self._depth)
        low, count = self._rows
        with emitter.loop(count, "r") as i:
            r = low + i
            x = emitter.bind("x", view.row(input_row(window, piece.row, r)) + column)
            done = (r - self._first_row) * (window.s * self._inputs)
            for sweep in self._sweeps(piece.tile):
                self._sweep(piece, sweep, x + sweep.offset, panel, done + sweep.first)

    @property
    def _depth(self) -> int:
        """Products per sum."""
        return self._filter_rows * self._gemm.window.s * self._inputs

    def _sweeps(self, tile: ColumnTile) -> list[_Sweep]:
        """How to go through one filter row.

        Filter columns that count for the same pixels make one loop if their values are neighbours in memory.
        """
        window, view, inputs = self._gemm.window, self._view, self._inputs
        neighbours = view.channel == 1 and view.pixel == inputs and window.dilation_w == 1
        columns = list(enumerate(self.taps(tile)))
        groups = runs(columns, lambda column: column[1] if neighbours else column)
        step = window.dilation_w * view.pixel
        return [_Sweep(pixels, s * step, s * inputs, count * inputs) for (s, pixels), count in groups if pixels]

    def _sweep(self, piece: Piece, sweep: _Sweep, x: Index, panel: Index, k: Index) -> None:
        with self._kernel.emitter.loop(sweep.count, "k") as c:
            self._multiply(piece, sweep.pixels, x + c * self._view.channel, panel, k + c)

    def _multiply(self, piece: Piece, pixels: tuple[int, ...], x: Index, panel: Index, k: Index) -> None:
        """``sums[p][v] += x[p] * w[v]`` for product number ``k`` of each sum."""
        kernel = self._kernel
        step = self._gemm.window.stride_w * self._view.pixel
        self._prefetch(piece, panel, k)
        for register, p, lane, width in piece.sums(kernel.registers, pixels):
            value = broadcast(load(self._view.buffer, x + p * step), width)
            weight = load(kernel.weights, panel + k * piece.panel.size + lane, width)
            kernel.emitter.store(register, 0, load(register, 0, width) + value * weight, width)

    def _prefetch(self, piece: Piece, panel: Index, k: Index) -> None:
        """Fetch this product's share of what lies behind the panel: every piece that uses the panel takes a part."""
        if not self._gemm.prefetch or not 0 < piece.pieces <= piece.panel.size:
            return
        share = piece.panel.size // piece.pieces
        position = panel + self._depth * (piece.panel.size + piece.number * share) + k * share
        for line in range(0, share, LINE):
            address = tirx.address_of(load(self._kernel.weights, position + line))
            self._kernel.emitter.evaluate(tirx.call_intrin("void", "tirx.prefetch", address, 0, 2, 1))


@dataclass(frozen=True)
class _Sweep:
    """Products that one loop adds: for those pixels, ``count`` of them from number ``first`` of the filter row.

    Attributes:
        pixels: Pixels of the piece.
        offset: Elements from the filter row's first value to that of the first product.
        first: Products of the filter row before.
        count: Products.
    """

    pixels: tuple[int, ...]
    offset: int
    first: int
    count: int
