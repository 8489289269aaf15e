"""Loops over elements that have no sums, as vectors of up to 16 bytes: what copies, mixes or computes elements.

::

    v = number of a vector of the result, neighbouring threads having neighbouring vectors:
      if a condition that all lanes share, such as which part of a concatenation they lie in:
        registers = sources[v]                             one access each
        for lane: result registers[lane] = value           unrolled
      else: the same with what remains of the value
      result[v] = result registers                         one access

A width is possible where it divides the last axis, all lanes share every condition, and every load is one vector or one
element for all lanes. What has no width above one is not lowered here.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import tvm_ffi
from tvm import ir, tirx
from tvm.sym import Analyzer

from blockfuse.schedules.cuda.emitter import CudaEmitter
from blockfuse.schedules.cuda.expressions import (
    chosen,
    equal,
    first_choice,
    flat_view,
    loads_of,
    own_parameter,
    place_of,
    replaced,
    uses,
)
from blockfuse.schedules.emit import Buffer, Expr, Index, larger, load, quotient

_THREADS = 256
_BYTES = 16  # of the widest access
_MOST_LEAVES = 128  # statements that conditions choose among
_SIZES = {"float16": 2, "bfloat16": 2, "float32": 4, "int32": 4}  # of elements that vectors are made of


@dataclass(frozen=True)
class Elements:
    """The elements of one result.

    Attributes:
        result: The buffer.
        axes: Variables, one per axis of the result.
        value: The element that they name, of loads from parameters.
    """

    result: Buffer
    axes: tuple[Expr, ...]
    value: Expr


@dataclass(frozen=True)
class _Leaf:
    """A value without conditions, with the loads that are vectors, each with the place of its first lane."""

    value: Expr
    vectors: tuple[tuple[Expr, Expr], ...]


@dataclass(frozen=True)
class _Branch:
    """What is computed where a condition holds, and where not."""

    condition: Expr
    then: _Leaf | _Branch
    otherwise: _Leaf | _Branch


@dataclass(frozen=True)
class _Vectors:
    """Elements as vectors of a width; ``first`` is the last axis's variable as a number of vectors."""

    elements: Elements
    width: int
    first: Expr
    tree: _Leaf | _Branch


def lower_elements(name: str, parameters: Sequence[Buffer], results: Sequence[Elements]) -> Any:
    """A kernel that computes results, or None where vectors cannot.

    Args:
        name: Of the function.
        parameters: Of the function, the results among them.
        results: In any order; none reads another.
    """
    own = {buffer: own_parameter(buffer) for buffer in parameters}
    views = {buffer: flat_view(buffer) for buffer in own.values()}
    plans = [_vectors(_flattened(_renamed(one, own), views)) for one in results]
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


# ---- which vectors ---------------------------------------------------------------------------------------------------
def _flattened(elements: Elements, views: Mapping[Buffer, Buffer]) -> Elements:
    """One axis instead of all, where each element depends on nothing but equally placed ones."""
    axes, sizes = elements.axes, elements.result.shape
    place = tirx.Var("place", axes[-1].ty)

    def flat(one: Expr) -> Expr:
        shape = one.source.shape
        same = len(shape) == len(axes) and all(map(equal, [*one.indices, *shape], [*axes, *sizes]))
        return tirx.BufferLoad(views[one.source], [place]) if same else one

    value = tvm_ffi.structural_map(elements.value, (ir.TensorLoad, flat))
    if any(uses(value, axis) for axis in axes):
        return elements
    return Elements(views[elements.result], (place,), value)


def _renamed(elements: Elements, own: Mapping[Buffer, Buffer]) -> Elements:
    """The same of other buffers."""
    value = tvm_ffi.structural_map(elements.value, (ir.Var, lambda one: own.get(one, one)))
    return Elements(own[elements.result], elements.axes, value)


def _vectors(elements: Elements) -> _Vectors | None:
    """The widest vectors that are possible, of two elements at least."""
    size = _SIZES.get(str(elements.result.dtype), _BYTES)
    width = _BYTES // size
    while width > 1:
        found = _of_width(elements, width)
        if found:
            return found
        width //= 2
    return None


