"""From a Python function to a pattern: call it once with placeholders and record the operators it calls."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias, overload

from blockfuse.errors import PatternError
from blockfuse.pattern.canonical import canonicalize
from blockfuse.pattern.values import (
    Call,
    Captured,
    Either,
    Number,
    Omitted,
    OneOf,
    Value,
    describe_condition,
    ends,
    walk,
)

Constructor: TypeAlias = Callable[..., Value]
Literal: TypeAlias = float | str | tuple[int, ...] | list[int]


_MANY = 1_000
_ARITY = {
    **dict.fromkeys(("Add", "Div", "Max", "Min", "Mul", "Sub"), (2, 2)),
    **dict.fromkeys(("Clip", "Conv", "Gemm"), (1, 3)),
    **dict.fromkeys(("Flatten", "Gelu", "GlobalAveragePool", "HardSigmoid", "HardSwish", "Identity"), (1, 1)),
    **dict.fromkeys(("AveragePool", "MaxPool", "Relu", "Sigmoid", "Softmax", "Swish", "Tanh"), (1, 1)),
    "BatchNormalization": (5, 5),
    "PRelu": (1, 2),
}
"""Fewest and most inputs in a pattern, of the operators that occur most; others take any number from one on."""


class Ops:
    """Constructors of ONNX operators: ``op.Conv(x, w, b, kernel_shape=(3, 3), name="conv1")``.

    Inputs are values of the pattern, numbers (a constant of that value) or None (left out). ``name=`` captures the
    operator; every other keyword is a condition on the attribute of that name: a value to equal, ``either(...)`` of
    several, or a callable that is true for it. Beside ONNX's own, Conv has the attribute ``depthwise``, and
    every operator ``concatenated``: whether a Concat reads its result.
    """

    def __getattr__(self, kind: str) -> Constructor:
        if kind.startswith("__"):
            raise AttributeError(kind)
        if not kind[0].isupper():
            raise PatternError(f"op.{kind}: ONNX operators start with a capital letter")

        def construct(*inputs: Value | float | None, name: str = "", **attrs: object) -> Value:
            _check_arity(kind, len(inputs))
            values = tuple(_as_value(kind, argument) for argument in inputs)
            plain = {key: tuple(value) if isinstance(value, list) else value for key, value in attrs.items()}
            return Call(kind, values, plain, name)

        return construct


@dataclass(frozen=True, eq=False)
class Pattern:
    """A block type, made by :func:`pattern`.

    Attributes:
        name: The function's name.
        doc: First line of the function's docstring.
        parameters: Names of the captured tensors; the first that is no constant in a match is the block's input.
        root: The value the function returned, in canonical form.
        function: The function; calling the pattern calls it, so that patterns can be made of others.
    """

    name: str
    doc: str
    parameters: tuple[str, ...]
    root: Value
    function: Constructor

    def __call__(self, op: Ops, *values: Value) -> Value:
        """Use this pattern inside another one."""
        return self.function(op, *values)

    @property
    def anchors(self) -> tuple[str, ...]:
        """Kinds of the operators that may make the block's output."""
        kinds = [value.kind for value in ends(self.root) if isinstance(value, Call)]
        return tuple(dict.fromkeys(kinds))

    def explain(self) -> str:
        """The canonical pattern as text, one operator per line."""
        lines = [f"{self.name}({', '.join(self.parameters)}): {self.doc}".rstrip(": ")]
        labels: dict[Value, str] = {}
        for value in walk(self.root):
            if isinstance(value, Call | Either):
                labels[value] = f"%{len(lines) - 1}"
                lines.append(f"  {labels[value]} = {_describe(value, labels)}")
            else:
                labels[value] = _leaf(value)
        return "\n".join([*lines, f"  return {labels[self.root]}"])

    def __str__(self) -> str:
        return self.name


def check_pattern(value: object) -> None:
    """Raise :class:`PatternError` for what is no pattern, such as a function without the decorator."""
    if not isinstance(value, Pattern):
        name = getattr(value, "__name__", repr(value))
        raise PatternError(f"{name} is not a pattern; decorate its function with blockfuse.pattern")


