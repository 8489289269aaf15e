"""Activation functions as expressions on one float32 value: the one place to add a function for this target."""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx

from blockfuse.errors import InternalError
from blockfuse.schedules.emit import Expr, constant
from blockfuse.stages import Function


def _relu(value: Expr, _: Function) -> Expr:
    return tirx.max(value, constant(0.0))


def _clip(value: Expr, function: Function) -> Expr:
    return tirx.min(tirx.max(value, constant(function.low)), constant(function.high))


def _hard_swish(value: Expr, _: Function) -> Expr:
    gate = value * constant(1 / 6) + constant(0.5)
    return value * tirx.min(tirx.max(gate, constant(0.0)), constant(1.0))


_TABLE: dict[str, Callable[[Expr, Function], Expr]] = {"relu": _relu, "clip": _clip, "hard_swish": _hard_swish}


def activation(function: Function, value: Expr) -> Expr:
    """The function of a value.

    Raises:
        InternalError: This target has no expression for the function.
    """
    build = _TABLE.get(function.kind)
    if build is None:
        raise InternalError(f"activation {function} has no CUDA expression")
    return build(value, function)
