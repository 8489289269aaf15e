"""The blocks that are always possible: one convolution, normalization or pool, and elementwise operators around it."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from blockfuse.block import Block
from blockfuse.frontend.drafts import NoStage, StageDraft, is_view
from blockfuse.frontend.partition.blocks import ADDRESSES, NoBlock, block_of
from blockfuse.frontend.stages import stage_of
from blockfuse.stages import (
    Activation,
    Add,
    Border,
    Concat,
    Conv,
    Depthwise,
    Grouped,
    Multiply,
    Norm,
    Pool,
    Scale,
    Slice,
    Slope,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from blockfuse.graph import Graph, Op

_ELEMENTWISE = Activation | Add | Multiply | Scale | Slope
"""Stages that a unit before them takes in."""


def singles(graph: Graph, ops: Sequence[Op], max_stages: int) -> list[Block]:
    """Blocks of one convolution, normalization or pool each; operators that fit none stay outside.

    Of the convolutions before a residual add the last one takes it: the other operand has been computed by then. What
    no convolution takes behind it, such as a normalization with an activation, one takes that alone reads it.
    Elementwise operators that none takes are blocks of their own.

    Args:
        graph: A canonical graph.
        ops: The operators to place, producers before consumers.
        max_stages: Most stages in a block.

    Returns:
        The blocks, in the order of their convolutions; then the elementwise ones.
    """
    free = {op.name for op in ops}
    blocks: list[Block] = []
    for op in reversed(ops):
        if not isinstance(_stage(graph, op), Conv | Depthwise | Grouped | Norm | Pool | Border):
            continue
        chain = _chain(graph, op, free)[:max_stages]
        block = block_of(graph, chain)
        if isinstance(block, NoBlock):
            chain, block = [op], block_of(graph, [op])
        if isinstance(block, Block):
            blocks.append(block)
            free.difference_update(op.name for op in chain)
    blocks = [_with_prologue(graph, block, free, max_stages) for block in blocks[::-1]]
    return blocks + _elementwise(graph, ops, free, max_stages)


def stays_because(graph: Graph, op: Op) -> str:
    """Why nothing is fused with an operator that no pattern took."""
    draft = stage_of(graph, op)
    if isinstance(draft, NoStage):
        return draft.reason
    if isinstance(draft.stage, Concat | Slice):
        return f"{op.kind} {ADDRESSES}"
    if isinstance(draft.stage, Pool):
        return f"{op.kind}: a pool is a block of its own"
    if isinstance(draft.stage, _ELEMENTWISE):
        return f"elementwise {op.kind}: no convolution directly before it can take it"
    return f"single {op.kind.lower()}: no pattern takes it, and {_what_follows(graph, op)}"


def _chain(graph: Graph, op: Op, free: Collection[str]) -> list[Op]:
    """The operator and the free elementwise ones behind it, each the only reader of the one before."""
    chain = [op]
    if isinstance(_stage(graph, op), Pool):
        return chain
    while not graph.is_output(chain[-1].output):
        readers = graph.consumers(chain[-1].output)
        if len(readers) != 1 or readers[0].name not in free:
            break
        if not _can_follow(graph, chain[-1], readers[0]):
            break
        chain.append(readers[0])
    return chain


def _with_prologue(graph: Graph, block: Block, free: set[str], max_stages: int) -> Block:
    """The block with the free elementwise operators before it that nothing else reads."""
    ops = [graph.op(name) for name in block.ops]
    if isinstance(_stage(graph, ops[0]), Pool):
        return block
    before: list[Op] = []
    while len(ops) + len(before) < max_stages:
        op = graph.producer((before or ops)[0].inputs[0])
        if op is None or op.name not in free or not isinstance(_stage(graph, op), Activation | Scale | Slope):
            break
        if len(graph.consumers(op.output)) != 1 or graph.is_output(op.output):
            break
        before.insert(0, op)
    longer = block_of(graph, [*before, *ops])
    if not before or isinstance(longer, NoBlock):
        return block
    free.difference_update(op.name for op in before)
    return longer


def _elementwise(graph: Graph, ops: Sequence[Op], free: set[str], max_stages: int) -> list[Block]:
    """Blocks of free elementwise operators, each the only reader of the one before."""
    blocks = []
    for op in ops:
        if op.name not in free or not isinstance(_stage(graph, op), _ELEMENTWISE):
            continue
        chain = _chain(graph, op, free)[:max_stages]
        block = block_of(graph, chain)
        if isinstance(block, NoBlock):
            chain, block = [op], block_of(graph, [op])
        if isinstance(block, Block):
            blocks.append(block)
            free.difference_update(op.name for op in chain)
    return blocks


def _can_follow(graph: Graph, op: Op, reader: Op) -> bool:
    """Whether the reader works on each element of what ``op`` makes; what a gate is multiplied with is larger."""
    if is_view(graph, reader):
        return True
    if not isinstance(_stage(graph, reader), _ELEMENTWISE):
        return False
    return prod(graph.tensor(reader.output).shape) == prod(graph.tensor(op.output).shape)


def _what_follows(graph: Graph, op: Op) -> str:
    readers = graph.consumers(op.output)
    if graph.is_output(op.output):
        return "its result is an output of the model"
    if len(readers) != 1:
        return f"its result is read by {len(readers)} operators"
    return f"it is followed by {readers[0]}"


def _stage(graph: Graph, op: Op) -> object:
    draft = stage_of(graph, op)
    return draft.stage if isinstance(draft, StageDraft) else None
