"""What makes fusing wrong although the operators fit. Applies to every block, however it was found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from blockfuse.graph import Graph, Op


@dataclass(frozen=True)
class Objection:
    """A reason not to fuse, and the operator it is about."""

    reason: str
    op: Op


def objection(graph: Graph, ops: Collection[Op], last: Op, captured: Mapping[str, str]) -> Objection | None:
    """The first reason why these operators must not become one kernel.

    Args:
        graph: The graph.
        ops: The operators of the block.
        last: The one whose first output is the block's output.
        captured: Graph tensors of a pattern's parameters, which are to be made outside.

    Returns:
        None if fusing them is right.
    """
    inside = {op.name for op in ops}
    for name, tensor in captured.items():
        producer = graph.producer(tensor)
        if producer is not None and producer.name in inside:
            return Objection(f"captured tensor {name} is {tensor!r}, which is computed inside the block", producer)
    for op in ops:
        against = _broadcast(graph, op) or _escape(graph, op, inside, last.output)
        if against is not None:
            return Objection(against, op)
    return None


def _broadcast(graph: Graph, op: Op) -> str | None:
    """An Add of two computed values must not broadcast."""
    if op.kind != "Add":
        return None
    tensors = [graph.tensor(name) for name in op.inputs]
    shapes = [list(tensor.shape) for tensor in tensors if not tensor.is_constant]
    if len(shapes) < 2 or shapes[0] == shapes[1]:
        return None
    return f"{op} broadcasts: it adds {shapes[0]} and {shapes[1]}"


def _escape(graph: Graph, op: Op, inside: Collection[str], result: str) -> str | None:
    """A value inside the block must not be wanted outside it."""
    for tensor in op.outputs:
        if not tensor or tensor == result:
            continue
        if graph.is_output(tensor):
            return f"{tensor!r}, computed by {op} inside the block, is an output of the model"
        readers = graph.consumers(tensor)
        strangers = [reader for reader in readers if reader.name not in inside]
        if strangers:
            return f"{tensor!r}, computed by {op} inside the block, is read by {strangers[0]} outside it"
        if not readers and tensor == op.output:
            return f"{tensor!r}, computed by {op} inside the block, is read by nobody"
    return None
