"""Which warp works on which m16 tile of a sum, and which of them exist."""

from __future__ import annotations

from dataclasses import dataclass

from blockfuse.machine import Accumulators, Pixels, WarpTiling
from blockfuse.schedules.cuda.kernel import Kernel
from blockfuse.schedules.cuda.mma import M, N
from blockfuse.schedules.emit import Expr, Index, quotient, remainder


@dataclass(frozen=True)
class WarpShare:
    """One warp's part of a sum over ``pixels`` x ``channels``.

    Attributes:
        pixels: Pixels of the region, row by row.
        cols: Columns of the region.
        wm: Warps along the pixels.
        mb: m16 tiles of this warp in registers.
        ni: n16 tiles of this warp.
        blocks: n16 tiles of all warps.
        row: Number of the warp along the pixels.
        col: Number of the warp along the channels.
        piece: Which group of ``mb`` tiles: the trip of the ``pixels`` loop, or 0.
        pieces: Trips of that loop.
        first: Which of the tiles in registers the group begins with: not 0 where sums of all pieces are there.
    """

    pixels: int
    cols: int
    wm: int
    mb: int
    ni: int
    blocks: int
    row: Index
    col: Index
    piece: Index
    pieces: int
    first: Index

    @property
    def tiles(self) -> int:
        """m16 tiles of all warps."""
        return -(-self.pixels // M)

    def tile(self, j: int) -> Index:
        """Number of this warp's ``j``-th m16 tile."""
        return (self.piece * self.mb + j) * self.wm + self.row

    def last(self, j: int) -> int:
        """The greatest number that :meth:`tile` takes."""
        return ((self.pieces - 1) * self.mb + j) * self.wm + self.wm - 1

    def exists(self, j: int) -> Expr:
        """Whether there is a ``j``-th m16 tile; the same for all lanes of a warp."""
        return self.last(j) < self.tiles or self.tile(j) < self.tiles

    def holds(self, j: int, pixel: Index) -> Expr:
        """Whether ``pixel``, one of the ``j``-th m16 tile, is in the region."""
        return (self.last(j) + 1) * M <= self.pixels or pixel < self.pixels


def share(kernel: Kernel, acc: Accumulators) -> WarpShare:
    """The calling warp's part of a sum."""
    tiling, region = kernel.tiling(acc), acc.region
    pixels, cols = region.rows.size.const * region.cols.size.const, region.cols.size.const
    blocks = region.channels.size.const // N
    row = remainder(kernel.warp, tiling.wm) if tiling.wm > 1 else 0
    col = quotient(kernel.warp, tiling.wm) if tiling.wn > 1 else 0
    ni = blocks // tiling.wn
    piece = kernel.piece
    if piece is None:
        return WarpShare(pixels, cols, tiling.wm, tiling.mb, ni, blocks, row, col, 0, 1, 0)
    first = 0 if acc in piece.own else piece.number * piece.tiles
    return WarpShare(pixels, cols, tiling.wm, piece.tiles, ni, blocks, row, col, piece.number, piece.count, first)


def pieces(node: Pixels, tiling: WarpTiling) -> int:
    """Trips of a ``pixels`` loop."""
    tiles = -(-node.region.rows.size.const * node.region.cols.size.const // M)
    return -(-tiles // (tiling.wm * node.pixels))
