"""What an emitter gets: an op, its operands in one of two layouts, and the function it is written into."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
from tvm import relax

from blockfuse.build.importer import Importer
from blockfuse.build.layout import FROM_NHWC, TO_NHWC
from blockfuse.build.network import Network
from blockfuse.build.open_batch import OpenBatch
from blockfuse.graph import Op, Tensor
from blockfuse.runtime.library import Layout

Array: TypeAlias = np.ndarray[Any, Any]


class Refusal(Exception):  # noqa: N818 - not an error: the importer is asked next
    """An emitter cannot write this op."""


class Writer(Protocol):
    """The function that ops are written into."""

    network: Network
    builder: Any
    importer: Importer | None
    imported: list[str]
    batch: OpenBatch

    def constant(self, array: Array) -> Any:
        """A parameter of the function that holds a constant."""

    def dims(self, shape: Sequence[int]) -> tuple[Any, ...]:
        """A shape as Relax takes it: an open batch is a variable."""


@dataclass(frozen=True)
class Operands:
    """An op and what it reads.

    Attributes:
        op: The op.
        values: Per input the computed value, or None for constants and omitted inputs.
        layout: Of the images among the values, and of the result.
        writer: The function under construction.
    """

    op: Op
    values: Sequence[Any]
    layout: Layout
    writer: Writer

    def described(self, position: int = 0) -> Tensor:
        """The graph's tensor at an input."""
        return self.writer.network.tensors[self.op.inputs[position]]

    @property
    def result(self) -> Tensor:
        """The graph's tensor at the first output."""
        return self.writer.network.tensors[self.op.output]

    @property
    def rank(self) -> int:
        """Number of dimensions of the first input."""
        return len(self.described().shape)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the first output in ONNX order; code is made of :attr:`dims`."""
        return self.result.shape

    @property
    def dims(self) -> tuple[Any, ...]:
        """Shape of the first output in ONNX order as Relax takes it."""
        return self.writer.dims(self.result.shape)

    @property
    def is_last(self) -> bool:
        """Whether images have their channels last."""
        return self.layout is Layout.NHWC

    @property
    def image_layout(self) -> str:
        """The layout as Relax spells it."""
        return "NHWC" if self.is_last else {3: "NCW", 4: "NCHW", 5: "NCDHW"}[self.rank]

    def has(self, position: int) -> bool:
        """Whether an input is there."""
        return position < len(self.op.inputs) and bool(self.op.inputs[position])

    def tensor(self, position: int = 0) -> Any:
        """An input as a Relax value."""
        value = self.values[position] if position < len(self.values) else None
        if value is not None:
            return value
        data = self.data(position)
        if data is None:
            raise Refusal(f"input {position} is omitted")
        if self.is_last and data.size > 1:
            data = data.reshape((1,) * (4 - data.ndim) + data.shape).transpose(TO_NHWC)
        return self.writer.constant(np.ascontiguousarray(data))

    def tensors(self) -> list[Any]:
        """All inputs as Relax values."""
        return [self.tensor(position) for position in range(len(self.op.inputs))]

    def data(self, position: int) -> Array | None:
        """The data of a constant input, None if it is omitted."""
        if not self.has(position):
            return None
        value = self.described(position).value
        if value is None:
            raise Refusal(f"input {position} is computed")
        return value

    def numbers(self, position: int) -> list[int]:
        """The elements of a constant input that holds sizes, axes or indices.

        Raises:
            Refusal: It is omitted or computed.
        """
        data = self.data(position)
        if data is None:
            raise Refusal(f"input {position} is omitted")
        return [int(number) for number in data.reshape(-1)]

    def along(self, position: int, axis: int) -> Any:
        """A constant or computed vector as it broadcasts along an axis of the first input."""
        shape = [1] * self.rank
        shape[self.axis(axis)] = -1
        value = self.values[position]
        if value is None:
            return self.writer.constant(np.ascontiguousarray(_known(self.data(position)).reshape(shape)))
        shape[self.axis(axis)] = self.described(position).shape[0]
        return relax.op.reshape(value, shape)

    def vector(self, data: Array, axis: int) -> Any:
        """New constants as they broadcast along an axis of the first input."""
        shape = [1] * self.rank
        shape[self.axis(axis)] = data.size
        return self.writer.constant(np.ascontiguousarray(data.reshape(shape)))

    def scalar(self, value: float, dtype: str = "") -> Any:
        """A number of the first input's type, or of another."""
        return relax.const(value, dtype or self.described().dtype)

    def axis(self, axis: int) -> int:
        """Where an axis of the first input lies in the layout."""
        axis %= self.rank
        return FROM_NHWC[axis] if self.is_last else axis

    def spatial_axes(self) -> list[int]:
        """Where the axes behind N and C lie in the layout."""
        return [self.axis(axis) for axis in range(2, self.rank)]


Emitter: TypeAlias = Callable[[Operands], Any]
"""Writes an op; the result is a Relax value, or a list of them for several outputs."""


def picked(o: Operands, value: Any, axis: int, indices: Array | range) -> Any:
    """The slices of a value at constant indices along an axis in ONNX order."""
    table = o.writer.constant(np.asarray(indices, np.int32))
    return relax.op.take(value, table, o.axis(axis), mode="clip")


def in_single(o: Operands, function: Callable[[Any], Any]) -> Any:
    """A function of the first input that adds many terms up: in float32, whatever the type of its operands is."""
    dtype = o.result.dtype
    if dtype not in {"float16", "bfloat16"}:
        return function(o.tensor())
    wide = o.writer.builder.emit(relax.op.astype(o.tensor(), "float32"))
    return relax.op.astype(function(wide), dtype)


def _known(data: Array | None) -> Array:
    if data is None:
        raise Refusal("an input is omitted")
    return data
