"""What the lowering of every instruction shares: the emitter, loop variables, buffers, registers, packed weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from blockfuse.errors import InternalError
from blockfuse.machine import Program, Tile
from blockfuse.machine.affine import Affine, Range
from blockfuse.schedules.cpu.pack import Layout
from blockfuse.schedules.cpu.view import View, ring_rows, strides
from blockfuse.schedules.emit import Buffer, Emitter, Index, index


@dataclass
class Kernel:
    """A kernel under construction.

    Attributes:
        program: What it computes.
        emitter: Takes the statements.
        layout: Where weights and biases lie in ``weights``.
        weights: The packed parameter.
        buffers: Of every tile in scope.
        batch: Number of images, a variable where the kernel takes any.
        poison: Whether tiles and registers start as NaN.
        env: Value of every loop variable in scope.
        registers: By lanes, buffers of one vector each. LLVM keeps them in registers as long as no buffer holds vectors
            of several widths.
        image: Number of the image.
        share: Number of the trip of the ``channel_split`` loop.
    """

    program: Program
    emitter: Emitter
    layout: Layout
    weights: Buffer
    buffers: dict[Tile, Buffer]
    batch: Index
    poison: bool = False
    env: dict[str, Index] = field(default_factory=dict)
    registers: dict[int, list[Buffer]] = field(default_factory=dict)
    image: Index = 0
    share: Index = 0

    @property
    def lanes(self) -> int:
        """float32 values in a full vector."""
        return self.program.lanes

    def index(self, value: Affine) -> Index:
        """A program's expression with the loop variables in scope."""
        return index(value, self.env)

    def bind(self, name: str, value: Affine) -> Index:
        """A program's expression, computed once."""
        return self.emitter.bind(name, self.index(value))

    def view(self, tile: Tile, copy: Index | None = None) -> View:
        """Addresses in a tile, for the image in scope and that copy, or the one of the share in scope."""
        row, pixel, channel = strides(tile)
        ring = ring_rows(tile)
        held = 0 if tile.ring else self.index(tile.top) * row
        base = self._start(tile, copy) - held - self.index(tile.left) * pixel - self.index(tile.first_channel) * channel
        start = self.emitter.bind(f"{tile.name}_base", base)
        return View(tile, self.buffers[tile.owner], start, row, pixel, channel, ring)

    def _start(self, tile: Tile, copy: Index | None) -> Index:
        if tile.is_global:
            return self.image * tile.size
        if tile.copies == 1:
            return 0
        return (self.share if copy is None else copy) * tile.size

    def vector_view(self, tile: Tile, copy: Index | None = None) -> View:
        """Addresses in a tile whose channels are neighbours.

        Raises:
            InternalError: The tile is planar.
        """
        if tile.planar:
            raise InternalError(f"tile {tile} is planar: LOAD it before anything else reads it")
        return self.view(tile, copy)

    def bounds(self, rows: Range) -> tuple[Index, Index]:
        """First row and number of rows, computed once."""
        low = self.bind("low", rows.low)
        size = rows.size
        count = size.const if size.is_constant else self.emitter.bind("count", self.index(rows.high) - low)
        return low, count

    @contextmanager
    def rows(self, bounds: tuple[Index, Index]) -> Iterator[Index]:
        """A loop over rows; yields the image row."""
        low, count = bounds
        with self.emitter.loop(count, "row") as i:
            yield self.emitter.bind("h", low + i)

    def columns(self, columns: Range) -> tuple[int, int]:
        """Bounds of columns.

        Raises:
            InternalError: They depend on a loop variable.
        """
        low, high = self.index(columns.low), self.index(columns.high)
        if not (isinstance(low, int) and isinstance(high, int)):
            raise InternalError(f"columns {columns} are not known when code is made")
        return low, high

    def channels(self, channels: Range) -> tuple[Index, int]:
        """First channel and number of channels.

        Raises:
            InternalError: Their number depends on a loop variable.
        """
        if not channels.size.is_constant:
            raise InternalError(f"the number of channels {channels} is not constant")
        return self.bind("first", channels.low), channels.size.const
