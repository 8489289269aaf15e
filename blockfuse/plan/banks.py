"""Which row pitch of shared memory takes fewest passes through the banks, for what reads it."""

from __future__ import annotations

from dataclasses import dataclass

from blockfuse.machine.banks import wavefronts
from blockfuse.machine.layout import Layout
from blockfuse.machine.windows import WARP
from blockfuse.stages import Window

_WARPS = 8  # of REDUCE that are looked at


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


@dataclass(frozen=True)
class PoolReads:
    """How REDUCE reads a tile where several lanes share a window: neighbours have neighbouring vectors of a tap.

    Attributes:
        shared_by: Lanes that share a window.
        groups: Vectors of a pixel.
        lanes: Channels of a vector.
        pixels: Of the result.
        out_cols: Columns of the result.
        window: The pool's.
    """

    shared_by: int
    groups: int
    lanes: int
    pixels: int
    out_cols: int
    window: Window

    def passes(self, layout: Layout) -> int:
        """Passes through the banks of the first accesses of the warps, of as many as there are vectors for."""
        together = WARP // self.shared_by
        warps = range(min(_WARPS, -(-self.pixels * self.groups // together)))
        lanes = [divmod(lane, together) for lane in range(WARP)]
        accesses = [[self._place(layout, warp * together + number, tap) for tap, number in lanes] for warp in warps]
        return sum(wavefronts(access, 2 * self.lanes) for access in accesses)

    def _place(self, layout: Layout, number: int, tap: int) -> int | None:
        pixel, group = divmod(number, self.groups)
        if pixel >= self.pixels:
            return None
        (r, s), (row, col), window = divmod(tap, self.window.s), divmod(pixel, self.out_cols), self.window
        y, x = row * window.stride_h + r * window.dilation_h, col * window.stride_w + s * window.dilation_w
        first: int = layout.place(y, x)
        return 2 * (first + group * self.lanes)


def matrix_pitch(channels: int) -> int:
    """Pitch of a tile that ldmatrix reads: 8 rows of 16 bytes fall into different banks."""
    return channels + 8
