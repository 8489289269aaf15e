"""A tile as addresses: where image row, column and channel lie in a flat buffer."""

from __future__ import annotations

from dataclasses import dataclass

from blockfuse.errors import InternalError
from blockfuse.machine import Tile
from blockfuse.schedules.emit import Buffer, Index, remainder


@dataclass(frozen=True)
class View:
    """A buffer that holds a tile. Element (h, w, c) of the image is at ``row(h) + w * pixel + c * channel``.

    Attributes:
        tile: What it holds.
        buffer: Flat buffer.
        base: Position of image row, column and channel 0; of row 0 of the ring where the tile is one.
        row_stride: Elements from one row to the next.
        pixel: Elements from one column to the next.
        channel: Elements from one channel to the next; 1 unless the tile is planar.
        ring: Rows of the ring, or 0 where every row has its own place.
    """

    tile: Tile
    buffer: Buffer
    base: Index
    row_stride: int
    pixel: int
    channel: int
    ring: int

    def row(self, h: Index) -> Index:
        """Position of row ``h``, column 0, channel 0 of the image."""
        slot = remainder(h, self.ring) if self.ring else h
        return self.base + slot * self.row_stride


def strides(tile: Tile) -> tuple[int, int, int]:
    """Elements from one row, column and channel of a tile to the next.

    Raises:
        InternalError: A trait that tiles of CPU programs do not have.
    """
    if not tile.layout.is_plain:
        raise InternalError(f"tile {tile}: {tile.layout} is not for CPUs")
    if tile.planar:
        return tile.cols, 1, tile.rows * tile.cols
    return tile.cols * tile.pitch, tile.pitch, 1


def ring_rows(tile: Tile) -> int:
    """Rows of the ring; 0 where the tile is none, or holds the whole image so that rows need no remainder."""
    return tile.rows if tile.ring and (tile.padded or tile.rows < tile.image.height) else 0
