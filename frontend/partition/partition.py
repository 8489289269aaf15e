"""Patterns first, then the rest by itself or by segments."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

from blockfuse.block import Block
from blockfuse.frontend.partition.blocks import NoBlock, block_of
from blockfuse.frontend.partition.result import Found, Overlap, Partition, Step
from blockfuse.frontend.partition.segments import Cost, segments
from blockfuse.frontend.partition.singles import singles, stays_because
from blockfuse.graph import Graph, Op
from blockfuse.pattern import Match, Mismatch, Pattern, check_pattern, match

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Objection: TypeAlias = Callable[[Block], str]

_NEAR = 2  # operators that a pattern must have matched to be worth a word

MAX_STAGES = 16
"""Most stages in a block that no pattern names; squeeze-excite blocks have thirteen."""


def partition(
    graph: Graph,
    patterns: Sequence[Pattern],
    *,
    cost: Cost | None = None,
    max_stages: int = MAX_STAGES,
    objection: Objection | None = None,
) -> Partition:
    """Divide a graph into blocks and operators that run by themselves.

    Where several patterns match, the one given first wins, then the one with most operators. What no pattern takes
    is divided by ``cost`` along the segment chain; without a cost, every convolution takes the elementwise operators
    directly behind it.

    Args:
        graph: A canonical graph, which is not changed.
        patterns: In order of preference; may be empty.
        cost: Predicted time of a block in seconds, or None where there is no plan for it.
        max_stages: Most stages in a block that no pattern names.
        objection: Why a block in which channels lie side by side, which a pattern found, is to be divided after all;
            "" where it is not. What is divided is left to other patterns and the segment chain, which leave what only
            says where channels are between kernels.

    Returns:
        All operators of the graph, each in exactly one step.

    Raises:
        PatternError: One of the patterns is something else.
    """
    for pattern in patterns:
        check_pattern(pattern)
    ops = graph.ops()
    search = _search(graph, patterns, ops, objection)
    taken = {name for found in search.found for name in found.ops}
    rest = [op for op in ops if op.name not in taken]
    named = [found.block for found in search.found]
    others = segments(graph, rest, named, cost, max_stages) if cost else singles(graph, rest, max_stages)
    steps = _renamed(_in_order(ops, [*named, *others]))
    by_ops = {found.ops: found for found in search.found}
    blocks = [step for step in steps if isinstance(step, Block) and step.ops in by_ops]
    found = tuple(replace(by_ops[block.ops], block=block) for block in blocks)
    nearest = {name: miss for name, miss in search.nearest.items() if miss.matched >= _NEAR}
    return Partition(graph, steps, found, _reasons(graph, steps, search.refused), tuple(search.overlaps), nearest)


@dataclass(frozen=True)
class _Found:
    found: list[Found]
    overlaps: list[Overlap]
    refused: dict[str, str]  # by op name: why the block a pattern saw there cannot be made
    nearest: dict[str, Mismatch]  # by op name: the pattern that matched most operators before it ended or failed there


def _search(graph: Graph, patterns: Sequence[Pattern], ops: Sequence[Op], objection: Objection | None) -> _Found:
    """Take matches in order of preference as long as they share nothing."""
    result = _Found([], [], {}, {})
    owner: dict[str, Found] = {}
    for pattern in patterns:
        candidates = sorted(_candidates(graph, pattern, ops, result, objection), key=lambda found: -len(found.ops))
        for found in candidates:
            shared = [name for name in found.ops if name in owner]
            if not shared:
                result.found.append(found)
                owner.update(dict.fromkeys(found.ops, found))
            elif not any(set(found.ops) < set(other.ops) for other in (*candidates, owner[shared[0]])):  # no mere part
                result.overlaps.append(Overlap(owner[shared[0]].pattern, found.pattern, tuple(shared)))
    return result


def _candidates(
    graph: Graph, pattern: Pattern, ops: Sequence[Op], search: _Found, objection: Objection | None
) -> Iterable[Found]:
    for anchor in ops:
        if anchor.kind not in pattern.anchors:
            continue
        result = match(pattern, graph, anchor)
        if not isinstance(result, Match):
            for op in (anchor, result.op):
                search.nearest[op.name] = max(
                    search.nearest.get(op.name, result), result, key=lambda miss: miss.matched
                )
            continue
        block = block_of(graph, result.ops, pattern.name)
        if isinstance(block, NoBlock):
            search.refused.update({op.name: f"{pattern.name} matches here, but {block}" for op in result.ops})
            continue
        against = objection(block) if objection and block.has_joins else ""
        if against:
            search.refused.update({op.name: f"{pattern.name} matches here, but {against}" for op in result.ops})
            continue
        named = {name: op.name for name, op in result.named.items()}
        yield Found(pattern.name, block.ops, block, named, result.tensors)


def _in_order(ops: Sequence[Op], blocks: Sequence[Block]) -> list[Step]:
    """Blocks, each in the place of its last operator, and the operators in none.

    That is an order of execution: what a block reads is made before the operator in it that reads it.
    """
    inside = {name for block in blocks for name in block.ops}
    last = {block.ops[-1]: block for block in blocks}
    return [last.get(op.name, op) for op in ops if op.name in last or op.name not in inside]


def _renamed(steps: Sequence[Step]) -> tuple[Step, ...]:
    """Give blocks of one name a number each: ``basic_block_0``, ``basic_block_1``, ..."""
    counts: Counter[str] = Counter()
    renamed: list[Step] = []
    for step in steps:
        if isinstance(step, Block):
            renamed.append(replace(step, name=f"{step.name}_{counts[step.name]}"))
            counts[step.name] += 1
        else:
            renamed.append(step)
    return tuple(renamed)


def _reasons(graph: Graph, steps: Sequence[Step], refused: dict[str, str]) -> dict[str, str]:
    alone = [step if isinstance(step, Op) else graph.op(step.ops[0]) for step in steps if _is_alone(step)]
    return {op.name: refused.get(op.name) or stays_because(graph, op) for op in alone}


def _is_alone(step: Step) -> bool:
    return isinstance(step, Op) or len(step.ops) == 1
