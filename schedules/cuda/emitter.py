"""The statement builder with what a CUDA kernel adds: a grid, shared memory, registers, PTX instructions, barriers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tvm import tirx
from tvm.script import tirx as T  # noqa: N812 - its name in TVM
from tvm.tirx.exec_scope import ScopeIdDef
from tvm.tirx.stmt import ScopeIdDefStmt

from blockfuse.schedules.emit import Buffer, Emitter, Expr, Index, Statement, sequence

_LINE = 128  # bytes
NOTE = "//"
"""What a comment begins with."""


class CudaEmitter(Emitter):
    """One kernel under construction.

    Args:
        grid: Number of CTAs; may be an expression of what is in the shapes of parameters.
        threads: Threads of a CTA.
        min_blocks: CTAs that an SM must be able to hold; 0 leaves that open.

    Attributes:
        cta: Number of the CTA in the grid.
        thread: Number of the thread in its CTA.
    """

    def __init__(self, grid: Index, threads: int, min_blocks: int = 0) -> None:
        super().__init__()
        self._grid, self._threads, self._min_blocks = grid, threads, min_blocks
        self.cta, self.thread = tirx.Var("cta", "int32"), tirx.Var("thread", "int32")
        self._top: list[Statement] = []

    @contextmanager
    def hoisted(self) -> Iterator[None]:
        """Statements that run once, before everything else."""
        self._scopes.append([])
        yield
        self._top += self._scopes.pop()

    def image(self, name: str, shape: tuple[Index, int, int, int], dtype: str) -> Buffer:
        """Declare the next parameter: an N, H, W, C tensor, indexed along its four axes."""
        buffer = tirx.decl_buffer(shape, dtype, name)
        self.parameters.append(buffer)
        return buffer

    def shared(self, name: str, size: int, dtype: str, alignment: int = _LINE) -> Buffer:
        """The dynamic shared memory of the kernel."""
        buffer = tirx.decl_buffer((size,), dtype, name, scope="shared.dyn", data_alignment=alignment)
        self._top.append(tirx.AllocBuffer(buffer))
        return buffer

    def registers(self, name: str, size: int, dtype: str = "float32") -> Buffer:
        """Registers of a thread that live through the kernel."""
        buffer = tirx.decl_buffer((size,), dtype, name, scope="local")
        self._top.append(tirx.AllocBuffer(buffer))
        return buffer

    def register_view(self, buffer: Buffer, name: str, dtype: str, size: int) -> Buffer:
        """The same registers as elements of another type; they stay registers where indices are constants."""
        view = tirx.decl_buffer((size,), dtype, name, data=buffer.data, scope="local")
        self._top.append(tirx.DeclBuffer(view, data=buffer.data))
        return view

    def view(self, buffer: Buffer, name: str, dtype: str, size: int) -> Buffer:
        """The same memory as elements of another type."""
        with self.hoisted():
            return self.alias(buffer, name, dtype, size)

    def ptx(self, mnemonic: str, *operands: Expr) -> None:
        """One PTX instruction, results first."""
        self.evaluate(T.ptx[mnemonic](*operands))

    def barrier(self) -> None:
        """Wait for all threads of the CTA."""
        self.evaluate(T.cuda.cta_sync())

    def note(self, text: str) -> None:
        """A comment in the CUDA C: TVM prints the call of a function whose name begins with ``//``."""
        line = "".join(letter if letter.isprintable() else "?" for letter in text)
        self.evaluate(tirx.call_extern("int32", f"{NOTE} {line}"))

    def function(self, name: str, attributes: Any = None) -> Any:
        """The finished PrimFunc: the grid, what was hoisted, the body."""
        ids: list[Statement] = [
            ScopeIdDefStmt(ScopeIdDef([self.cta], [_integer(self._grid)], "kernel", "cta")),
            ScopeIdDefStmt(ScopeIdDef([self.thread], [_integer(self._threads)], "cta", "thread")),
        ]
        body = sequence([*ids, *self._top, *self._scopes[0]])
        if self._min_blocks:
            bound = _integer(self._min_blocks)
            body = tirx.AttrStmt(_integer(0), "tirx.launch_bounds_min_blocks_per_sm", bound, body)
        self._scopes = [[tirx.AttrStmt(_integer(0), "tirx.device_entry", tirx.const(True, "bool"), body)]]
        return super().function(name, attributes)


def address(buffer: Buffer, *position: Index) -> Expr:
    """Pointer to an element."""
    return buffer.ptr_to(list(position))


def select_bytes(condition: Expr, size: int) -> Expr:
    """``size`` where the condition holds, else 0: the bytes that an asynchronous copy reads."""
    if isinstance(condition, bool):
        return T.uint32(size if condition else 0)
    return tirx.Select(condition, T.uint32(size), T.uint32(0))


def both(*conditions: Expr) -> Expr:
    """All conditions together; Python bools fold."""
    left: Expr = True
    for condition in conditions:
        if condition is False:
            return False
        if condition is not True:
            left = condition if left is True else tirx.And(left, condition)
    return left


def fp32(value: Expr) -> Expr:
    """The value in single precision."""
    return tirx.Cast("float32", value)


def _integer(value: Index) -> Expr:
    return tirx.const(value, "int32") if isinstance(value, int) else value
