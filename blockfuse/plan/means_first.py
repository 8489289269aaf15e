"""Squeeze-excite behind a linear 1x1 convolution: the means of its result are its product with the means of its input.

::

    y = W x + b                     m = mean of x, over the image
    g = gate(V (mean of y) + c)     g = gate((V W) m + (V b + c))
    y * g                           (W x + b) * g

On the right the gate is known before the convolution, which then scales its sums by it: nothing has to pass through
memory between them, and fewer channels are pooled.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from blockfuse.block import Block, ParameterKey
from blockfuse.stages import Array, Conv, Multiply, Pool, Stage, Window


def means_first(block: Block) -> Block | None:
    """The block with its gates made before what they scale; None if it has no such gate."""
    pools = (number for number, stage in enumerate(block.stages) if isinstance(stage, Pool))
    moved = next(filter(None, (_moved(block, number) for number in pools)), None)
    return moved and (means_first(moved) or moved)


def _moved(block: Block, number: int) -> Block | None:
    """The block whose pool, that stage, is of the input of the convolution before it; None if that is impossible."""
    inputs, pool = len(block.inputs), block.stages[number]
    source, squeezed = pool.inputs[0], _readers(block, inputs + number)
    if source < inputs or len(squeezed) != 1 or not _is_mean(block, pool):
        return None
    conv, (squeeze,) = source - inputs, squeezed
    if not _is_pointwise(block.stages[conv]) or not _is_pointwise(block.stages[squeeze]):
        return None
    operand = block.stages[conv].inputs
    scalers = [reader for reader in _readers(block, source) if isinstance(block.stages[reader], Multiply)]
    if not scalers or block.shapes[operand[0]].channels > block.shapes[source].channels:
        return None
    stages = [replace(stage, inputs=operand) if stage is pool else stage for stage in block.stages]
    moved = replace(block, stages=tuple(stages), parameters=_through(block.parameters, conv, squeeze))
    return _later(moved, conv)


def _later(block: Block, number: int) -> Block:
    """The same block with a stage right before the first one that reads it."""
    inputs, first = len(block.inputs), min(_readers(block, len(block.inputs) + number))
    order = [*range(number), *range(number + 1, first), number, *range(first, len(block.stages))]
    place = {value: value for value in range(inputs)} | {inputs + old: inputs + new for new, old in enumerate(order)}
    moved = (block.stages[old] for old in order)
    return replace(
        block,
        stages=tuple(replace(stage, inputs=tuple(place[value] for value in stage.inputs)) for stage in moved),
        parameters={(place[inputs + old] - inputs, key): data for (old, key), data in block.parameters.items()},
    )


def _through(known: Mapping[ParameterKey, Array], conv: int, squeeze: int) -> Mapping[ParameterKey, Array]:
    """The parameters where one convolution also does the work of another before it; none where none are known."""
    if not known:
        return known
    inner, outer = (np.asarray(known[stage, "weight"], np.float64)[:, :, 0, 0] for stage in (conv, squeeze))
    bias = outer @ np.asarray(known[conv, "bias"], np.float64) + known[squeeze, "bias"]
    weight = (outer @ inner)[:, :, None, None]
    dtype = known[squeeze, "weight"].dtype
    return {**known, (squeeze, "weight"): weight.astype(dtype), (squeeze, "bias"): bias.astype(dtype)}


def _is_mean(block: Block, pool: Stage) -> bool:
    """Whether a pool is the mean of a whole image."""
    shape = block.shapes[pool.inputs[0]]
    if not isinstance(pool, Pool) or pool.reduction != "mean" or pool.count:
        return False
    return (pool.window.r, pool.window.s) == (shape.height, shape.width) and not pool.window.has_padding


def _is_pointwise(stage: Stage) -> bool:
    """Whether a stage is a 1x1 convolution that reads every pixel."""
    return isinstance(stage, Conv) and stage.window == Window()


def _readers(block: Block, value: int) -> list[int]:
    """Numbers of the stages that read a value."""
    return [number for number, stage in enumerate(block.stages) if value in stage.inputs]
