"""The second result of a kernel whose first one is pooled: every CTA also reduces the tile that it makes.

::

    first kernel    ... -> image, and for every tile of it the sums of each channel in float32
    second kernel   sums of all tiles -> mean -> gate -> ...

So the image is not read again to be pooled. Each CTA writes what it alone sums: nothing need be zero before, and the
order of additions is always the same.
"""

from __future__ import annotations

from dataclasses import dataclass

from blockfuse.block import PARTIAL_BYTES
from blockfuse.errors import InternalError
from blockfuse.machine import Stack
from blockfuse.plan.cuda import CudaPlan
from blockfuse.plan.stack import over_stacks
from blockfuse.plan.units import Folded
from blockfuse.stages import ImageShape, Window


@dataclass(frozen=True)
class Parts:
    """What tiles are reduced to, as an image of one pixel per tile.

    Attributes:
        image: Of the image that a kernel works on; of stacked images, one pixel for each.
        window: The tile under a pixel.
        stack: How images make it; None where it is one.
    """

    image: ImageShape
    window: Window
    stack: Stack | None = None

    @property
    def in_memory(self) -> ImageShape:
        """The parts of one image."""
        return ImageShape(self.stack.height, self.image.width, self.image.channels) if self.stack else self.image


def parts_of(folded: Folded, plan: CudaPlan) -> Parts:
    """The parts of a block's result under a plan.

    Args:
        folded: The block over single images.
        plan: Made for it.

    Raises:
        InternalError: A tile has parts of several images.
    """
    folded = over_stacks(folded, plan.images)
    out, stack = folded.shapes[-1], folded.stack(len(folded.shapes) - 1)
    if stack is None:
        rows, cols = -(-out.height // plan.tile_p), -(-out.width // plan.tile_q)
        window = Window(plan.tile_p, plan.tile_q, plan.tile_p, plan.tile_q)
        return Parts(ImageShape(rows, cols, out.channels), window)
    if not has_parts(folded, plan.tile_p, plan.tile_q):
        raise InternalError(f"block {folded.block.name}: a tile of {plan.tile_p} rows has parts of several images")
    window = Window(stack.height, out.width, stack.period, out.width)
    return Parts(ImageShape(stack.images, 1, out.channels), window, Stack(stack.images, 1, 1))


def has_parts(folded: Folded, tile_p: int, tile_q: int) -> bool:
    """Whether a tile can be reduced where the result is pooled: it is of one image, or all of a stack."""
    out, is_stack = folded.shapes[-1], bool(folded.stacks)
    return not folded.block.pooled or not is_stack or (tile_p, tile_q) == (out.height, out.width)


def partial_bytes(folded: Folded, plan: CudaPlan) -> int:
    """Bytes of the parts of the whole batch; none of a block whose result is not pooled."""
    if not folded.block.pooled:
        return 0
    return parts_of(folded, plan).in_memory.elements * folded.block.batch * PARTIAL_BYTES
