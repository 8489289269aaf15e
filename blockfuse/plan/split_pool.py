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
    """Pairs of blocks that compute what a block does whose first stage pools its whole image, most even ones first.

    There is none for other blocks, among them those that read the image again.
    """
    pool = block.stages[0]
    if not isinstance(pool, Pool) or len(block.inputs) > 1 or any(0 in stage.inputs for stage in block.stages[1:]):
        return
    image = block.inputs[0]
    if pool.window != Window(image.height, image.width, pool.window.stride_h, pool.window.stride_w):
        return
    parts = [part for part in product(_divisors(image.height), _divisors(image.width)) if part[0] * part[1] > 1]
    for r, s in sorted(parts, key=lambda part: (abs(log(image.pixels / (part[0] * part[1]) ** 2)), max(part))):
        if r * s < image.pixels:
            yield _halves(block, pool, r, s)


def _halves(block: Block, pool: Pool, r: int, s: int) -> tuple[Block, Block]:
    image = block.inputs[0]
    first = replace(pool, name=f"{pool.name}.parts", window=Window(r, s, r, s))
    whole = replace(pool, window=Window(image.height // r, image.width // s))
    between = f"{block.name}.parts"
    tensors = block.tensors or (f"{block.name}.in", f"{block.name}.out")
    return (
        replace(block, stages=(first,), name=between, parameters={}, tensors=(tensors[0], between)),
        replace(
            block,
            inputs=(first.output_shape([image]),),
            stages=(whole, *block.stages[1:]),
            tensors=(between, tensors[-1]),
        ),
    )


def _divisors(size: int) -> list[int]:
    return [part for part in range(1, size + 1) if size % part == 0]
