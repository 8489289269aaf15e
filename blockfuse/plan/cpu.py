"""The choices that make a CPU kernel of a block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class UnitTiling:
    """How one unit sweeps its pixels.

    Attributes:
        pixels: Columns of one output row computed together (MR).
        vectors: Vectors of output channels computed together (NR); 1 where every channel is by itself.
        prefetch: Whether the sweep over one weight panel prefetches the next one.
        filter_rows: Whether one filter row at a time is applied to all pixels, with partial sums kept in the output,
            so that the weights in use fit the second-level cache.
    """

    pixels: int
    vectors: int
    prefetch: bool = False
    filter_rows: bool = False


def shares_vectors(inputs: int, outputs: int, lanes: int) -> bool:
    """Whether groups of that many input and output channels lie side by side in vectors instead of being swept alone.

    The groups of a vector of inputs are those of the vector of outputs at the same place, and every input of a group is
    moved to all lanes of its group; that takes as many moves as a group is wide, so wide groups gain nothing.
    """
    return inputs == outputs and inputs in {1, 2, 4, 8} and inputs < lanes


@dataclass(frozen=True)
class CpuPlan:
    """One way to run a block on a CPU.

    Attributes:
        mode: ``rows`` gives every task a band of output rows, which it makes step by step through rings of rows; phase
            after phase, where a block has several. ``panels`` gives every task a share of the output channels of a
            single contraction. ``channels`` gives every task a share of the hidden channels of an expand - depthwise -
            project block; partial results are summed afterwards.
        tasks: Bands, or shares, per image.
        rows: Output rows per step.
        chunk: Hidden channels at a time, in ``channels`` mode.
        units: Tiling of each unit.
        lanes: float32 elements per vector.
        threads: Cores planned for.
        by_channels: Of a block's phases in ``rows`` mode, those whose tasks are shares of the channels, all rows.
    """

    mode: Literal["rows", "panels", "channels"]
    tasks: int
    rows: int
    units: tuple[UnitTiling, ...]
    chunk: int = 0
    lanes: int = 16
    threads: int = 1
    by_channels: tuple[int, ...] = ()

    def __str__(self) -> str:
        tiles = " ".join(f"{unit.pixels}x{unit.vectors}" for unit in self.units)
        shares = "".join(f", channel shares in phase {number}" for number in self.by_channels)
        what = {
            "rows": f"{self.tasks} bands, {self.rows} rows a step{shares}",
            "panels": f"{self.tasks} channel shares",
        }
        text = what.get(self.mode, f"{self.tasks} shares of hidden channels, {self.chunk} at a time")
        return f"{text}; tiles {tiles}"
