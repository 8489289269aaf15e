"""Loops over elements that have no sums, as vectors of up to 16 bytes: what copies, mixes or computes elements.

::

    v = number of a vector of the result, neighbouring threads having neighbouring vectors:
      if a condition that all lanes share, such as which part of a concatenation they lie in:
        registers = sources[v]                             one access each
        for lane: result registers[lane] = value           unrolled
      else: the same with what remains of the value
      result[v] = result registers                         one access

What has no vectors of two elements at least is not lowered here.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from tvm import tirx

from blockfuse.schedules.cuda.emitter import CudaEmitter
from blockfuse.schedules.cuda.expressions import equal, flat_view, own_parameter, replaced, with_loads, with_variables
from blockfuse.schedules.cuda.lanes import BYTES, Branch, Elements, Leaf, Vectors, flattened, renamed, vectors
from blockfuse.schedules.emit import Buffer, Expr, Index, larger, load, quotient

__all__ = ["Elements", "lower_elements"]

_THREADS = 256


def lower_elements(name: str, parameters: Sequence[Buffer], results: Sequence[Elements]) -> Any:
    """A kernel that computes results, or None where vectors cannot.

    Args:
        name: Of the function.
        parameters: Of the function, the results among them.
        results: In any order; none reads another.
    """
    if not all(len(buffer.shape) for buffer in parameters):  # TVM's passes for finished kernels know no such buffers
        return None
    own = {buffer: own_parameter(buffer) for buffer in parameters}
    views = {buffer: flat_view(buffer) for buffer in own.values()}
    plans = [vectors(flattened(renamed(one, own), views)) for one in results]
    found = [plan for plan in plans if plan]
    counts = [_count(plan) for plan in found]
    if not found or len(found) < len(plans) or not all(map(_is_small, counts)):
        return None
    emit = CudaEmitter(quotient(functools.reduce(larger, counts) + (_THREADS - 1), _THREADS), _THREADS)
    emit.parameters += own.values()
    for buffer, view in views.items():
        if view is not buffer:
            emit.add(tirx.DeclBuffer(view, data=buffer.data))
    number = emit.bind("vector", emit.cta * _THREADS + emit.thread)
    for plan, count in zip(found, counts, strict=True):
        whole = len(found) == 1 and isinstance(count, int) and count % _THREADS == 0
        with emit.when(whole or number < count):
            _Writer(emit, plan, views, number).write()
    return emit.function(name)


class _Writer:
    """Statements of one thread for one vector of a result."""

    def __init__(self, emit: CudaEmitter, plan: Vectors, views: Mapping[Buffer, Buffer], number: Expr) -> None:
        self._emit, self._plan, self._views, self._number = emit, plan, views, number
        self._registers: dict[str, Buffer] = {}
        self._places: dict[Expr, Expr] = {}

    def write(self) -> None:
        """Load, compute and store the vector."""
        elements, width = self._plan.elements, self._plan.width
        rest: Index = self._number
        sizes = [*elements.result.shape[:-1], elements.result.shape[-1] // width]
        for axis, size in reversed(list(zip((*elements.axes[:-1], self._plan.first), sizes, strict=True))[1:]):
            self._bind(axis, rest % _narrow(size))
            rest = rest // _narrow(size)
        self._bind(elements.axes[0] if len(sizes) > 1 else self._plan.first, rest)
        tree = self._plan.tree
        if isinstance(tree, Leaf):
            vector = self._leaf(tree)
        else:  # threads of all branches store at once
            self._branch(tree)
            vector = load(self._made(), 0, width)
        result = elements.result
        self._emit.store(self._views.get(result, result), self._number * width, vector, width)

    def _bind(self, axis: Expr, value: Index) -> None:
        self._places[axis] = self._emit.bind(axis.name, tirx.Cast(str(axis.ty.dtype), value))

    def _branch(self, tree: Leaf | Branch) -> None:
        """Leave the vector in registers."""
        if isinstance(tree, Leaf):
            vector, made = self._leaf(tree), self._made()
            if not vector.source.same_as(made):
                self._emit.store(made, 0, vector, self._plan.width)
            return
        condition, then, otherwise = self._placed(tree.condition), tree.then, tree.otherwise
        self._emit.branch(condition, lambda: self._branch(then), lambda: self._branch(otherwise))

    def _leaf(self, leaf: Leaf) -> Expr:
        """Load and compute; the vector that is to be stored."""
        emit, width = self._emit, self._plan.width
        held = [
            load(self._views.get(one.source, one.source), self._placed(start), width) for one, start in leaf.vectors
        ]
        if len(held) == 1 and equal(leaf.value, leaf.vectors[0][0]):
            return held[0]
        sources = []
        for index, ((one, _), value) in enumerate(zip(leaf.vectors, held, strict=True)):
            sources.append((one, self._held(f"source_{index}", str(one.source.dtype))))
            emit.store(sources[-1][1], 0, value, width)
        made = self._made()
        for lane in range(width):
            emit.store(made, lane, self._placed(self._lane(leaf.value, sources, lane)))
        return load(made, 0, width)

    def _lane(self, value: Expr, sources: Sequence[tuple[Expr, Buffer]], lane: int) -> Expr:
        """The value in one lane, of what the registers hold."""

        def held(one: Expr) -> Expr:
            found = [registers for other, registers in sources if equal(one, other)]
            return load(found[0], lane) if found else one

        value = with_loads(value, held)
        return replaced(value, self._plan.elements.axes[-1], self._plan.first * self._plan.width + lane)

    def _placed(self, value: Expr) -> Expr:
        """A value where the thread's vector is."""
        return with_variables(value, lambda one: self._places.get(one, one))

    def _made(self) -> Buffer:
        """Registers for the vector of the result."""
        return self._held("made", str(self._plan.elements.result.dtype))

    def _held(self, name: str, dtype: str) -> Buffer:
        """Registers for a vector."""
        key = f"{name}_{dtype}"
        if key not in self._registers:
            self._registers[key] = self._emit.registers(key, self._plan.width, dtype)
        return self._registers[key]


def _count(plan: Vectors) -> Index:
    """Number of vectors."""
    sizes = [_narrow(size) for size in plan.elements.result.shape]
    return prod(sizes[:-1]) * quotient(sizes[-1], plan.width)


def _is_small(count: Index) -> bool:
    """Whether elements can be numbered in 32 bits."""
    return not isinstance(count, int) or count * BYTES < 1 << 31


def _narrow(size: Index) -> Index:
    """A size as a number, or in 32 bits."""
    return int(size) if isinstance(size, int | tirx.IntImm) else tirx.Cast("int32", size)
