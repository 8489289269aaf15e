"""Single graph ops without a kernel of ours: one small function per kind writes the op in Relax.

Ops are in canonical form (see ``blockfuse.frontend.canonical``). A kind that is not in :data:`EMITTERS`, or that its
emitter refuses, goes through TVM's own ONNX importer, alone. These ops are right, not fast.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
from tvm import relax

from blockfuse.errors import InternalError
from blockfuse.graph import Op
from blockfuse.importer import Importer, call_imported
from blockfuse.layout import FROM_NHWC, TO_NHWC
from blockfuse.library import Layout
from blockfuse.network import Network

__all__ = ["EMITTERS", "Importer", "Survey", "complaint", "emit_op", "survey"]


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


def emit_op(op: Op, values: Sequence[Any], layout: Layout, writer: Writer) -> tuple[Any, ...]:
    """Write an op; its results, one per output, in the layout of its inputs.

    Raises:
        InternalError: The op cannot be written, which :func:`unsupported` would have told, or has a wrong shape.
    """
    emitter = EMITTERS.get(op.kind, _refuse)
    try:
        results: tuple[Any, ...] = (writer.builder.emit(emitter(Operands(op, values, layout, writer))),)
    except Refusal as refusal:
        if writer.importer is None or layout is not Layout.PLAIN:
            raise InternalError(f"{refusal}") from None
        writer.imported.append(op.name)
        results = call_imported(op, [value for value in values if value is not None], writer.importer, writer.builder)
    for name, result in zip(op.outputs, results, strict=True):
        _check_shape(op, writer.network, name, layout, result)
    return results


def _check_shape(op: Op, network: Network, name: str, layout: Layout, result: Any) -> None:
    if not name:
        return
    expected = network.tensors[name].shape
    if layout is Layout.NHWC and network.is_image(name):
        expected = tuple(expected[axis] for axis in TO_NHWC)
    actual = tuple(int(size) for size in result.ty.shape)
    if actual != expected:
        raise InternalError(f"{op} gives {list(actual)} for {name!r}, not {list(expected)}")


@dataclass(frozen=True)
class Survey:
    """What becomes of the single ops of a network.

    Attributes:
        imported: Names of those that go through TVM's importer.
        unsupported: Those that cannot be compiled, each with the reason.
    """

    imported: frozenset[str]
    unsupported: tuple[tuple[Op, str], ...]


def survey(network: Network, importer: Importer | None = None) -> Survey:
    """Try every single op of a network alone; nothing is compiled for the answer.

    Args:
        network: Its steps.
        importer: Rebuilds an op as an ONNX model, for ops that only TVM's own importer knows.
    """
    trials = [(step, _Trial(network, importer)) for step in network.steps if isinstance(step, Op)]
    reasons = [(op, trial.run(op)) for op, trial in trials]
    imported = frozenset(name for _, trial in trials for name in trial.imported)
    return Survey(imported, tuple((op, reason) for op, reason in reasons if reason))


def complaint(network: Network, unsupported: Sequence[tuple[Op, str]]) -> str:
    """One line that names all ops which cannot be compiled."""
    ops = "; ".join(f"{op}: {reason}" for op, reason in unsupported)
    return f"{network.name} has {len(unsupported)} ops that cannot be compiled: {ops}"


class _Trial:
    """A function that is thrown away."""

    def __init__(self, network: Network, importer: Importer | None) -> None:
        self.network = network
        self.importer = importer
        self.imported: list[str] = []
        self.builder = relax.BlockBuilder()

    def constant(self, array: np.ndarray[Any, Any]) -> Any:
        """A stand-in for a constant."""
        return relax.Var("w", relax.TensorType(array.shape, array.dtype.name))

    def run(self, op: Op) -> str:
        """Why the op cannot be written; empty if it can."""
        values = []
        for name in op.inputs:
            tensor = self.network.tensors[name] if name and not self.network.is_constant(name) else None
            values.append(None if tensor is None else relax.Var("x", relax.TensorType(tensor.shape, tensor.dtype)))
        try:
            with self.builder.function("main", params=[value for value in values if value is not None]):
                with self.builder.dataflow():
                    last = self.builder.emit_output(emit_op(op, values, Layout.PLAIN, self)[0])
                self.builder.emit_func_output(last)
        except Exception as error:  # noqa: BLE001 - whatever TVM raises means the same here
            return next(iter(str(error).strip().splitlines()), type(error).__name__)
        return ""


# ---- the table -------------------------------------------------------------------------------------------------------
def _refuse(o: Operands) -> Any:
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


def _softmax(o: Operands) -> Any:
    return relax.op.nn.softmax(o.tensor(), o.axis(o.op.attrs.get("axis", -1)))


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
        return function(o.tensor(), [o.axis(axis) for axis in axes], keepdims=bool(o.op.attrs.get("keepdims", 1)))

    return emit


def _global_pool(function: Callable[..., Any]) -> Emitter:
    return lambda o: function(o.tensor(), [o.axis(axis) for axis in range(2, o.rank)], keepdims=True)


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
