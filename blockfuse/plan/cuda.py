"""The choices that make a CUDA kernel of a block."""

from __future__ import annotations

from dataclasses import dataclass

from blockfuse.machine import Engine, WarpTiling


@dataclass(frozen=True)
class Home:
    """Where one value lives while the kernel runs.

    Attributes:
        chunk: Channels made at a time. Of an input that is not whole: channels that come with one item of the weight
            stream.
        whole: Whether all channels stay in shared memory; otherwise a chunk lives until its reader has used it.
        registers: Whether a chunk never leaves the registers: the sums of one unit are the operand of the next.
        by_taps: Of an input that is not whole: whether what comes with an item is only what lies under one tap.
    """

    chunk: int
    whole: bool = True
    registers: bool = False
    by_taps: bool = False

    def __str__(self) -> str:
        place = "whole" if self.whole else "registers" if self.registers else "taps of" if self.by_taps else "chunk"
        return f"{place} {self.chunk}"


@dataclass(frozen=True)
class Slices:
    """What one item of the weight stream holds of a filter: ``taps`` filter positions of ``ks`` input channels."""

    taps: int
    ks: int


@dataclass(frozen=True)
class UnitPlan:
    """How one unit is computed.

    Attributes:
        tiling: Of its sums over the warps; None where it is not a contraction.
        slices: For each term, how its filter is cut.
        segment: Output rows that one thread of DEPTHWISE makes.
        hold: Whether the pixels it reads are in registers while chunk after chunk is made of them.
    """

    tiling: WarpTiling | None = None
    slices: tuple[Slices, ...] = ()
    segment: int = 1
    hold: bool = False


@dataclass(frozen=True)
class CudaPlan:
    """One way to run a block as one kernel.

    Attributes:
        tile_p: Output rows of a CTA.
        tile_q: Output columns of a CTA.
        warps: Warps of a CTA.
        homes: Of every value.
        units: Of every unit.
        depth: Slots of the weight stream.
        lanes: Channels per thread in DEPTHWISE and REDUCE.
        resident: CTAs that an SM is to hold at once, which bounds their registers.
        engine: What makes the sums of contractions; their tilings carry it into the program.
        split: CTAs that share the chunks of the result's channels; each makes all that they need of other values.
        images: Images of a CTA, one below the other; the tile is of all of them together.
        dense: Whether pixels lie as close as they can, whatever banks they fall into.
        direct: Whether the block, a single unit, goes from memory to memory with nothing on the chip.
    """

    tile_p: int
    tile_q: int
    warps: int
    homes: tuple[Home, ...]
    units: tuple[UnitPlan, ...]
    depth: int = 3
    lanes: int = 4
    resident: int = 1
    engine: Engine = Engine.MMA
    split: int = 1
    images: int = 1
    dense: bool = False
    direct: bool = False

    def __str__(self) -> str:
        homes = ", ".join(map(str, self.homes))
        engine = "" if self.engine is Engine.MMA else f", {self.engine}"
        split = f", channels of the result in {self.split} shares" if self.split > 1 else ""
        images = f" of {self.images} images" if self.images > 1 else ""
        tile = f"tile {self.tile_p}x{self.tile_q}{images}{split}"
        if self.direct:
            return f"{tile}, {self.warps} warps, from memory to memory, values: {homes}"
        dense = ", dense tiles" if self.dense else ""
        together = f", {self.resident} CTAs per SM" if self.resident > 1 else ""
        return f"{tile}, {self.warps} warps{engine}, {self.depth} slots{dense}{together}, values: {homes}"