def _of_width(elements: Elements, width: int) -> _Vectors | None:
    """Vectors of one width, if they are possible."""
    extent, axis, analyzer = elements.result.shape[-1], elements.axes[-1], Analyzer()
    if not analyzer.can_prove_equal(tirx.floormod(extent, width), 0):
        return None
    first = tirx.Var("first", axis.ty)
    for variable, size in zip(
        (*elements.axes[:-1], first), (*elements.result.shape[:-1], extent // width), strict=True
    ):
        analyzer.bind(variable, ir.Range(0, size))
    tree = _Lanes(analyzer, axis, first, width).tree(elements.value)
    return _Vectors(elements, width, first, tree) if tree else None


class _Lanes:
    """What the lanes of a vector have in common."""

    def __init__(self, analyzer: Any, axis: Expr, first: Expr, width: int) -> None:
        self._analyzer, self._axis, self._first, self._width = analyzer, axis, first, width
        self._leaves = 0

    def tree(self, value: Expr) -> _Leaf | _Branch | None:
        """The value by its conditions; None if lanes differ in one, or in what a load is."""
        choice = first_choice(value)
        if choice is None:
            self._leaves += 1
            return self._leaf(value) if self._leaves <= _MOST_LEAVES else None
        condition = self._shared(choice.args[0])
        if condition is None:
            return None
        branches = [self.tree(chosen(value, choice, which)) for which in (1, 2)]
        return _Branch(condition, *branches) if all(branches) else None

    def _shared(self, value: Expr) -> Expr | None:
        """A value that all lanes have."""
        lanes = [self._analyzer.simplify(self._at(value, lane)) for lane in range(self._width)]
        return lanes[0] if all(equal(lanes[0], other) for other in lanes[1:]) else None

    def _leaf(self, value: Expr) -> _Leaf | None:
        vectors = []
        for one in loads_of(value):
            place = place_of(one)
            start = self._analyzer.simplify(self._at(place, 0))
            steps = [self._analyzer.simplify(self._at(place, lane) - start) for lane in range(1, self._width)]
            if all(equal(step, tirx.const(0, step.ty)) for step in steps):
                continue
            follows = all(equal(step, tirx.const(lane, step.ty)) for lane, step in enumerate(steps, 1))
            if not follows or _SIZES.get(str(one.source.dtype), _BYTES) * self._width > _BYTES:
                return None
            if not self._analyzer.can_prove_equal(tirx.floormod(start, self._width), 0):
                return None
            vectors.append((one, start))
        return _Leaf(value, tuple(vectors))

    def _at(self, value: Expr, lane: int) -> Expr:
        return replaced(value, self._axis, self._first * self._width + lane)


# ---- writing them ----------------------------------------------------------------------------------------------------
class _Writer:
    """Statements of one thread for one vector of a result."""

    def __init__(self, emit: CudaEmitter, plan: _Vectors, views: Mapping[Buffer, Buffer], number: Expr) -> None:
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
        if isinstance(tree, _Leaf):
            vector = self._leaf(tree)
        else:  # threads of all branches store at once
            self._branch(tree)
            vector = load(self._made(), 0, width)
        result = elements.result
        self._emit.store(self._views.get(result, result), self._number * width, vector, width)

    def _bind(self, axis: Expr, value: Index) -> None:
        self._places[axis] = self._emit.bind(axis.name, tirx.Cast(str(axis.ty.dtype), value))

    def _branch(self, tree: _Leaf | _Branch) -> None:
        """Leave the vector in registers."""
        if isinstance(tree, _Leaf):
            vector, made = self._leaf(tree), self._made()
            if not vector.source.same_as(made):
                self._emit.store(made, 0, vector, self._plan.width)
            return
        condition, then, otherwise = self._placed(tree.condition), tree.then, tree.otherwise
        self._emit.branch(condition, lambda: self._branch(then), lambda: self._branch(otherwise))

    def _leaf(self, leaf: _Leaf) -> Expr:
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

        value = tvm_ffi.structural_map(value, (ir.TensorLoad, held), order="pre")
        return replaced(value, self._plan.elements.axes[-1], self._plan.first * self._plan.width + lane)

    def _placed(self, value: Expr) -> Expr:
        """A value where the thread's vector is."""
        return tvm_ffi.structural_map(value, (ir.Var, lambda one: self._places.get(one, one)))

    def _made(self) -> Buffer:
        """Registers for the vector of the result."""
        return self._held("made", str(self._plan.elements.result.dtype))

    def _held(self, name: str, dtype: str) -> Buffer:
        """Registers for a vector."""
        key = f"{name}_{dtype}"
        if key not in self._registers:
            self._registers[key] = self._emit.registers(key, self._plan.width, dtype)
        return self._registers[key]


def _count(plan: _Vectors) -> Index:
    """Number of vectors."""
    sizes = [_narrow(size) for size in plan.elements.result.shape]
    return prod(sizes[:-1]) * quotient(sizes[-1], plan.width)


def _is_small(count: Index) -> bool:
    """Whether elements can be numbered in 32 bits."""
    return not isinstance(count, int) or count * _BYTES < 1 << 31


def _narrow(size: Index) -> Index:
    """A size as a number, or in 32 bits."""
    return int(size) if isinstance(size, int | tirx.IntImm) else tirx.Cast("int32", size)
