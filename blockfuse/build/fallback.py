"""Single graph ops without a kernel of ours: through an emitter, else through TVM's own ONNX importer, alone.

These ops are right, not fast.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import relax

from blockfuse.build.emitters import EMITTERS, refuse
from blockfuse.build.importer import Importer, call_imported
from blockfuse.build.layout import TO_NHWC
from blockfuse.build.network import Network
from blockfuse.build.open_batch import OpenBatch, check_open
from blockfuse.build.operands import Operands, Refusal, Writer
from blockfuse.errors import BlockfuseError, InternalError
from blockfuse.graph import Op
from blockfuse.runtime.library import Layout


def emit_op(op: Op, values: Sequence[Any], layout: Layout, writer: Writer) -> tuple[Any, ...]:
    """Write an op; its results, one per output, in the layout of its inputs.

    Raises:
        InternalError: The op cannot be written, which :func:`unsupported` would have told, or has a wrong shape.
    """
    emitter = EMITTERS.get(op.kind, refuse)
    try:
        written = emitter(Operands(op, values, layout, writer))
        results: tuple[Any, ...] = tuple(
            writer.builder.emit(result) for result in (written if isinstance(written, list) else [written])
        )
    except Refusal as refusal:
        if writer.importer is None or layout is not Layout.PLAIN:
            raise InternalError(f"{refusal}") from None
        writer.imported.append(op.name)
        computed = {name: value for name, value in zip(op.inputs, values, strict=True) if value is not None}
        results = call_imported(op, list(computed.values()), writer.importer, writer.builder)
    for name, result in zip(op.outputs, results, strict=True):
        _check_shape(op, writer, name, layout, result)
    return results


def _check_shape(op: Op, writer: Writer, name: str, layout: Layout, result: Any) -> None:
    if not name:
        return
    network = writer.network
    expected = network.tensors[name].shape
    if layout is Layout.NHWC and network.is_image(name):
        expected = tuple(expected[axis] for axis in TO_NHWC)
    actual = writer.batch.shape(result)
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
        self.batch = OpenBatch()

    def constant(self, array: np.ndarray[Any, Any]) -> Any:
        """A stand-in for a constant."""
        return relax.Var("w", relax.TensorType(array.shape, array.dtype.name))

    def dims(self, shape: Sequence[int]) -> tuple[Any, ...]:
        """A shape as Relax takes it."""
        return self.batch.dims(shape)

    def run(self, op: Op) -> str:
        """Why the op cannot be written; empty if it can."""
        values = []
        for name in op.inputs:
            tensor = self.network.tensors[name] if name and not self.network.is_constant(name) else None
            values.append(None if tensor is None else relax.Var("x", self.batch.type(tensor.shape, tensor.dtype)))
        with self.builder.function("main", params=[value for value in values if value is not None]):
            with self.builder.dataflow():
                reason = self._emit(op, values)
                last = self.builder.emit_output(relax.const(0))
            self.builder.emit_func_output(last)
        return reason or self._fixed()

    def _fixed(self) -> str:
        """Why code does not do for any batch; empty if it does."""
        try:
            check_open(self.builder.get())
        except InternalError as error:
            return str(error)
        return ""

    def _emit(self, op: Op, values: Sequence[Any]) -> str:
        try:
            emit_op(op, values, Layout.PLAIN, self)
        except BlockfuseError as error:
            return str(error)
        except Exception:  # noqa: BLE001 - whatever TVM raises means the same here
            return f"there is neither a kernel for this {op.kind} nor another way to run it"
        return ""
