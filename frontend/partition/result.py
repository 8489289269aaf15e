"""What partitioning gives."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from blockfuse.block import Block
from blockfuse.graph import Graph, Op

if TYPE_CHECKING:
    from collections.abc import Mapping

    from blockfuse.pattern import Mismatch

Step: TypeAlias = Block | Op


@dataclass(frozen=True)
class Found:
    """A place where a pattern matched and became a block.

    Attributes:
        pattern: Name of the pattern.
        ops: Names of the operators inside, in the order of the block's stages.
        block: The block.
        named: Name of the operator for every capture by ``name=``.
        tensors: Name of the graph tensor for every parameter of the pattern; "" for a missing bias.
    """

    pattern: str
    ops: tuple[str, ...]
    block: Block
    named: Mapping[str, str]
    tensors: Mapping[str, str]


@dataclass(frozen=True)
class Overlap:
    """A match that gave way to one that came first in the order of patterns, or had more operators.

    Attributes:
        kept: Name of the pattern that won.
        dropped: Name of the pattern that lost.
        ops: Names of the operators both wanted.
    """

    kept: str
    dropped: str
    ops: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.dropped} gives way to {self.kept}: both match {', '.join(self.ops)}"


@dataclass(frozen=True)
class Partition:
    """A graph as a sequence of steps.

    Attributes:
        graph: The graph.
        steps: In an order in which every step follows the ones it reads.
        found: The blocks that patterns found, in that order too.
        reasons: For every operator outside blocks of several stages, by its name, why it is there.
        overlaps: Matches that gave way to others.
        nearest: By operator, the pattern that matched most others before it ended or failed there.
    """

    graph: Graph
    steps: tuple[Step, ...]
    found: tuple[Found, ...]
    reasons: Mapping[str, str]
    overlaps: tuple[Overlap, ...]
    nearest: Mapping[str, Mismatch] = field(default_factory=dict)

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The steps that are blocks."""
        return tuple(step for step in self.steps if isinstance(step, Block))

    def nearest_to(self, step: Step) -> str:
        """The pattern that came nearest to a step no pattern names, and the first difference; "" if none came near."""
        names = (step.name,) if isinstance(step, Op) else step.ops
        misses = [self.nearest[name] for name in names if name in self.nearest]
        if not misses or (isinstance(step, Block) and step.pattern):
            return ""
        miss = max(misses, key=lambda each: each.matched)
        return f"nearest is {miss.pattern}, {miss.matched} operators alike: at {miss.op}, {miss.reason}"

    def __str__(self) -> str:
        blocks = self.blocks
        lines = [
            (
                f"{self.graph.name}: {self.graph.op_count} ops in {len(blocks)} blocks, {len(self.found)} by pattern, "
                f"and {len(self.steps) - len(blocks)} ops by themselves"
            )
        ]
        lines += [f"  {self._line(step)}" for step in self.steps]
        lines += [f"  overlap: {overlap}" for overlap in self.overlaps]
        return "\n".join(lines)

    def _line(self, step: Step) -> str:
        if isinstance(step, Op):
            return f"op {step.name}: {self.reasons[step.name]}"
        stages = " | ".join(stage.describe() for stage in step.stages)
        reason = self.reasons.get(step.ops[0], "") if len(step.ops) == 1 else ""
        shapes = " + ".join(str(shape) for shape in step.inputs)
        return f"block {step.name}: {shapes} -> {step.output}: {stages}{f'  # {reason}' if reason else ''}"
