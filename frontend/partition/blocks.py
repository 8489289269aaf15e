"""From a set of operators to a Block."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from blockfuse.block import Block
from blockfuse.frontend.drafts import NoStage, StageDraft, image_shape, is_view
from blockfuse.frontend.stages import stage_of
from blockfuse.pattern.legality import objection
from blockfuse.stages import Add, Concat, ImageShape, Multiply, Slice, Stage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from blockfuse.graph import Graph, Op


ADDRESSES = "only says where channels are, which between kernels takes no time: no kernel holds it without a pattern"
"""Why what concatenates or slices channels is in no block that patterns have not found."""


@dataclass(frozen=True)
class NoBlock:
    """Why operators cannot be one kernel, and the operator it is about; false as a condition."""

    reason: str
    op: Op

    def __bool__(self) -> bool:
        return False

    def __str__(self) -> str:
        return f"{self.op}: {self.reason}"


def block_of(graph: Graph, ops: Sequence[Op], pattern: str = "") -> Block | NoBlock:
    """The block that computes what some operators compute.

    Args:
        graph: A canonical graph.
        ops: Producers before consumers; the last makes the block's output.
        pattern: Name of the pattern that found them.

    Returns:
        A block named after the pattern or the operators, or why they cannot be one.
    """
    against = objection(graph, ops, ops[-1], {})
    if against is not None:
        return NoBlock(against.reason, against.op)
    drafts: list[StageDraft] = []
    views = {op.output: op.inputs[0] for op in ops if is_view(graph, op)}
    work = [op for op in ops if op.output not in views]
    for op in work:
        draft = stage_of(graph, op)
        if isinstance(draft, NoStage):
            return NoBlock(draft.reason, op)
        if isinstance(draft.stage, Concat | Slice) and not pattern:
            return NoBlock(ADDRESSES, op)
        drafts.append(replace(draft, reads=tuple(_viewed(name, views) for name in draft.reads)))
    if not drafts:
        return NoBlock("nothing is computed here", ops[0])
    sources, shapes = _sources(graph, work, drafts)
    batches = {graph.tensor(name).shape[0] for name in (*sources, *(op.output for op in ops))}
    dtypes = {graph.tensor(name).dtype for name in (*sources, *(op.output for op in ops))}
    if len(batches) > 1 or len(dtypes) > 1:
        return NoBlock("its values differ in batch size or type", ops[0])
    block = Block(
        inputs=shapes,
        stages=_numbered(graph, drafts, work, sources),
        batch=batches.pop(),
        dtype=dtypes.pop(),
        name=pattern or _name(ops),
        pattern=pattern,
        parameters={(i, key): data for i, draft in enumerate(drafts) for key, data in draft.parameters.items()},
        tensors=(*sources, ops[-1].output),
        ops=tuple(op.name for op in ops),
        any_batch=graph.batch is not None,
    )
    block.check()
    return block


def _name(ops: Sequence[Op]) -> str:
    """The kinds of a few operators, ``segment`` for more."""
    return "_".join(op.kind.lower() for op in ops) if len(ops) < 5 else "segment"


def _viewed(name: str, views: Mapping[str, str]) -> str:
    """The tensor that a view shows."""
    while name in views:
        name = views[name]
    return name


def _sources(
    graph: Graph, ops: Sequence[Op], drafts: Sequence[StageDraft]
) -> tuple[tuple[str, ...], tuple[ImageShape, ...]]:
    """Names and shapes of the computed tensors made outside, in the order in which the stages read them."""
    inside = {op.output for op in ops}
    names = dict.fromkeys(name for draft in drafts for name in draft.reads if name not in inside)
    shapes = [image_shape(graph.tensor(name)) for name in names]
    return tuple(names), tuple(shape for shape in shapes if shape is not None)


def _numbered(
    graph: Graph, drafts: Sequence[StageDraft], ops: Sequence[Op], sources: Sequence[str]
) -> tuple[Stage, ...]:
    """The stages with the numbers of what they read.

    An Add, and a Multiply of two images, reads the later value first, whatever the exporter did.
    """
    numbers = {name: number for number, name in enumerate((*sources, *(op.output for op in ops)))}
    stages = []
    for draft in drafts:
        reads = [numbers[name] for name in draft.reads]
        if isinstance(draft.stage, Add | Multiply) and len({graph.tensor(name).shape for name in draft.reads}) == 1:
            reads.sort(reverse=True)
        stages.append(replace(draft.stage, inputs=tuple(reads)))
    return tuple(stages)
