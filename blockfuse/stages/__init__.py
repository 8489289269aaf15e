"""Stage kinds: one file each. A block is a small graph of them, and knows no other vocabulary."""

from blockfuse.stages.base import Array, Frame, ImageShape, Stage, Window
from blockfuse.stages.border import Border
from blockfuse.stages.conv import Conv
from blockfuse.stages.depthwise import Depthwise
from blockfuse.stages.elementwise import ACTIVATIONS, Activation, Add, Function, Multiply
from blockfuse.stages.grouped import Grouped
from blockfuse.stages.join import Concat, Slice
from blockfuse.stages.norm import Divisor, Norm, Scale, Slope, normalized
from blockfuse.stages.pool import Pool, Reduction

__all__ = [
    "ACTIVATIONS",
    "Activation",
    "Add",
    "Array",
    "Border",
    "Concat",
    "Conv",
    "Depthwise",
    "Divisor",
    "Frame",
    "Function",
    "Grouped",
    "ImageShape",
    "Multiply",
    "Norm",
    "Pool",
    "Reduction",
    "Scale",
    "Slice",
    "Slope",
    "Stage",
    "Window",
    "normalized",
]
