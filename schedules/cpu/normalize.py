"""NORM: every pixel minus the mean of its channels, over their standard deviation, in three passes over the pixel.

for row:
  for tile of columns:                     the sums of its pixels do not wait for each other
    sums[p] = sum of x                     by vectors, then over the lanes
    means[p] = sum / C
    sums[p] = sum of (x - mean)^2          a second pass: no cancellation, as sum(x^2) - C mean^2 would have
    factors[p] = 1 / sqrt(sum / C + epsilon)
    target = steps((x - mean) * factor)

Where the divisor is the mean, the second pass and the difference are left out, and the factor is 1 / (mean + epsilon).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

from tvm import tirx

from blockfuse.errors import InternalError
from blockfuse.machine import Normalize
from blockfuse.machine.affine import span
from blockfuse.schedules.cpu.context import Kernel
from blockfuse.schedules.cpu.epilogue import Finish
from blockfuse.schedules.cpu.vectors import panels, runs
from blockfuse.schedules.cpu.window import ColumnTile, column_tiles
from blockfuse.schedules.emit import Buffer, Expr, Index, broadcast, constant, load

REGISTERS = 3
"""Registers per pixel."""

Term: TypeAlias = Callable[[int, Expr, int], Expr]
"""Pixel, vector of its channels and lanes -> what is summed."""


def lower_normalize(kernel: Kernel, node: Normalize) -> None:
    """Emit a region.

    Raises:
        InternalError: The region has not all channels.
    """
    _Normalize(kernel, node).lower()


class _Normalize:
    """One NORM: addresses, and three registers for every pixel of a tile."""

    def __init__(self, kernel: Kernel, node: Normalize) -> None:
        if node.region.channels != span(0, node.source.image.channels):
            raise InternalError(f"{node} does not see all channels of a pixel")
        self._kernel, self._node = kernel, node
        self._view = kernel.vector_view(node.source)
        self._finish = Finish(kernel, node.target, node.steps)
        self._channels = node.source.image.channels
        self._by_mean = node.divisor == "mean"
        registers = kernel.registers[kernel.lanes]
        sets = [registers[i * node.pixels : (i + 1) * node.pixels] for i in range(REGISTERS)]
        self._sums, self._means, self._factors = sets

    def lower(self) -> None:
        """Emit the region."""
        kernel, node = self._kernel, self._node
        tiles = column_tiles(*kernel.columns(node.region.cols), node.pixels)
        with kernel.rows(kernel.bounds(node.region.rows)) as h:
            self._finish.enter_row(h)
            row = kernel.emitter.bind("x", self._view.row(h))
            for tile, count in runs(tiles, lambda tile: tile.width):
                with kernel.emitter.loop(count, "tile") as t:
                    self._tile(tile, tile.first + t * tile.width, row)

    def _tile(self, tile: ColumnTile, column: Index, row: Index) -> None:
        emitter, lanes, share = self._kernel.emitter, self._kernel.lanes, constant(1 / self._channels)
        start = row + column * self._view.pixel

        def centred(p: int, x: Expr, width: int) -> Expr:
            return x - load(self._means[p], 0, width)

        def square(p: int, x: Expr, width: int) -> Expr:
            return centred(p, x, width) * centred(p, x, width)

        for p, total in self._totals(tile, start, lambda p, x, width: x):  # noqa: ARG005 - the channels themselves
            by_mean = constant(1.0) / (total * share + constant(self._node.epsilon))
            emitter.store(self._means[p], 0, broadcast(total * share, lanes), lanes)
            if self._by_mean:
                emitter.store(self._factors[p], 0, broadcast(by_mean, lanes), lanes)
        for p, total in () if self._by_mean else self._totals(tile, start, square):
            factor = constant(1.0) / tirx.sqrt(total * share + constant(self._node.epsilon))
            emitter.store(self._factors[p], 0, broadcast(factor, lanes), lanes)
        for channel, width in self._vectors():
            for p in range(tile.width):
                x = load(self._view.buffer, start + p * self._view.pixel + channel, width)
                value = (x if self._by_mean else centred(p, x, width)) * load(self._factors[p], 0, width)
                self._finish.store(value, column + p, channel, width)

    def _totals(self, tile: ColumnTile, start: Index, term: Term) -> list[tuple[int, Expr]]:
        """The sum of a term over the channels of every pixel."""
        emitter, lanes = self._kernel.emitter, self._kernel.lanes
        for p in range(tile.width):
            emitter.store(self._sums[p], 0, constant(0.0, lanes), lanes)
        for channel, width in self._vectors():
            for p in range(tile.width):
                x = load(self._view.buffer, start + p * self._view.pixel + channel, width)
                emitter.store(self._sums[p], 0, load(self._sums[p], 0, width) + term(p, x, width), width)
        return [(p, self._over_lanes(self._sums[p])) for p in range(tile.width)]

    def _vectors(self) -> Iterator[tuple[Index, int]]:
        """First channel and lanes of all vectors, in loops where they are equal."""
        for panel, count in runs(panels(self._channels, self._kernel.lanes, 1), lambda panel: panel.widths):
            with self._kernel.emitter.loop(count, "vector") as i:
                yield panel.first + i * panel.size, panel.size

    def _over_lanes(self, register: Buffer) -> Expr:
        """The sum of all lanes, half and half."""
        emitter, lanes = self._kernel.emitter, self._kernel.lanes
        while lanes > 1:
            lanes //= 2
            emitter.store(register, 0, load(register, 0, lanes) + load(register, lanes, lanes), lanes)
        return load(register, 0)
