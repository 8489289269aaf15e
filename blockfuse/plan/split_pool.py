"""A pool over a whole image as two: over equal parts of the image, and over their results.

On a GPU the image may be larger than what a core holds, and parts of it are work for several cores.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from math import log

from blockfuse.block import Block
from blockfuse.stages import Pool, Window


def split_pool(block: Block) -> Iterator[tuple[Block, Block]]:
    """Pairs of blocks that compute what a block does whose first stage pools a whole input, most even ones first.

    The second one reads the results of the parts, and what other stages read: the image, too, where it is gated.
    There is none for other blocks.
    """
    pool = block.stages[0]
    if not isinstance(pool, Pool) or pool.inputs[0] >= len(block.inputs):
        return
    image = block.inputs[pool.inputs[0]]
    if pool.window != Window(image.height, image.width, pool.window.stride_h, pool.window.stride_w):
        return
    parts = [part for part in product(_divisors(image.height), _divisors(image.width)) if part[0] * part[1] > 1]
    for r, s in sorted(parts, key=lambda part: (abs(log(image.pixels / (part[0] * part[1]) ** 2)), max(part))):
        if r * s < image.pixels:
            yield _halves(block, pool, r, s)


def _halves(block: Block, pool: Pool, r: int, s: int) -> tuple[Block, Block]:
    source = pool.inputs[0]
    image, count = block.inputs[source], len(block.inputs)
    first = replace(pool, name=f"{pool.name}.parts", inputs=(0,), window=Window(r, s, r, s))
    whole = replace(pool, inputs=(0,), window=Window(image.height // r, image.width // s))
    kept = [value for value in range(count) if any(value in stage.inputs for stage in block.stages[1:])]
    number = {value: i for i, value in enumerate(kept, 1)}
    number |= {count + stage: 1 + len(kept) + stage for stage in range(len(block.stages))}
    others = (replace(stage, inputs=tuple(number[value] for value in stage.inputs)) for stage in block.stages[1:])
    between = f"{block.name}.parts"
    names = block.tensors or (*(f"{block.name}.in{value}" for value in range(count)), f"{block.name}.out")
    parts = replace(
        block, inputs=(image,), stages=(first,), name=between, parameters={}, tensors=(names[source], between)
    )
    inputs = (first.output_shape([image]), *(block.inputs[value] for value in kept))
    tensors = (between, *(names[value] for value in kept), names[-1])
    return parts, replace(block, inputs=inputs, stages=(whole, *others), tensors=tensors)


def _divisors(size: int) -> list[int]:
    return [part for part in range(1, size + 1) if size % part == 0]
