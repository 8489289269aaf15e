"""What the rewrites are made of: rules tried at every op of a kind, and the few ways a rule changes the graph."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from blockfuse.graph import Graph, Op, Tensor

Array = np.ndarray[Any, Any]

Rule = Callable[[Graph, Op], bool]
"""Changes the graph around one op in place; returns whether it did."""

Rewrite = Callable[[Graph], Graph]
"""Returns a changed copy, or the very graph it was given when there is nothing to change."""


def rewrite(*kinds: str) -> Callable[[Rule], Rewrite]:
    """Make a rewrite of a rule, which is tried once at every op of these kinds."""

    def decorate(rule: Rule) -> Rewrite:
        def apply(graph: Graph) -> Graph:
            starts = _ops_of(graph, kinds)
            if not starts:
                return graph
            result = graph.copy()
            changed = False
            for start in starts:
                op = _current(result, start)
                if op is not None and op.kind in kinds:
                    changed |= rule(result, op)
            if not changed:
                return graph
            result.prune()
            return result

        apply.__name__ = rule.__name__
        apply.__doc__ = rule.__doc__
        return apply

    return decorate


def substitute(
    graph: Graph,
    root: Op,
    absorbed: Iterable[Op],
    kind: str,
    inputs: Iterable[str],
    attrs: Mapping[str, Any] | None = None,
    name: str = "",
) -> None:
    """Put one op in the place of ``root`` and of those ops before it that nothing else needs.

    Args:
        graph: Changed in place.
        root: The op whose first output the new op computes.
        absorbed: Ops before it whose work the new op does too, producers first.
        kind: Kind of the new op.
        inputs: Tensors the new op reads.
        attrs: Its attributes; none by default.
        name: Its name; that of ``root`` by default.
    """
    absorbed, inputs = tuple(absorbed), tuple(inputs)
    origin = tuple(dict.fromkeys(part for op in (*absorbed, root) for part in op.origin))
    graph.remove_op(root)
    for op in reversed(absorbed):
        if not any(name and (name in inputs or is_read(graph, name)) for name in op.outputs):
            graph.remove_op(op)
    graph.add_op(Op(kind, name or root.name, inputs, (root.output,), attrs or {}, origin))


def bypass(graph: Graph, op: Op, source: str) -> bool:
    """Remove an op whose first output equals the tensor ``source``; returns whether the graph changed.

    The names of graph inputs and outputs never change, so between two of those an Identity stays.
    """
    if not graph.is_output(op.output):
        graph.redirect(op.output, source)
        graph.remove_op(op)
        return True
    value = graph.constant(source)
    if value is not None:
        graph.remove_op(op)
        graph.add_tensor(replace(graph.tensor(op.output), value=value))
        return True
    producer = graph.producer(source)
    if producer is None or graph.is_output(source):
        if op.kind == "Identity":
            return False
        substitute(graph, op, (), "Identity", (source,))
        return True
    graph.remove_op(op)
    graph.remove_op(producer)
    outputs = tuple(op.output if name == source else name for name in producer.outputs)
    graph.add_op(Op(producer.kind, producer.name, producer.inputs, outputs, producer.attrs, producer.origin))
    graph.redirect(source, op.output)
    return True


class Steps:
    """Ops in the place of one, each after the other; the last one makes its result.

    Args:
        graph: Changed by :meth:`finish`, but for new tensors.
        op: The op they replace.
    """

    def __init__(self, graph: Graph, op: Op) -> None:
        self._graph, self._op = graph, op
        self._ops: list[Op] = []

    def constant(self, key: str, value: Array) -> str:
        """Add a constant named after the op; returns its name."""
        return add_constant(self._graph, f"{self._op.name}.{key}", value)

    def add(
        self,
        kind: str,
        inputs: Iterable[str],
        shape: tuple[int, ...],
        attrs: Mapping[str, Any] | None = None,
        dtype: str = "",
    ) -> str:
        """Add an op; returns the name of its result, by default of the type of the replaced op's."""
        label = f"{self._op.name}.{kind.lower()}{len(self._ops) or ''}"
        result = fresh(self._graph, label)
        self._graph.add_tensor(Tensor(result, shape, dtype or self._graph.tensor(self._op.output).dtype))
        name = fresh_op(self._graph, label)
        self._ops.append(Op(kind, name, tuple(inputs), (result,), attrs or {}, self._op.origin))
        return result

    def finish(self) -> None:
        """Put the ops into the graph; the last one takes the name and the result of the replaced op."""
        self._graph.remove_op(self._op)
        for op in self._ops[:-1]:
            self._graph.add_op(op)
        last = self._ops[-1]
        self._graph.add_op(Op(last.kind, self._op.name, last.inputs, self._op.outputs[:1], last.attrs, last.origin))


def add_constant(graph: Graph, name: str, value: Array) -> str:
    """Add a constant under a name like the given one; returns the name it got."""
    unique = fresh(graph, name)
    graph.add_tensor(Tensor(unique, value.shape, value.dtype.name, value))
    return unique


def fresh(graph: Graph, name: str) -> str:
    """A tensor name that is not taken: the given one, or that with a number."""
    candidate, count = name, 1
    while graph.has_tensor(candidate):
        count += 1
        candidate = f"{name}_{count}"
    return candidate


def fresh_op(graph: Graph, name: str) -> str:
    """An operator name that is not taken: the given one, or that with a number."""
    candidate, count = name, 1
    while graph.has_op(candidate):
        count += 1
        candidate = f"{name}_{count}"
    return candidate


def optional_input(op: Op, index: int) -> str:
    """The name of an input; empty where it is omitted."""
    return op.inputs[index] if index < len(op.inputs) else ""


def scalar(graph: Graph, name: str) -> float | None:
    """The value of a constant of one element; None for everything else."""
    value = graph.constant(name)
    return float(value.reshape(())) if value is not None and value.size == 1 else None


def along(value: Array | None, shape: tuple[int, ...], axis: int) -> Array | None:
    """A constant that broadcasts over a shape as one number per element of an axis, as float64 of that length.

    Returns:
        None for everything else.
    """
    if value is None or value.ndim > len(shape) or axis >= len(shape):
        return None
    padded = (1,) * (len(shape) - value.ndim) + value.shape
    if padded[axis] not in {1, shape[axis]} or value.size != padded[axis]:
        return None
    return np.broadcast_to(value.reshape(-1).astype(np.float64), shape[axis : axis + 1]).copy()


def is_read(graph: Graph, name: str) -> bool:
    """Whether any op or the caller reads a tensor."""
    return bool(graph.consumers(name)) or graph.is_output(name)


def sole_producer(graph: Graph, name: str, *kinds: str) -> Op | None:
    """The op of one of these kinds that computes a tensor which only one op and not the caller reads; else None."""
    op = graph.producer(name) if name else None
    if op is None or op.kind not in kinds or len(graph.consumers(name)) != 1 or graph.is_output(name):
        return None
    return op


def _ops_of(graph: Graph, kinds: tuple[str, ...]) -> list[Op]:
    """Ops of these kinds, each once, without the cost of sorting the graph."""
    producers = (graph.producer(tensor.name) for tensor in graph.tensors)
    found = {op.name: op for op in producers if op is not None and op.kind in kinds}
    return list(found.values())


def _current(graph: Graph, op: Op) -> Op | None:
    """The op that computes the first result of ``op`` after earlier rules changed the graph."""
    name = next((name for name in op.outputs if name), "")
    return graph.producer(name) if name else None
