"""What is summed, which warps sum it, and the weights that it is multiplied with."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from blockfuse.block import ParameterKey
from blockfuse.machine.affine import Range
from blockfuse.machine.tiles import Region


class Engine(StrEnum):
    """Which tensor-core instruction makes a sum. Sums and operands lie in registers the same way for both."""

    MMA = "mma"  # mma.sync: one warp multiplies, and loads weights from shared memory itself
    WGMMA = "wgmma"  # wgmma.mma_async: four warps together; the tensor cores fetch the weights (sm_90a alone)


WARPGROUP = 4  # warps that execute one wgmma together


@dataclass(frozen=True)
class WarpTiling:
    """How the warps of a CTA share a sum; m16n8k16 tiles number pixels and channels in the order of the region.

    With wgmma, the m16 tiles of the same number of four neighbouring warps are one m64 tile.

    Attributes:
        wm: Warps along the pixels; warp ``i`` takes every ``wm``-th m16 tile.
        wn: Warps along the channels, each with a contiguous share.
        mb: m16 tiles of one warp that are in registers together.
        engine: What multiplies. wgmma needs ``wm`` to be a multiple of four.
    """

    wm: int
    wn: int
    mb: int
    engine: Engine = Engine.MMA

    def __str__(self) -> str:
        engine = "" if self.engine is Engine.MMA else f", {self.engine}"
        return f"{self.wm}x{self.wn} warps, {self.mb} m16 tiles each{engine}"


@dataclass(eq=False)
class Accumulators:
    """float32 sums in registers for a region of one value.

    Attributes:
        name: Unique within the program.
        region: What is summed; a ``pixels`` loop works on it piece by piece.
        tiling: Which warp sums what, on a GPU.
    """

    name: str
    region: Region
    tiling: WarpTiling | None = None

    @property
    def registers(self) -> int:
        """Sums in one thread of a GPU: four per m16n8 tile."""
        if self.tiling is None:
            return 0
        return self.tiling.mb * self.region.channels.size.const // self.tiling.wn // 2

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class WeightSlice:
    """A box of one stage's filter: taps (r * S + s), input channels, output channels.

    Attributes:
        groups: More than one where a grouped filter is used as a dense one, with zeros between its groups: input
            channels are those of the image then.
    """

    key: ParameterKey
    taps: Range
    inputs: Range
    outputs: Range
    name: str = field(default="", compare=False)
    groups: int = 1

    def __str__(self) -> str:
        return f"{self.name}[taps {self.taps}, {self.inputs} -> {self.outputs}]"
