"""Compare a pattern with a graph, backwards from the operator that makes the block's output.

Every choice (operand order, alternative, missing step) is tried. What is reported is the match with most operators,
or, without any, the attempt that got furthest: the first failure is usually beside the point.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from blockfuse.pattern.legality import objection
from blockfuse.pattern.values import Call, Captured, Either, Number, Omitted, Value, describe_condition, ends, walk

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from blockfuse.graph import Graph, Op
    from blockfuse.pattern.trace import Pattern

COMMUTATIVE = frozenset({"Add", "Mul"})
TRAILING_INPUTS_OPTIONAL = frozenset(
    {"Conv", "Gemm", "Pad", "PRelu", "Slice"}
)  # biases, slopes, pads, bounds may be left out

_MOST_NAMED = 4  # alternatives in a reason


@dataclass(frozen=True)
class Match:
    """A place in the graph that a pattern describes.

    Attributes:
        pattern: Name of the pattern.
        ops: The operators in the pattern's order, producers before consumers; the last makes the output.
        named: Operators that the pattern captures by ``name=``.
        tensors: Name of the graph tensor for every parameter; "" for a bias the model leaves out.
        input: Name of the tensor the block works on.
        output: Name of the tensor the block makes.
    """

    pattern: str
    ops: tuple[Op, ...]
    named: Mapping[str, Op]
    tensors: Mapping[str, str]
    input: str
    output: str

    def __str__(self) -> str:
        return f"{self.pattern}: {', '.join(op.name for op in self.ops)}"


@dataclass(frozen=True)
class Mismatch:
    """Why a pattern does not describe the part of the graph that ends in an operator; false as a condition.

    Attributes:
        pattern: Name of the pattern.
        reason: One sentence.
        op: The operator where the attempt that matched most operators failed.
        matched: How many operators that attempt had matched.
    """

    pattern: str
    reason: str
    op: Op
    matched: int

    def __bool__(self) -> bool:
        return False

    def __str__(self) -> str:
        return f"{self.pattern}: {self.reason} (at {self.op}, {self.matched} ops matched)"


@dataclass(frozen=True)
class State:
    """What an attempt has settled: a tensor for each pattern value and an operator for each call."""

    tensors: dict[Value, str] = field(default_factory=dict)
    ops: dict[Call, Op] = field(default_factory=dict)

    def with_tensor(self, value: Value, tensor: str) -> State:
        """The state with one more value settled."""
        return State({**self.tensors, value: tensor}, self.ops)

    def with_op(self, call: Call, op: Op, tensor: str) -> State:
        """The state with one more operator settled."""
        return State({**self.tensors, call: tensor}, {**self.ops, call: op})


@dataclass(frozen=True)
class _Failure:
    matched: int
    closeness: int  # 0: another operator stands there; 1: the right one, but something about it differs
    op: Op
    expected: tuple[str, ...]
    found: str

    @property
    def reason(self) -> str:
        if not self.expected:
            return self.found
        *others, last = self.expected
        if len(others) > _MOST_NAMED:
            others, last = others[:_MOST_NAMED], f"one of {len(others) + 1 - _MOST_NAMED} others"
        expected = f"{', '.join(others)} or {last}" if others else last
        return f"{self.found}; the pattern wants {expected}"


def match(pattern: Pattern, graph: Graph, anchor: Op) -> Match | Mismatch:
    """Whether the pattern describes the part of the graph that ends in ``anchor``.

    Args:
        pattern: What to look for.
        graph: A canonical graph.
        anchor: The operator that makes the block's output.

    Returns:
        The match with most operators, the first found among equals, or the deepest reason why there is none.
    """
    return _Search(pattern, graph, anchor).run()


class _Search:
    """One search from one anchor; remembers the failure that got furthest."""

    def __init__(self, pattern: Pattern, graph: Graph, anchor: Op) -> None:
        self.pattern = pattern
        self.graph = graph
        self.anchor = anchor
        self.deepest: _Failure | None = None

    def run(self) -> Match | Mismatch:
        best: Match | None = None
        for state in self.value(self.pattern.root, self.anchor.output, self.anchor, State()):
            found = self.settle(state)
            if found and (best is None or len(found.ops) > len(best.ops)):
                best = found
        if best is not None:
            return best
        failure = self.deepest or _Failure(0, 0, self.anchor, (), f"{self.anchor} does not fit")
        return Mismatch(self.pattern.name, failure.reason, failure.op, failure.matched)

    def settle(self, state: State) -> Match | None:
        """The match of a finished attempt, unless fusing it would be wrong."""
        tensors = {value.name: tensor for value, tensor in state.tensors.items() if isinstance(value, Captured)}
        ops = tuple(
            state.ops[value] for value in walk(self.pattern.root) if isinstance(value, Call) and value in state.ops
        )
        against = objection(self.graph, ops, self.anchor, tensors)
        if against is not None:
            self.fail(state, against.op, against.reason, closeness=1)
            return None
        captured = [tensors[name] for name in self.pattern.parameters if tensors.get(name)]
        images = [name for name in captured if not self.graph.tensor(name).is_constant]
        if not images:
            self.fail(state, ops[0], f"{ops[0]} reads constants alone", closeness=1)
            return None
        named = {call.name: op for call, op in state.ops.items() if call.name}
        return Match(self.pattern.name, ops, named, tensors, images[0], self.anchor.output)

    def fail(self, state: State, op: Op, found: str, *expected: str, closeness: int = 0) -> None:
        """Note a failure; of those that got furthest keep the first, with what the others wanted at the same place."""
        new = _Failure(len(state.ops), closeness, op, expected, found)
        old = self.deepest
        if old is None or (new.matched, new.closeness) > (old.matched, old.closeness):
            self.deepest = new
        elif (new.matched, new.closeness, new.op.name, new.found) == (
            old.matched,
            old.closeness,
            old.op.name,
            old.found,
        ):
            wanted = tuple(dict.fromkeys((*old.expected, *new.expected)))
            self.deepest = _Failure(old.matched, old.closeness, old.op, wanted, old.found)

    # ---- one value against one tensor; each yields the states in which they agree -----------------------------------
    def value(self, value: Value, tensor: str, reader: Op, state: State) -> Iterator[State]:
        settled = state.tensors.get(value)
        if settled is not None:
            if settled == tensor:
                yield state
            else:
                self.fail(state, reader, *self.disagreement(value, settled, tensor, reader), closeness=1)
        elif isinstance(value, Captured):
            yield state.with_tensor(value, tensor)
        elif isinstance(value, Either):
            for alternative in value.alternatives:
                for after in self.value(alternative, tensor, reader, state):
                    yield after.with_tensor(value, tensor)
        elif isinstance(value, Call):
            yield from self.call(value, tensor, reader, state)
        elif self.is_constant_like(value, tensor):
            yield state
        else:
            self.fail(state, reader, f"{reader} reads {tensor!r}", _literal(value), closeness=1)

    def call(self, call: Call, tensor: str, reader: Op, state: State) -> Iterator[State]:
        op = self.graph.producer(tensor) if tensor else None
        if op is None:
            what = "a constant" if tensor and self.graph.tensor(tensor).is_constant else "an input of the model"
            self.fail(state, reader, f"{reader} reads {tensor!r}, {what if tensor else 'left out'}", call.kind)
        elif op.kind != call.kind:
            self.fail(state, op, f"found {op}", call.kind)
        elif op.output != tensor or any(op is other for other in state.ops.values()):
            self.fail(state, op, f"{op} is matched already", f"another {call.kind}", closeness=1)
        elif (difference := _differing_attribute(self.graph, call, op)) is not None:
            self.fail(state, op, *difference, closeness=1)
        else:
            after = state.with_op(call, op, tensor)
            for pairs in self.operands(call, op, after):
                yield from self.inputs(pairs, op, after)

    def operands(self, call: Call, op: Op, state: State) -> Iterator[list[tuple[Value, str]]]:
        """The ways in which the pattern's inputs can stand for the operator's; computed ones come first."""
        tensors = _trimmed(op.inputs)
        if len(call.inputs) < len(tensors) and call.kind in TRAILING_INPUTS_OPTIONAL:
            tensors = tensors[: len(call.inputs)]
        if len(call.inputs) > len(tensors) and call.kind in TRAILING_INPUTS_OPTIONAL:
            tensors = (*tensors, *[""] * (len(call.inputs) - len(tensors)))
        if len(call.inputs) != len(tensors):
            self.fail(state, op, f"{op} has {len(tensors)} inputs", f"{len(call.inputs)}", closeness=1)
            return
        orders = [tensors]
        if call.kind in COMMUTATIVE and len(set(tensors)) == 2:
            orders.append(tensors[::-1])
        for order in orders:
            yield sorted(zip(call.inputs, order, strict=True), key=lambda pair: _may_be_captured(pair[0]))

    def inputs(self, pairs: list[tuple[Value, str]], op: Op, state: State) -> Iterator[State]:
        if not pairs:
            yield state
            return
        (value, tensor), *rest = pairs
        for after in self.value(value, tensor, op, state):
            yield from self.inputs(rest, op, after)

    # ---- small questions --------------------------------------------------------------------------------------------
    def disagreement(self, value: Value, settled: str, tensor: str, reader: Op) -> tuple[str, str]:
        what = value.name if isinstance(value, Captured) else "the same value"
        return f"{reader} reads {tensor!r}", f"{what}, which is {settled!r}"

    def is_constant_like(self, value: Value, tensor: str) -> bool:
        if isinstance(value, Omitted) or not tensor:
            return isinstance(value, Omitted) and not tensor
        data = self.graph.constant(tensor)
        return isinstance(value, Number) and data is not None and bool(np.all(data == value.number))


def _may_be_captured(value: Value) -> bool:
    return any(isinstance(end, Captured) for end in ends(value))


def _literal(value: Value) -> str:
    return f"the constant {value.number:g}" if isinstance(value, Number) else "nothing there"


def _trimmed(inputs: tuple[str, ...]) -> tuple[str, ...]:
    while inputs and not inputs[-1]:
        inputs = inputs[:-1]
    return inputs


def _differing_attribute(graph: Graph, call: Call, op: Op) -> tuple[str, str] | None:
    """What the operator has and what the pattern wants, for the first attribute that differs."""
    for key, wanted in call.attrs.items():
        value = _attribute(graph, op, key)
        agrees = value is not None and bool(wanted(value)) if callable(wanted) else _equal(value, wanted)
        if not agrees:
            has = f"has {key} {value}" if value is not None else f"has no attribute {key}"
            return f"{op} {has}", describe_condition(wanted)
    return None


def _equal(value: object, wanted: object) -> bool:
    """Equality, up to the rounding of a model's single-precision numbers."""
    if isinstance(value, float) and isinstance(wanted, int | float):
        return math.isclose(value, wanted, rel_tol=1e-6)
    return bool(value == wanted)


def _attribute(graph: Graph, op: Op, key: str) -> Any:
    """An attribute, or one derived from the operator.

    ``depthwise`` of Conv is whether each channel has its filter, ``concatenated`` of any whether a Concat reads it.
    """
    if key == "concatenated":
        return any(reader.kind == "Concat" for reader in graph.consumers(op.output))
    if (op.kind, key) == ("Conv", "depthwise"):
        outputs, per_group = graph.tensor(op.inputs[1]).shape[:2]
        group = op.attrs.get("group", 1)
        return bool(group > 1 and group == outputs and per_group == 1)
    return op.attrs.get(key)
