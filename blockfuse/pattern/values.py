"""What a traced pattern is made of. Values are compared by identity: one value used twice is one tensor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor of the pattern."""


@dataclass(frozen=True, eq=False)
class Captured(Value):
    """A parameter of the pattern function: any tensor made outside the block."""

    name: str


@dataclass(frozen=True, eq=False)
class Number(Value):
    """A constant tensor all of whose elements are this number."""

    number: float


@dataclass(frozen=True, eq=False)
class Omitted(Value):
    """An optional input that is left out."""


@dataclass(frozen=True, eq=False)
class Call(Value):
    """The first output of an operator.

    Attributes:
        kind: The ONNX operator type.
        inputs: In ONNX order.
        attrs: Conditions by attribute name: a value to equal, or a callable that is true for it.
        name: Name under which a match gives the operator, or "".
    """

    kind: str
    inputs: tuple[Value, ...]
    attrs: Mapping[str, object] = field(default_factory=dict)
    name: str = ""


@dataclass(frozen=True, eq=False)
class Either(Value):
    """One of several values, tried in order."""

    alternatives: tuple[Value, ...]


@dataclass(frozen=True)
class OneOf:
    """An attribute condition: the value equals one of these."""

    values: tuple[object, ...]

    def __call__(self, value: object) -> bool:
        """Whether the value is one of them."""
        return value in self.values

    def __str__(self) -> str:
        return "one of " + ", ".join(str(value) for value in self.values)


def children(value: Value) -> tuple[Value, ...]:
    """The values a value is made from."""
    if isinstance(value, Call):
        return value.inputs
    return value.alternatives if isinstance(value, Either) else ()


def walk(root: Value) -> Iterator[Value]:
    """Every value under ``root`` once, each after the ones it is made from."""
    seen: set[Value] = set()

    def visit(value: Value) -> Iterator[Value]:
        if value in seen:
            return
        seen.add(value)
        for child in children(value):
            yield from visit(child)
        yield value

    return visit(root)


def ends(root: Value) -> Iterator[Value]:
    """The values that ``root`` may be once every alternative is chosen."""
    if not isinstance(root, Either):
        yield root
        return
    for value in root.alternatives:
        yield from ends(value)


def describe_condition(wanted: object) -> str:
    """An attribute condition in words: the value, or the name of the callable."""
    if isinstance(wanted, OneOf) or not callable(wanted):
        return str(wanted)
    return str(getattr(wanted, "__name__", wanted))
