"""A statement builder over TensorIR nodes: loops, buffers, stores, in the order they are written.

Everything above it is plain Python, so a loop nest is a function and unrolling is a ``for`` statement. Indices are
``int`` wherever their value is known, so that bounds fold before TVM sees them; a loop of one trip is no loop. Both
targets build on this file.

    e = Emitter()
    x = e.parameter("x", (4, 64))
    y = e.parameter("y", (4, 64))
    with e.loop(4, "h") as h:
        for c in range(0, 64, 16):
            e.store(y, h * 64 + c, load(x, h * 64 + c, 16) + constant(1.0, 16), 16)
    function = e.function("add_one")
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import prod
from typing import Any, TypeAlias

from tvm import tirx

from blockfuse.machine.affine import Affine, Atom, Clip, First, Quotient
from blockfuse.stages import Frame

Buffer: TypeAlias = Any
Expr: TypeAlias = Any
Statement: TypeAlias = Any
Index: TypeAlias = Any
"""An ``int`` where the value is known, else an expression."""

LOOP_KINDS = {
    "serial": tirx.ForKind.SERIAL,
    "rolled": tirx.ForKind.SERIAL,
    "parallel": tirx.ForKind.PARALLEL,
    "unrolled": tirx.ForKind.UNROLLED,
}


class Emitter:
    """One function under construction: its parameters, and a stack of open scopes with the statements of each."""

    def __init__(self) -> None:
        self.parameters: list[Buffer] = []
        self._scopes: list[list[Statement]] = [[]]

    def add(self, statement: Statement) -> None:
        """Append a statement to the innermost scope."""
        self._scopes[-1].append(statement)

    def evaluate(self, call: Expr) -> None:
        """Append a call made for its effect."""
        self.add(tirx.Evaluate(call))

    def parameter(self, name: str, shape: Sequence[Index], dtype: str = "float32", *, alignment: int = 4) -> Buffer:
        """Declare the next parameter; returns its flat view.

        Args:
            name: Of the buffer.
            shape: Elements along each axis, as callers must pass it; a variable takes the number they pass.
            dtype: Of its elements.
            alignment: Bytes its address is a multiple of. What promises more than callers keep faults at run time.
        """
        buffer = tirx.decl_buffer(tuple(shape), dtype, name, data_alignment=alignment)
        self.parameters.append(buffer)
        return buffer if len(shape) == 1 else self.alias(buffer, f"{name}_flat", alignment=alignment)

    def alloc(self, name: str, size: int) -> Buffer:
        """Allocate a flat buffer of float32 that lives to the end of the innermost scope."""
        buffer = tirx.decl_buffer((size,), "float32", name, scope="global")
        self.add(tirx.AllocBuffer(buffer))
        return buffer

    def alias(
        self, buffer: Buffer, name: str, dtype: str = "", size: int | None = None, *, alignment: int = -1
    ) -> Buffer:
        """A flat view of a buffer, with another type and size where given."""
        flat = _elements(buffer) if size is None else size
        view = tirx.decl_buffer(
            (flat,), dtype or buffer.dtype, name, data=buffer.data, scope=buffer.scope(), data_alignment=alignment
        )
        self.add(tirx.DeclBuffer(view, data=buffer.data))
        return view

    def bind(self, name: str, value: Index) -> Index:
        """A variable that holds ``value``; integers pass through."""
        if isinstance(value, int):
            return value
        variable = tirx.Var(name, value.ty)
        self.add(tirx.Bind(variable, value))
        return variable

    def store(self, buffer: Buffer, index: Index, value: Expr, lanes: int = 1) -> None:
        """``buffer[index : index + lanes] = value``."""
        self.add(tirx.BufferStore(buffer, value, [_lanes_at(index, lanes)]))

    @contextmanager
    def loop(self, count: Index, name: str = "i", kind: str = "serial", start: Index = 0) -> Iterator[Index]:
        """``for name in start .. start + count - 1``; yields the variable, or ``start`` itself where one trip is known.

        Args:
            count: Number of trips.
            name: Of the variable.
            kind: A key of :data:`LOOP_KINDS`; ``rolled`` asks the CUDA compiler not to unroll it either.
            start: Value on the first trip.
        """
        if isinstance(count, int) and count == 1:
            yield start
            return
        variable = tirx.Var(name, "int32")
        self._scopes.append([])
        yield variable
        body = self._scopes.pop()
        if body and not (isinstance(count, int) and count <= 0):
            annotations = {"disable_unroll": True} if kind == "rolled" else {}
            self.add(tirx.For(variable, start, count, LOOP_KINDS[kind], sequence(body), annotations=annotations))

    @contextmanager
    def when(self, condition: Expr) -> Iterator[None]:
        """Statements under a condition; a Python ``bool`` decides at once."""
        self._scopes.append([])
        yield
        body = self._scopes.pop()
        if not body or condition is False:
            return
        if condition is True:
            for statement in body:
                self.add(statement)
            return
        self.add(tirx.IfThenElse(condition, sequence(body), None))

    def branch(self, condition: Expr, then: Callable[[], None], otherwise: Callable[[], None]) -> None:
        """Statements of ``then`` or of ``otherwise``; a Python ``bool`` decides at once."""
        if isinstance(condition, bool):
            (then if condition else otherwise)()
            return
        bodies = []
        for build in (then, otherwise):
            self._scopes.append([])
            build()
            bodies.append(self._scopes.pop())
        yes, no = bodies
        if yes or no:
            first = sequence(yes) if yes else tirx.Evaluate(tirx.const(0, "int32"))
            self.add(tirx.IfThenElse(condition, first, sequence(no) if no else None))

    def function(self, name: str, attributes: Mapping[str, Any] | None = None) -> Any:
        """The finished PrimFunc with the global symbol ``name``."""
        known = {"global_symbol": name, "tirx.noalias": True, "tirx.is_scheduled": True}
        body = sequence(self._scopes[0]) if self._scopes[0] else tirx.Evaluate(tirx.const(0, "int32"))
        return tirx.PrimFunc(self.parameters, body).with_attr(known | dict(attributes or {}))


def _elements(buffer: Buffer) -> Index:
    """Number of elements; an expression where an extent is a variable."""
    known = prod(int(extent) for extent in buffer.shape if isinstance(extent, tirx.IntImm))
    open_extents = [extent for extent in buffer.shape if not isinstance(extent, tirx.IntImm)]
    return prod(open_extents, start=known)


def sequence(statements: list[Statement]) -> Statement:
    """One statement for one or more."""
    return statements[0] if len(statements) == 1 else tirx.SeqStmt(statements)


def load(buffer: Buffer, index: Index, lanes: int = 1) -> Expr:
    """``buffer[index : index + lanes]``."""
    return tirx.BufferLoad(buffer, [_lanes_at(index, lanes)])


def broadcast(value: Expr, lanes: int) -> Expr:
    """``value`` in every lane."""
    return tirx.Broadcast(value, lanes) if lanes > 1 else value


def constant(value: float, lanes: int = 1, dtype: str = "float32") -> Expr:
    """A number in every lane."""
    return broadcast(tirx.const(value, dtype), lanes)


def smaller(a: Index, b: Index) -> Index:
    """The lesser of two indices, folded where both are known."""
    return min(a, b) if isinstance(a, int) and isinstance(b, int) else tirx.min(a, b)


def larger(a: Index, b: Index) -> Index:
    """The greater of two indices, folded where both are known."""
    return max(a, b) if isinstance(a, int) and isinstance(b, int) else tirx.max(a, b)


def framed(frame: Frame, position: Index, size: int) -> Index:
    """Which pixel of ``size`` in a line stands at a position of the line, framed; see ``Frame.source``."""
    if frame.rule == "reflect":
        position = larger(position, 0 - position)
        position = smaller(position, 2 * (size - 1) - position)
    return larger(smaller(position, size - 1), 0)


def remainder(a: Index, modulus: int) -> Index:
    """``a mod modulus``, never negative, folded where ``a`` is known."""
    return a % modulus if isinstance(a, int) else tirx.floormod(a, modulus)


def quotient(a: Index, divisor: int) -> Index:
    """``a / divisor`` rounded down, folded where ``a`` is known."""
    return a // divisor if isinstance(a, int) else tirx.floordiv(a, divisor)


def index(value: Affine | int, env: Mapping[str, Index]) -> Index:
    """A program's index expression as TensorIR; ``int`` where no variable is left.

    Args:
        value: The expression.
        env: The value of every loop variable in it.
    """
    if isinstance(value, int):
        return value
    total: Index = value.const
    for atom, coefficient in value.terms:
        total = total + _atom(atom, env) * coefficient
    return total


def _atom(atom: Atom, env: Mapping[str, Index]) -> Index:
    if isinstance(atom, Clip):
        return smaller(larger(index(atom.value, env), index(atom.low, env)), index(atom.high, env))
    if isinstance(atom, First):
        return _choice(atom, env)
    if isinstance(atom, Quotient):
        return quotient(index(atom.value, env), atom.divisor)
    return env[atom]


def _choice(atom: First, env: Mapping[str, Index]) -> Index:
    trip = env[atom.var]
    if isinstance(trip, int):
        return index(atom.later if trip else atom.first, env)
    return tirx.Select(trip == 0, tirx.const(0, "int32") + index(atom.first, env), index(atom.later, env))


def _lanes_at(position: Index, lanes: int) -> Index:
    return tirx.Ramp(position, 1, lanes) if lanes > 1 else position
