"""Cut a block into smaller ones that together compute the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from blockfuse.block import Block
from blockfuse.plan.fold import Folded


def into_units(folded: Folded) -> tuple[Block, ...]:
    """One block per unit, each reading the results of earlier ones from memory."""
    return tuple(part(folded, [index]) for index in range(len(folded.units)))


def is_closed(folded: Folded, group: Sequence[int]) -> bool:
    """Whether nothing but the last unit's result is read outside the group."""
    inside = {folded.value(index) for index in group[:-1]}
    return not any(inside & set(unit.reads) for index, unit in enumerate(folded.units) if index not in group)


def part(folded: Folded, group: Sequence[int]) -> Block:
    """The block of some of the units; the whole block if they are all."""
    if len(group) == len(folded.units):
        return folded.block
    block, base = folded.block, len(folded.block.inputs)
    stages = sorted(stage for index in group for stage in folded.units[index].stages)
    made = {base + stage for stage in stages}
    outside = list(dict.fromkeys(v for stage in stages for v in block.stages[stage].inputs if v not in made))
    number = {value: i for i, value in enumerate(outside)}
    number |= {base + stage: len(outside) + i for i, stage in enumerate(stages)}
    shapes = block.shapes
    return replace(
        block,
        inputs=tuple(shapes[value] for value in outside),
        stages=tuple(
            replace(block.stages[stage], inputs=tuple(number[v] for v in block.stages[stage].inputs))
            for stage in stages
        ),
        name=f"{block.name}.{'_'.join(folded.units[index].name for index in group)}",
        parameters={
            (i, key): data
            for (stage, key), data in block.parameters.items()
            for i, s in enumerate(stages)
            if s == stage
        },
        tensors=(*(_tensor(block, value) for value in outside), _tensor(block, base + stages[-1])),
    )


def _tensor(block: Block, value: int) -> str:
    """Name of a value: the graph tensor's for inputs and the result, one of the block's own for what lies between."""
    inputs = len(block.inputs)
    if value < inputs:
        return block.tensors[value] if block.tensors else f"{block.name}.in{value}"
    if value == inputs + len(block.stages) - 1:
        return block.tensors[-1] if block.tensors else f"{block.name}.out"
    return f"{block.name}.{block.stages[value - inputs].name}.{value}"
