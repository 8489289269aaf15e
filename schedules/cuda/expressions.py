"""Expressions of TVM's loops, taken apart and changed; nothing else walks through them."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any

import tvm_ffi
from tvm import ir, tirx

from blockfuse.schedules.emit import Buffer, Expr


def own_parameter(buffer: Buffer) -> Buffer:
    """A parameter as kernels declare them; those of TVM's loops have no layout."""
    return tirx.decl_buffer(buffer.shape, buffer.dtype, buffer.name, data_alignment=buffer.data_alignment)


def flat_view(buffer: Buffer) -> Buffer:
    """A flat view of a parameter."""
    if len(buffer.shape) == 1:
        return buffer
    size = functools.reduce(operator.mul, buffer.shape)
    name, alignment = f"{buffer.name}_flat", buffer.data_alignment
    return tirx.decl_buffer((size,), buffer.dtype, name, data=buffer.data, data_alignment=alignment)


def place_of(one: Expr) -> Expr:
    """Where a load is in a flat view."""
    place = one.indices[0]
    for size, index in zip(one.source.shape[1:], one.indices[1:], strict=True):
        place = place * size + index
    return place


def loads_of(value: Expr) -> list[Expr]:
    """Loads of a value each once, without those that are indices of others."""
    found: list[Expr] = []

    def visit(one: Expr) -> Any:
        if not any(equal(one, other) for other in found):
            found.append(one)
        return tvm_ffi.WalkResult.SKIP

    tvm_ffi.structural_walk(value, (ir.TensorLoad, visit), order="pre")
    return found


def first_choice(value: Expr) -> Expr | None:
    """The outermost conditional expression that comes first."""
    found: list[Expr] = []

    def visit(one: Expr) -> Any:
        if one.op.same_as(ir.Op.get("prim.if_then_else")):
            found.append(one)
            return tvm_ffi.WalkResult.SKIP
        return None

    tvm_ffi.structural_walk(value, (ir.Call, visit), order="pre")
    return found[0] if found else None


def chosen(value: Expr, choice: Expr, which: int) -> Expr:
    """A value in which a conditional expression has been decided."""
    return tvm_ffi.structural_map(value, (ir.Call, lambda one: one.args[which] if equal(one, choice) else one))


def with_loads(value: Expr, change: Callable[[Expr], Expr]) -> Expr:
    """A value with others in place of its loads, the outermost first."""
    return tvm_ffi.structural_map(value, (ir.TensorLoad, change), order="pre")


def with_variables(value: Expr, change: Callable[[Expr], Expr]) -> Expr:
    """A value with others in place of its variables, buffers among them."""
    return tvm_ffi.structural_map(value, (ir.Var, change))


def computes_wide(body: Any) -> bool:
    """Whether values that are stored are numbers of 64 bits on the way, other than indices of loads."""
    wide: list[Expr] = []

    def visit(cast: Expr) -> None:
        if str(cast.ty.dtype) == "int64" and str(cast.value.ty.dtype) != "bool":
            wide.append(cast)

    skip = (ir.TensorLoad, lambda _: tvm_ffi.WalkResult.SKIP)
    stores: list[Any] = []
    tvm_ffi.structural_walk(body, (tirx.BufferStore, stores.append))
    for store in stores:
        tvm_ffi.structural_walk(store.value, [skip, (tirx.Cast, visit)], order="pre")
    return bool(wide)


def replaced(value: Expr, variable: Expr, by: Expr) -> Expr:
    """A value with an expression in place of a variable."""
    return with_variables(value, lambda one: by if one.same_as(variable) else one)


def uses(value: Expr, variable: Expr) -> bool:
    """Whether a variable, such as a buffer, is part of a value."""
    found: list[Expr] = []
    tvm_ffi.structural_walk(value, (ir.Var, lambda one: found.append(one) if one.same_as(variable) else None))
    return bool(found)


def equal(left: Expr, right: Expr) -> bool:
    """Whether two expressions are the same."""
    return bool(tvm_ffi.structural_equal(left, right))
