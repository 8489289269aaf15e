"""Which elements can be vectors: what neighbours on the last axis, the lanes of a vector, have in common.

A width is possible where it divides the last axis, all lanes share every condition, and every load is one vector or one
element for all lanes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tvm import ir, tirx
from tvm.sym import Analyzer

from blockfuse.schedules.cuda.expressions import (
    chosen,
    equal,
    first_choice,
    loads_of,
    place_of,
    replaced,
    uses,
    with_loads,
    with_variables,
)
from blockfuse.schedules.emit import Buffer, Expr

BYTES = 16
"""Of the widest access."""

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
class Leaf:
    """A value without conditions, with the loads that are vectors, each with the place of its first lane."""

    value: Expr
    vectors: tuple[tuple[Expr, Expr], ...]


@dataclass(frozen=True)
class Branch:
    """What is computed where a condition holds, and where not."""

    condition: Expr
    then: Leaf | Branch
    otherwise: Leaf | Branch


@dataclass(frozen=True)
class Vectors:
    """Elements as vectors of a width; ``first`` is the last axis's variable as a number of vectors."""

    elements: Elements
    width: int
    first: Expr
    tree: Leaf | Branch


def flattened(elements: Elements, views: Mapping[Buffer, Buffer]) -> Elements:
    """One axis instead of all, where each element depends on nothing but equally placed ones."""
    axes, sizes = elements.axes, elements.result.shape
    place = tirx.Var("place", axes[-1].ty)

    def flat(one: Expr) -> Expr:
        shape = one.source.shape
        same = len(shape) == len(axes) and all(map(equal, [*one.indices, *shape], [*axes, *sizes]))
        return tirx.BufferLoad(views[one.source], [place]) if same else one

    value = with_loads(elements.value, flat)
    if any(uses(value, axis) for axis in axes):
        return elements
    return Elements(views[elements.result], (place,), value)


def renamed(elements: Elements, own: Mapping[Buffer, Buffer]) -> Elements:
    """The same of other buffers."""
    value = with_variables(elements.value, lambda one: own.get(one, one))
    return Elements(own[elements.result], elements.axes, value)


def vectors(elements: Elements) -> Vectors | None:
    """The widest vectors that are possible, of two elements at least."""
    size = _SIZES.get(str(elements.result.dtype), BYTES)
    width = BYTES // size
    while width > 1:
        found = _of_width(elements, width)
        if found:
            return found
        width //= 2
    return None


def _of_width(elements: Elements, width: int) -> Vectors | None:
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
    return Vectors(elements, width, first, tree) if tree else None


class _Lanes:
    """What the lanes of a vector have in common."""

    def __init__(self, analyzer: Any, axis: Expr, first: Expr, width: int) -> None:
        self._analyzer, self._axis, self._first, self._width = analyzer, axis, first, width
        self._leaves = 0

    def tree(self, value: Expr) -> Leaf | Branch | None:
        """The value by its conditions; None if lanes differ in one, or in what a load is."""
        choice = first_choice(value)
        if choice is None:
            self._leaves += 1
            return self._leaf(value) if self._leaves <= _MOST_LEAVES else None
        condition = self._shared(choice.args[0])
        if condition is None:
            return None
        then, otherwise = (self.tree(chosen(value, choice, which)) for which in (1, 2))
        return Branch(condition, then, otherwise) if then and otherwise else None

    def _shared(self, value: Expr) -> Expr | None:
        """A value that all lanes have."""
        lanes = [self._analyzer.simplify(self._at(value, lane)) for lane in range(self._width)]
        return lanes[0] if all(equal(lanes[0], other) for other in lanes[1:]) else None

    def _leaf(self, value: Expr) -> Leaf | None:
        found = []
        for one in loads_of(value):
            place = place_of(one)
            start = self._analyzer.simplify(self._at(place, 0))
            steps = [self._analyzer.simplify(self._at(place, lane) - start) for lane in range(1, self._width)]
            if all(equal(step, tirx.const(0, step.ty)) for step in steps):
                continue
            follows = all(equal(step, tirx.const(lane, step.ty)) for lane, step in enumerate(steps, 1))
            if not follows or _SIZES.get(str(one.source.dtype), BYTES) * self._width > BYTES:
                return None
            if not self._analyzer.can_prove_equal(tirx.floormod(start, self._width), 0):
                return None
            found.append((one, start))
        return Leaf(value, tuple(found))

    def _at(self, value: Expr, lane: int) -> Expr:
        return replaced(value, self._axis, self._first * self._width + lane)
