"""Index expressions of tile programs: sums of loop variables that print, compare, and evaluate.

An :class:`Affine` is ``const + sum of coefficient * atom``; an atom is a loop variable, a value clipped to bounds, a
choice between the first trip of a loop and the later ones, or a value divided by a number and rounded down.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True)
class Clip:
    """A value limited to ``low <= value <= high``."""

    value: Affine
    low: Affine
    high: Affine

    def at(self, env: Mapping[str, int]) -> int:
        """The number, given the loop variables."""
        return min(max(self.value.at(env), self.low.at(env)), self.high.at(env))

    def __str__(self) -> str:
        return f"clip({self.value}, {self.low}, {self.high})"


@dataclass(frozen=True)
class First:
    """``first`` on the first trip of the loop over ``var``, ``later`` on the others."""

    var: str
    first: Affine
    later: Affine

    def at(self, env: Mapping[str, int]) -> int:
        """The number, given the loop variables."""
        return (self.later if env[self.var] else self.first).at(env)

    def __str__(self) -> str:
        return f"({self.first} if {self.var} == 0 else {self.later})"


@dataclass(frozen=True)
class Quotient:
    """``value / divisor`` rounded down."""

    value: Affine
    divisor: int

    def at(self, env: Mapping[str, int]) -> int:
        """The number, given the loop variables."""
        return self.value.at(env) // self.divisor

    def __str__(self) -> str:
        return f"({self.value})//{self.divisor}"


Atom: TypeAlias = str | Clip | First | Quotient


@dataclass(frozen=True)
class Affine:
    """``const`` plus the sum of ``coefficient * atom`` over ``terms``."""

    const: int = 0
    terms: tuple[tuple[Atom, int], ...] = ()

    def __add__(self, other: Affine | int) -> Affine:
        if isinstance(other, int):
            return Affine(self.const + other, self.terms)
        sums = dict(self.terms)
        for atom, coefficient in other.terms:
            sums[atom] = sums.get(atom, 0) + coefficient
        return Affine(self.const + other.const, tuple((atom, c) for atom, c in sums.items() if c))

    __radd__ = __add__

    def __mul__(self, factor: int) -> Affine:
        terms = tuple((atom, c * factor) for atom, c in self.terms) if factor else ()
        return Affine(self.const * factor, terms)

    __rmul__ = __mul__

    def __neg__(self) -> Affine:
        return self * -1

    def __sub__(self, other: Affine | int) -> Affine:
        return self + (-other)

    @property
    def is_constant(self) -> bool:
        """Whether no loop variable occurs."""
        return not self.terms

    def with_value(self, name: str, value: int) -> Affine:
        """The expression with a number in place of a loop variable that stands alone in a term."""
        kept = tuple((atom, c) for atom, c in self.terms if atom != name)
        return Affine(self.const + value * sum(c for atom, c in self.terms if atom == name), kept)

    def at(self, env: Mapping[str, int]) -> int:
        """The number, given the loop variables."""
        total = self.const
        for atom, coefficient in self.terms:
            total += coefficient * (env[atom] if isinstance(atom, str) else atom.at(env))
        return total

    def __str__(self) -> str:
        parts = [str(atom) if c == 1 else f"{c}*{atom}" for atom, c in self.terms]
        if self.const or not parts:
            parts.append(str(self.const))
        return "+".join(parts).replace("+-", "-")


def affine(value: Affine | int) -> Affine:
    """An integer as an expression; expressions pass through."""
    return Affine(value) if isinstance(value, int) else value


def var(name: str) -> Affine:
    """The loop variable of that name."""
    return Affine(0, ((name, 1),))


def clip(value: Affine | int, low: Affine | int, high: Affine | int) -> Affine:
    """``value`` limited to the bounds; folded where all three are constants."""
    value, low, high = affine(value), affine(low), affine(high)
    if value.is_constant and low.is_constant and high.is_constant:
        return Affine(min(max(value.const, low.const), high.const))
    return Affine(0, ((Clip(value, low, high), 1),))


def first(loop: str, on_first: Affine, on_later: Affine) -> Affine:
    """``on_first`` on the first trip of ``loop``, else ``on_later``."""
    return on_first if on_first == on_later else Affine(0, ((First(loop, on_first, on_later), 1),))


def quotient(value: Affine, divisor: int) -> Affine:
    """``value / divisor`` rounded down; folded where it is constant or nothing is left over."""
    if value.const % divisor == 0 and all(c % divisor == 0 for _, c in value.terms):
        return Affine(value.const // divisor, tuple((atom, c // divisor) for atom, c in value.terms))
    if value.is_constant:
        return Affine(value.const // divisor)
    return Affine(0, ((Quotient(value, divisor), 1),))


@dataclass(frozen=True)
class Range:
    """Half-open interval ``[low, high)`` of rows, columns or channels."""

    low: Affine
    high: Affine

    @property
    def size(self) -> Affine:
        """Number of elements."""
        return self.high - self.low

    def at(self, env: Mapping[str, int]) -> range:
        """The integers, given the loop variables."""
        return range(self.low.at(env), self.high.at(env))

    def __str__(self) -> str:
        return f"{self.low}:{self.high}"


def span(low: Affine | int, size: Affine | int) -> Range:
    """``size`` elements from ``low``."""
    return Range(affine(low), affine(low) + size)
