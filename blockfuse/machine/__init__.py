"""The words of a tile program: tiles, instructions, loops.

A :class:`Program` says what one kernel does, for one plan and one target, in terms of regions of images held in tiles.
The lowering of each target and the float64 interpreter read nothing else. All coordinates are those of the image a tile
holds a part of: row and column 0 is the image's corner, whatever part of it the tile keeps.
"""

from blockfuse.machine.instructions import (
    Accumulate,
    Apply,
    Bias,
    Depthwise,
    Epilogue,
    EpilogueStep,
    Gemm,
    Instruction,
    Load,
    Mask,
    Reduce,
    ReduceAcross,
    Residual,
    Store,
    Sync,
    Zero,
    reads,
    written,
)
from blockfuse.machine.program import (
    Item,
    Loop,
    LoopKind,
    Node,
    Pixels,
    Program,
    Ring,
    Step,
    walk,
)
from blockfuse.machine.tiles import (
    Accumulators,
    Level,
    Region,
    Tile,
    WarpTiling,
    WeightSlice,
    global_tile,
)

__all__ = [
    "Accumulate",
    "Accumulators",
    "Apply",
    "Bias",
    "Depthwise",
    "Epilogue",
    "EpilogueStep",
    "Gemm",
    "Instruction",
    "Item",
    "Level",
    "Load",
    "Loop",
    "LoopKind",
    "Mask",
    "Node",
    "Pixels",
    "Program",
    "Reduce",
    "ReduceAcross",
    "Region",
    "Residual",
    "Ring",
    "Step",
    "Store",
    "Sync",
    "Tile",
    "WarpTiling",
    "WeightSlice",
    "Zero",
    "global_tile",
    "reads",
    "walk",
    "written",
]
