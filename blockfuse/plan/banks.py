"""Which row pitch of shared memory takes fewest passes through the banks, for what reads it."""

from __future__ import annotations

from dataclasses import dataclass

from blockfuse.machine.banks import wavefronts
from blockfuse.machine.layout import Layout


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