def pattern(function: Constructor) -> Pattern:
    """Make a pattern from a function that describes a block in the words of ONNX.

    The first parameter gives the operators (:class:`Ops`), the others are captured tensors: a parameter used twice is
    the same tensor both times, which is what makes a shortcut. The bias of Conv and Gemm may be missing in the pattern
    and in the model; the pattern may also leave out the slope of PRelu, the pads of Pad and the bounds of Slice. Add
    and Mul match in either order of operands. The pattern goes through the same canonicalisation as models, so
    ``op.Mul(x, op.Sigmoid(x))`` is SiLU.

    Args:
        function: Takes the operators and the captured tensors by position, returns the block's output.

    Raises:
        PatternError: The function does not describe one block with one output.
    """
    name = function.__name__
    parameters = _parameters(name, function)
    captured = [Captured(parameter) for parameter in parameters]
    try:
        traced = function(Ops(), *captured)
    except TypeError as error:
        raise PatternError(f"pattern {name}: {error}") from error
    _check(name, traced, captured)
    root = canonicalize(traced)
    if not all(isinstance(value, Call) for value in ends(root)):
        raise PatternError(f"pattern {name} can match without any operator")
    doc = (inspect.getdoc(function) or "").partition("\n")[0]
    return Pattern(name, doc, parameters, root, function)


@overload
def either(*alternatives: Value) -> Value: ...
@overload
def either(*alternatives: Literal) -> OneOf: ...
def either(*alternatives: Value | Literal) -> Value | OneOf:
    """One of several values, the first that matches: ``either(op.Relu(y), op.Clip(y, 0, 6))``.

    As an attribute, one of several literals: ``kernel_shape=either((3, 3), (5, 5))``.

    Raises:
        PatternError: Fewer than two alternatives, or values mixed with literals.
    """
    if len(alternatives) < 2:
        raise PatternError("either(...) needs two alternatives or more")
    values = tuple(alternative for alternative in alternatives if isinstance(alternative, Value))
    if len(values) == len(alternatives):
        return Either(values)
    if values:
        raise PatternError("either(...) mixes values of the pattern with literals")
    return OneOf(tuple(tuple(value) if isinstance(value, list) else value for value in alternatives))


def optional(value: Value, step: Callable[[Value], Value]) -> Value:
    """Apply a step that the model may lack.

    For example ``y = optional(y, op.Relu)``, or ``optional(y, lambda y: op.Add(y, x))``.

    The result is ``step(value)`` where that matches, and ``value`` otherwise.
    """
    return Either((step(value), value))


def _check_arity(kind: str, count: int) -> None:
    fewest, most = _ARITY.get(kind, (1, _MANY))
    if fewest <= count <= most:
        return
    takes = f"{fewest}" if fewest == most else f"{fewest} to {most}" if most < _MANY else f"at least {fewest}"
    raise PatternError(f"op.{kind} takes {takes} input{'' if takes == '1' else 's'}, not {count}")


def _as_value(kind: str, argument: object) -> Value:
    if isinstance(argument, Value):
        return argument
    if argument is None:
        return Omitted()
    if isinstance(argument, int | float):
        return Number(float(argument))
    raise PatternError(f"op.{kind}: an input must be a tensor of the pattern or a number, not {argument!r}")


def _parameters(name: str, function: Constructor) -> tuple[str, ...]:
    parameters = list(inspect.signature(function).parameters.values())
    if len(parameters) < 2:
        raise PatternError(f"pattern {name} needs the parameters op and at least one captured tensor")
    for parameter in parameters:
        if parameter.kind not in {parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD}:
            raise PatternError(f"pattern {name}: parameter {parameter} cannot be given by position")
        if parameter.default is not parameter.empty:
            raise PatternError(f"pattern {name}: captured tensor {parameter.name} has a default value")
    return tuple(parameter.name for parameter in parameters[1:])


def _check(name: str, traced: object, captured: list[Captured]) -> None:
    if not isinstance(traced, Value):
        raise PatternError(f"pattern {name} must return one value, not {type(traced).__name__}")
    values = list(walk(traced))
    for parameter in captured:
        if parameter not in values:
            raise PatternError(f"pattern {name}: captured tensor {parameter.name} does not reach the output")
    names = Counter(value.name for value in values if isinstance(value, Call) and value.name)
    for repeated, count in names.items():
        if count > 1:
            raise PatternError(f"pattern {name}: {count} operators are called {repeated!r}")


def _leaf(value: Value) -> str:
    if isinstance(value, Captured):
        return value.name
    return f"{value.number:g}" if isinstance(value, Number) else "-"


def _describe(value: Call | Either, labels: dict[Value, str]) -> str:
    if isinstance(value, Either):
        return f"either({', '.join(labels[child] for child in value.alternatives)})"
    attrs = "".join(f" {key}={describe_condition(wanted)}" for key, wanted in value.attrs.items())
    name = f"  # {value.name}" if value.name else ""
    return f"{value.kind}({', '.join(labels[child] for child in value.inputs)}){attrs}{name}"
