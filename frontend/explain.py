"""Why a pattern matches where it does, and why it does not elsewhere."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from blockfuse.frontend.canonical import canonicalize
from blockfuse.frontend.partition.blocks import NoBlock, block_of
from blockfuse.frontend.reading import read
from blockfuse.graph import Graph
from blockfuse.pattern import Mismatch, Pattern, check_pattern, match

if TYPE_CHECKING:
    from pathlib import Path

    import onnx

    from blockfuse.graph import Op


@dataclass(frozen=True)
class Candidate:
    """One operator that could make the output of a block.

    Attributes:
        anchor: Its name.
        ops: Names of the operators the pattern covers there, in its order; empty if it does not match.
        reason: Why there is no block: the attempt that matched most operators; "" if there is one.
        at: Name of the operator the reason is about, or "".
        matched: How many operators that attempt matched.
    """

    anchor: str
    ops: tuple[str, ...]
    reason: str
    at: str
    matched: int

    @property
    def is_match(self) -> bool:
        """Whether the pattern makes a block there."""
        return not self.reason


@dataclass(frozen=True)
class Explanation:
    """What a pattern finds in a model.

    Attributes:
        model: The model's name.
        pattern: The pattern's name.
        description: The canonical pattern as text.
        anchors: Kinds of the operators that may make the block's output.
        candidates: Every operator of those kinds that no larger match covers: matches in the order of the graph, then
            the others, those that matched most operators first.
    """

    model: str
    pattern: str
    description: str
    anchors: tuple[str, ...]
    candidates: tuple[Candidate, ...]

    @property
    def matches(self) -> tuple[Candidate, ...]:
        """The candidates that are blocks."""
        return tuple(candidate for candidate in self.candidates if candidate.is_match)

    def to_dict(self) -> dict[str, Any]:
        """The explanation in types that JSON has."""
        return {"version": 1, **asdict(self)}

    def __str__(self) -> str:
        rest = [one for one in self.candidates if not one.is_match]
        lines = [f"{self.pattern} in {self.model}: {len(self.matches)} matches, {len(rest)} candidates more"]
        if not self.candidates:
            lines.append(f"  the model has no {' or '.join(self.anchors)}")
        width = max((len(candidate.anchor) for candidate in self.candidates), default=0)
        lines += [f"  {one.anchor:<{width}}  matched: {', '.join(one.ops)}" for one in self.matches]
        lines += [f"  {one.anchor:<{width}}  {one.matched} ops, then {one.reason}" for one in rest if one.matched]
        far = [one for one in rest if not one.matched]
        if far:
            lines.append(f"  {len(far)} differ in their last operator: {far[0].reason}{', ...' if far[1:] else ''}")
        return "\n".join(lines)


def explain(model: str | Path | onnx.ModelProto | Graph, pattern: Pattern) -> Explanation:
    """Say for every candidate whether a pattern matches, and if not, the deepest reason.

    Args:
        model: A path, a model in memory, or a graph in canonical form.
        pattern: What to look for.

    Raises:
        ModelError: The model cannot be read.
        PatternError: The pattern is something else.
    """
    check_pattern(pattern)
    graph = model if isinstance(model, Graph) else canonicalize(read(model))
    candidates = [_candidate(graph, pattern, op) for op in graph.ops() if op.kind in pattern.anchors]
    covered = {name for one in candidates for name in one.ops if name != one.anchor}
    shown = [one for one in candidates if one.anchor not in covered]
    shown.sort(key=lambda one: (not one.is_match, -one.matched if one.reason else 0))
    return Explanation(graph.name, pattern.name, pattern.explain(), pattern.anchors, tuple(shown))


def _candidate(graph: Graph, pattern: Pattern, anchor: Op) -> Candidate:
    found = match(pattern, graph, anchor)
    if isinstance(found, Mismatch):
        return Candidate(anchor.name, (), found.reason, found.op.name, found.matched)
    names = tuple(op.name for op in found.ops)
    block = block_of(graph, found.ops, pattern.name)
    if isinstance(block, NoBlock):
        return Candidate(anchor.name, (), f"it matches, but {block}", block.op.name, len(names))
    return Candidate(anchor.name, names, "", "", len(names))
