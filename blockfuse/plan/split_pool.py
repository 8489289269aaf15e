"""A pool over a whole image as two: over equal parts of the image, and over their results.

On a GPU the image may be larger than what a core holds, and parts of it are work for several cores.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from math import log

from blockfuse.block import Block
from blockfuse.stages import ImageShape, Pool, Window


def split_pool(block: Block) -> Iterator[tuple[Block, Block]]:
    """Pairs of blocks that compute what a block does whose first stage pools a whole input, most even ones first.

    The second one reads the results of the parts, and what other stages read: the image, too, where it is gated.
    There is none for other blocks.
    """
    pool = whole_pool(block)
    if pool is None:
        return
    image = block.inputs[pool.inputs[0]]
    parts = [part for part in product(_divisors(image.height), _divisors(image.width)) if part[0] * part[1] > 1]
    for r, s in sorted(parts, key=lambda part: (abs(log(image.pixels / (part[0] * part[1]) ** 2)), max(part))):
        if r * s < image.pixels:
            yield _halves(block, pool, r, s)


def whole_pool(block: Block) -> Pool | None:
    """The first stage of a block if that pools a whole input, else None."""
    pool = block.stages[0]
    if not isinstance(pool, Pool) or pool.inputs[0] >= len(block.inputs):
        return None
    image = block.inputs[pool.inputs[0]]
    whole = Window(image.height, image.width, pool.window.stride_h, pool.window.stride_w)
    return pool if pool.window == whole else None


def _halves(block: Block, pool: Pool, r: int, s: int) -> tuple[Block, Block]:
    source = pool.inputs[0]
    image, between = block.inputs[source], f"{block.name}.parts"
    first = replace(pool, name=f"{pool.name}.parts", inputs=(0,), window=Window(r, s, r, s))
    parts = replace(
        block,
        inputs=(image,),
        stages=(first,),
        name=between,
        parameters={},
        tensors=(_names(block)[source], between),
    )
    return parts, completing(block, pool, first.output_shape([image]), between)


def completing(block: Block, pool: Pool, parts: ImageShape, name: str, *, partial: bool = False) -> Block:
    """What is left of a block whose first stage pools a whole input, where another kernel has pooled parts of that.

    Args:
        block: The block.
        pool: Its first stage.
        parts: An image of one pixel for every part; the first input.
        name: Of the tensor that holds it.
        partial: Whether the parts are in float32, and sums in place of means, since they differ in size.
    """
    count = block.inputs[pool.inputs[0]].pixels if partial and pool.reduction == "mean" else 0
    whole = replace(pool, inputs=(0,), window=Window(parts.height, parts.width), count=count)
    kept = [value for value in range(len(block.inputs)) if any(value in stage.inputs for stage in block.stages[1:])]
    inputs = len(block.inputs)
    number = {value: i for i, value in enumerate(kept, 1)}
    number |= {inputs + stage: 1 + len(kept) + stage for stage in range(len(block.stages))}
    others = (replace(stage, inputs=tuple(number[value] for value in stage.inputs)) for stage in block.stages[1:])
    names = _names(block)
    return replace(
        block,
        inputs=(parts, *(block.inputs[value] for value in kept)),
        stages=(whole, *others),
        tensors=(name, *(names[value] for value in kept), names[-1]),
        partial=(0,) if partial else (),
    )


def _names(block: Block) -> tuple[str, ...]:
    """Names of a block's inputs and of its result."""
    inputs = (f"{block.name}.in{value}" for value in range(len(block.inputs)))
    return block.tensors or (*inputs, f"{block.name}.out")


def _divisors(size: int) -> list[int]:
    return [part for part in range(1, size + 1) if size % part == 0]
