"""How single ops are written in Relax: one small function per kind.

Ops are in canonical form (see ``blockfuse.frontend.canonical``). An emitter gets the op's operands, images among them
in one of two layouts, and returns the result in the same layout. It refuses what it cannot express.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
from tvm import relax

from blockfuse.build.importer import Importer
from blockfuse.build.layout import FROM_NHWC, TO_NHWC
from blockfuse.build.network import Network
from blockfuse.graph import Op
from blockfuse.runtime.library import Layout


class Refusal(Exception):  # noqa: N818 - not an error: the importer is asked next
    """An emitter cannot write this op."""


class Writer(Protocol):
    """The function that ops are written into."""

    network: Network
    builder: Any
    importer: Importer | None
    imported: list[str]

    def constant(self, array: np.ndarray[Any, Any]) -> Any:
        """A parameter of the function that holds a constant."""


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

    @property
    def rank(self) -> int:
        """Number of dimensions of the first input."""
        return len(self.writer.network.tensors[self.op.inputs[0]].shape)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the first output in ONNX order."""
        return self.writer.network.tensors[self.op.output].shape

    @property
    def image_layout(self) -> str:
        """The layout as Relax spells it."""
        return "NHWC" if self.layout is Layout.NHWC else "NCHW"

    def tensor(self, position: int = 0) -> Any:
        """An input as a Relax value."""
        value = self.values[position]
        if value is not None:
            return value
        data = self.data(position)
        if data is None:
            raise Refusal(f"input {position} is omitted")
        if self.layout is Layout.NHWC and data.size > 1:
            data = data.reshape((1,) * (4 - data.ndim) + data.shape).transpose(TO_NHWC)
        return self.writer.constant(np.ascontiguousarray(data))

    def tensors(self) -> list[Any]:
        """All inputs as Relax values."""
        return [self.tensor(position) for position in range(len(self.op.inputs))]

    def data(self, position: int) -> np.ndarray[Any, Any] | None:
        """The data of a constant input, None if it is omitted."""
        if position >= len(self.op.inputs) or not self.op.inputs[position]:
            return None
        value = self.writer.network.tensors[self.op.inputs[position]].value
        if value is None:
            raise Refusal(f"input {position} is computed")
        return value

    def axis(self, axis: int) -> int:
        """Where an axis of the first input lies in the layout."""
        axis %= self.rank
        return FROM_NHWC[axis] if self.layout is Layout.NHWC else axis


Emitter: TypeAlias = Callable[[Operands], Any]


def refuse(o: Operands) -> Any:
    """The emitter of every kind that has no other."""
    raise Refusal(f"there is no code for {o.op.kind}")


def _unary(function: Callable[[Any], Any]) -> Emitter:
    return lambda o: function(o.tensor())


def _binary(function: Callable[[Any, Any], Any]) -> Emitter:
    def emit(o: Operands) -> Any:
        first, *others = o.tensors()
        for other in others:
            first = function(first, other)
        return first

    return emit


def _scalar(o: Operands, value: float) -> Any:
    return relax.const(value, o.writer.network.tensors[o.op.inputs[0]].dtype)


def _clip(o: Operands) -> Any:
    value = o.tensor()
    low, high = float(o.op.attrs.get("min", -math.inf)), float(o.op.attrs.get("max", math.inf))
    if len(o.op.inputs) > 1:
        raise Refusal("the bounds are inputs")
    if low > -math.inf:
        value = relax.op.maximum(value, _scalar(o, low))
    return relax.op.minimum(value, _scalar(o, high)) if high < math.inf else value


def _hard_sigmoid_of(o: Operands, alpha: float, beta: float) -> Any:
    value = relax.op.add(relax.op.multiply(o.tensor(), _scalar(o, alpha)), _scalar(o, beta))
    return relax.op.minimum(relax.op.maximum(value, _scalar(o, 0.0)), _scalar(o, 1.0))


def _hard_sigmoid(o: Operands) -> Any:
    return _hard_sigmoid_of(o, o.op.attrs.get("alpha", 0.2), o.op.attrs.get("beta", 0.5))


def _hard_swish(o: Operands) -> Any:
    return relax.op.multiply(o.tensor(), _hard_sigmoid_of(o, 1 / 6, 0.5))


def _gelu(o: Operands) -> Any:
    tanh = o.op.attrs.get("approximate", "none") == "tanh"
    return (relax.op.nn.gelu_tanh if tanh else relax.op.nn.gelu)(o.tensor())


def _in_single(o: Operands, function: Callable[[Any], Any]) -> Any:
    """A function of the first input that adds many terms up: in float32, whatever the type of its operands is."""
    dtype = o.writer.network.tensors[o.op.output].dtype
    if dtype not in {"float16", "bfloat16"}:
        return function(o.tensor())
    return relax.op.astype(function(relax.op.astype(o.tensor(), "float32")), dtype)


