"""The open batch of a network as a variable of Relax, and shapes with it as numbers.

A network that takes any batch has :data:`~blockfuse.build.network.OPEN_BATCH` in its shapes. Relax gets a variable in
its place; what Relax infers is turned back, so that shapes are compared as numbers, and a function that would write the
number itself into code is found, because its results have another shape then.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import relax, tirx
from tvm.sym import Analyzer

from blockfuse.build.network import OPEN_BATCH
from blockfuse.errors import InternalError

_FIXED = "the code would be for a fixed batch"


class OpenBatch:
    """The variable of one function."""

    def __init__(self) -> None:
        self.variable = tirx.Var("batch", "int64")
        self._analyzer = Analyzer()

    def dims(self, shape: Sequence[int]) -> tuple[Any, ...]:
        """A shape as Relax takes it."""
        return tuple(self.variable if size == OPEN_BATCH else size for size in shape)

    def type(self, shape: Sequence[int], dtype: str) -> Any:
        """The type of a value of that shape."""
        return relax.TensorType(self.dims(shape), dtype)

    def shape(self, value: Any) -> tuple[int, ...]:
        """The shape of a value.

        Raises:
            InternalError: It is not known, depends on the batch in another way, or was written for one batch.
        """
        dims = value.ty.shape
        if dims is None:
            raise InternalError("a shape is not known")
        return tuple(self._number(size) for size in dims)

    def _number(self, size: Any) -> int:
        if isinstance(size, int | tirx.IntImm):
            if _holds_batch(size):
                raise InternalError(_FIXED)
            return int(size)
        if self._analyzer.can_prove_equal(size, self.variable):
            return OPEN_BATCH
        raise InternalError(f"the dimension {size} is neither fixed nor the batch")


def check_open(module: Any) -> None:
    """Raise :class:`InternalError` if code of a network that takes any batch was written for one batch."""
    sizes: list[Any] = []

    def visit(node: Any) -> None:
        if isinstance(node, relax.ShapeExpr):
            sizes.extend(node.values)
        elif isinstance(node.ty, relax.TensorType) and node.ty.shape is not None:
            sizes.extend(node.ty.shape)

    for function in module.functions.values():
        if isinstance(function, relax.Function):
            relax.analysis.post_order_visit(function, visit)
    if any(_holds_batch(size) for size in sizes):
        raise InternalError(_FIXED)


def _holds_batch(size: Any) -> bool:
    """Whether a dimension has the batch as a number in it."""
    number = int(size) if isinstance(size, int | tirx.IntImm) else 0
    return number > 0 and number % OPEN_BATCH == 0


def parameter_shape(parameter: Any) -> tuple[int, ...]:
    """The shape that a kernel declares; a dimension that is a variable is the open batch."""
    return tuple(int(size) if isinstance(size, tirx.IntImm) else OPEN_BATCH for size in parameter.shape)
