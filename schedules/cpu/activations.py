"""Activation functions of vectors: the one place for a new one on this target.

TVM's own ``exp``, ``tanh``, ``sigmoid`` and ``erf`` become one scalar library call per lane; a function that needs one
is written here with arithmetic alone.
"""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx

from blockfuse.errors import InternalError
from blockfuse.schedules.emit import Expr, constant
from blockfuse.stages import Function


def _relu(x: Expr, _: Function, lanes: int) -> Expr:
    return tirx.max(x, constant(0.0, lanes))


def _clip(x: Expr, function: Function, lanes: int) -> Expr:
    return tirx.min(tirx.max(x, constant(function.low, lanes)), constant(function.high, lanes))


def _hard_swish(x: Expr, _: Function, lanes: int) -> Expr:
    gate = x * constant(1 / 6, lanes) + constant(0.5, lanes)
    return x * tirx.min(tirx.max(gate, constant(0.0, lanes)), constant(1.0, lanes))


ACTIVATIONS: dict[str, Callable[[Expr, Function, int], Expr]] = {
    "relu": _relu,
    "clip": _clip,
    "hard_swish": _hard_swish,
}


def activate(function: Function, x: Expr, lanes: int) -> Expr:
    """The function of every lane of ``x``.

    Raises:
        InternalError: There is no such function here.
    """
    if function.kind not in ACTIVATIONS:
        raise InternalError(f"activation {function} has no vector form; add it to schedules/cpu/activations.py")
    return ACTIVATIONS[function.kind](x, function, lanes)