def _softmax(o: Operands) -> Any:
    return _in_single(o, lambda value: relax.op.nn.softmax(value, o.axis(o.op.attrs.get("axis", -1))))


def _reshape(o: Operands) -> Any:
    return relax.op.reshape(o.tensor(), o.shape)


def _transpose(o: Operands) -> Any:
    return relax.op.permute_dims(o.tensor(), o.op.attrs.get("perm", tuple(reversed(range(o.rank)))))


def _concat(o: Operands) -> Any:
    return relax.op.concat(o.tensors(), o.axis(o.op.attrs["axis"]))


def _reduce(function: Callable[..., Any]) -> Emitter:
    def emit(o: Operands) -> Any:
        axes = o.op.attrs.get("axes")
        if axes is None:
            data = o.data(1)
            axes = range(o.rank) if data is None else data.tolist()
        keep = bool(o.op.attrs.get("keepdims", 1))
        return _in_single(o, lambda value: function(value, [o.axis(axis) for axis in axes], keepdims=keep))

    return emit


def _global_pool(function: Callable[..., Any]) -> Emitter:
    return lambda o: _in_single(
        o, lambda value: function(value, [o.axis(axis) for axis in range(2, o.rank)], keepdims=True)
    )


def _pool(function: Callable[..., Any]) -> Emitter:
    def emit(o: Operands) -> Any:
        attrs = o.op.attrs
        if o.rank != 4 or attrs.get("ceil_mode") or attrs.get("auto_pad", "NOTSET") != "NOTSET":
            raise Refusal("a pool that is not 2-D, or rounds its size up")
        return function(
            o.tensor(),
            attrs["kernel_shape"],
            attrs.get("strides", (1, 1)),
            attrs.get("pads", (0, 0, 0, 0)),
            attrs.get("dilations", (1, 1)),
            count_include_pad=bool(attrs.get("count_include_pad", 0)),
            layout=o.image_layout,
        )

    return emit


def _gemm(o: Operands) -> Any:
    weight = o.data(1)
    if weight is None or dict(o.op.attrs) != {"transB": 1}:
        raise Refusal("a Gemm that is not canonical")
    product = relax.op.matmul(o.tensor(), o.writer.constant(np.ascontiguousarray(weight.T)))
    return relax.op.add(product, o.tensor(2))


def _batch_normalization(o: Operands) -> Any:
    scale, shift, mean, variance = (np.asarray(o.data(position), np.float64) for position in range(1, 5))
    factor = scale / np.sqrt(variance + o.op.attrs.get("epsilon", 1e-5))
    shape = (-1,) + (1,) * (o.rank - 2)
    dtype = o.writer.network.tensors[o.op.inputs[0]].dtype
    constants = [part.astype(dtype).reshape(shape) for part in (factor, shift - mean * factor)]
    return relax.op.add(relax.op.multiply(o.tensor(), o.writer.constant(constants[0])), o.writer.constant(constants[1]))


EMITTERS: Mapping[str, Emitter] = {
    "Abs": _unary(relax.op.abs),
    "Add": _binary(relax.op.add),
    "AveragePool": _pool(relax.op.nn.avg_pool2d),
    "BatchNormalization": _batch_normalization,
    "Cast": lambda o: relax.op.astype(o.tensor(), o.writer.network.tensors[o.op.output].dtype),
    "Clip": _clip,
    "Concat": _concat,
    "Div": _binary(relax.op.divide),
    "Erf": _unary(relax.op.erf),
    "Exp": _unary(relax.op.exp),
    "Flatten": _reshape,
    "Gelu": _gelu,
    "Gemm": _gemm,
    "GlobalAveragePool": _global_pool(relax.op.mean),
    "GlobalMaxPool": _global_pool(relax.op.max),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish,
    "Identity": _unary(lambda value: value),
    "LeakyRelu": lambda o: relax.op.nn.leakyrelu(o.tensor(), o.op.attrs.get("alpha", 0.01)),
    "Log": _unary(relax.op.log),
    "MatMul": _binary(relax.op.matmul),
    "Max": _binary(relax.op.maximum),
    "MaxPool": _pool(relax.op.nn.max_pool2d),
    "Min": _binary(relax.op.minimum),
    "Mul": _binary(relax.op.multiply),
    "Neg": _unary(relax.op.negative),
    "Pow": _binary(relax.op.power),
    "ReduceMax": _reduce(relax.op.max),
    "ReduceMean": _reduce(relax.op.mean),
    "ReduceSum": _reduce(relax.op.sum),
    "Relu": _unary(relax.op.nn.relu),
    "Reshape": _reshape,
    "Sigmoid": _unary(relax.op.sigmoid),
    "Softmax": _softmax,
    "Sqrt": _unary(relax.op.sqrt),
    "Squeeze": _reshape,
    "Sub": _binary(relax.op.subtract),
    "Swish": _unary(relax.op.nn.silu),
    "Tanh": _unary(relax.op.tanh),
    "Transpose": _transpose,
    "Unsqueeze": _reshape,
}
