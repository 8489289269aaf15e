"""Shared memory's 32 banks of 4 bytes: how many passes one access of a warp takes, and which row pitch takes fewest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from blockfuse.machine.layout import Layout

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
        rows: Rows of the source tile.
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
    rows: int
    cols: int
    out_cols: int
    segment: int
    stride_h: int
    stride_w: int
    taps_h: int

    def addresses(self, warp: int, layout: Layout) -> list[int | None]:
        """Byte address of each lane's first read, relative to the tile."""
        groups = self.chunk // self.lanes
        down, right = layout.step_h(self.segment * self.stride_h), layout.step_w(self.stride_w)
        out: list[int | None] = []
        for thread in range(warp * 32, warp * 32 + 32):
            strip, group = divmod(thread, groups)
            row, col = divmod(strip, self.out_cols)
            idle = thread >= self.threads // groups * groups
            out.append(None if idle else (row * down + col * right + group * self.lanes) * 2)
        return out

    def cost(self, layout: Layout) -> float:
        """Wavefronts per source pixel and channel."""
        warps = self.threads // 32
        passes = sum(wavefronts(self.addresses(w, layout), 2 * self.lanes) for w in range(warps)) / warps
        rows_read = (self.segment - 1) * self.stride_h + self.taps_h
        loads = self.taps_h * rows_read / self.segment / (self.stride_h * self.stride_w)
        return loads * passes / 32 / self.lanes


def matrix_pitch(channels: int) -> int:
    """Pitch of a tile that ldmatrix reads: 8 rows of 16 bytes fall into different banks."""
    return channels + 8
