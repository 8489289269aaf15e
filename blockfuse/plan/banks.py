"""Shared memory's 32 banks of 4 bytes: how many passes one access of a warp takes, and which row pitch takes fewest."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

BANKS = 32
BANK_BYTES = 4
_LANES_PER_PASS = {2: 32, 4: 32, 8: 16, 16: 8}


def wavefronts(addresses: Sequence[int | None], width: int) -> int:
    """Passes through the banks of one access of a warp.

    Args:
        addresses: Byte address of each of the 32 lanes; None for lanes that do not take part.
        width: Bytes per lane: 2, 4, 8 or 16. Wide accesses go in groups of lanes.

    Returns:
        The sum over the groups of the largest number of different words in one bank.
    """
    group = _LANES_PER_PASS[width]
    return sum(_passes(addresses[low : low + group], width) for low in range(0, len(addresses), group))


def _passes(addresses: Sequence[int | None], width: int) -> int:
    span = range(max(1, width // BANK_BYTES))
    words = {address // BANK_BYTES + word for address in addresses if address is not None for word in span}
    counts = [0] * BANKS
    for word in words:
        counts[word % BANKS] += 1
    return max(counts)


@dataclass(frozen=True)
class DepthwiseReads:
    """How DEPTHWISE walks the tile it reads: each thread takes ``lanes`` channels of a strip of output rows.

    Attributes:
        chunk: Channels of one pass.
        lanes: Channels per thread.
        threads: Threads of the CTA.
        cols: Columns of the source tile.
        out_cols: Columns of the result.
        segment: Output rows per strip.
        stride_h: Source rows per output row.
        stride_w: Source columns per output column.
        taps_h: Filter rows R.
    """

    chunk: int
    lanes: int
    threads: int
    cols: int
    out_cols: int
    segment: int
    stride_h: int
    stride_w: int
    taps_h: int

    def addresses(self, warp: int, pitch: int, *, split: bool) -> list[int | None]:
        """Byte address of each lane's first read, relative to the tile."""
        groups = self.chunk // self.lanes
        out: list[int | None] = []
        for thread in range(warp * 32, warp * 32 + 32):
            strip, group = divmod(thread, groups)
            row, col = divmod(strip, self.out_cols)
            pixel = row * self.segment * self.stride_h * self.cols + col * (1 if split else self.stride_w)
            idle = thread >= self.threads // groups * groups
            out.append(None if idle else (pixel * pitch + group * self.lanes) * 2)
        return out

    def cost(self, pitch: int, *, split: bool) -> float:
        """Wavefronts per source pixel and channel: the loads, and the fragment stores that fill the tile."""
        warps = self.threads // 32
        passes = sum(wavefronts(self.addresses(w, pitch, split=split), 2 * self.lanes) for w in range(warps)) / warps
        rows_read = (self.segment - 1) * self.stride_h + self.taps_h
        loads = self.taps_h * rows_read / self.segment / (self.stride_h * self.stride_w)
        return loads * passes / 32 / self.lanes + fragment_store(pitch) / 64


@functools.lru_cache(maxsize=65536)
def fragment_store(pitch: int) -> int:
    """Wavefronts of a warp storing one 8x8 part of an mma result (4 bytes per lane) to rows of ``pitch`` halves."""
    return wavefronts([(lane // 4 * pitch + lane % 4 * 2) * 2 for lane in range(32)], 4)


@functools.lru_cache(maxsize=65536)
def best_pitch(reads: DepthwiseReads, channels: int, *, may_split: bool, multiple: int = 4) -> tuple[int, bool]:
    """Elements from pixel to pixel with the fewest modelled wavefronts, and whether to keep even columns apart.

    Args:
        reads: The access pattern.
        channels: Channels of the tile.
        may_split: Whether columns may be de-interleaved.
        multiple: Elements that the tile is written in at a time: what the pitch must be a multiple of.

    Returns:
        Pitch in elements and the column split.
    """
    choices = [
        (pitch, split)
        for split in ((False, True) if may_split else (False,))
        for pitch in range(channels, channels + 33, multiple)
    ]
    costs = {choice: round(reads.cost(choice[0], split=choice[1]), 9) for choice in choices}
    return min(choices, key=lambda choice: (costs[choice], choice[1], choice[0]))


def matrix_pitch(channels: int) -> int:
    """Pitch of a tile that ldmatrix reads: 8 rows of 16 bytes fall into different banks."""
    return channels + 8


@functools.lru_cache(maxsize=65536)
def matrix_conflicts(pitch: int, cols: int, out_cols: int, stride_h: int, stride_w: int, pixels: int) -> float:
    """Wavefronts of ldmatrix over those without conflicts, when it gathers the pixels of a window's tap.

    Args:
        pitch: Elements from pixel to pixel of the source tile.
        cols: Columns of the source tile.
        out_cols: Columns of the sums; they are numbered row by row, and each 8 neighbours are one access.
        stride_h: Source rows per output row.
        stride_w: Source columns per output column; 1 where the tile keeps even and odd columns apart.
        pixels: Number of sums.
    """
    groups = [range(low, low + 8) for low in range(0, pixels, 8)]
    passes = 0
    for group in groups:
        places = [divmod(min(pixel, pixels - 1), out_cols) for pixel in group]
        rows: list[int | None] = [(y * stride_h * cols + x * stride_w) * pitch * 2 for y, x in places]
        passes += wavefronts(rows, 16)
    return passes / len(groups)
