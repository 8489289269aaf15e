"""The model as a graph of operators.

A :class:`Graph` holds :class:`Op` nodes in the words of ONNX (``Conv``, ``Relu``, ``Add``) and the :class:`Tensor`
values between them. The frontend reads one from a file and rewrites it to canonical form; later stages only read it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import networkx as nx
import numpy as np

from blockfuse.errors import InternalError


@dataclass(frozen=True)
class Tensor:
    """A value of the graph.

    Attributes:
        name: Unique within the graph.
        shape: Dimensions as ONNX gives them (4-D images are N, C, H, W), all known.
        dtype: A numpy type name, such as ``"float32"``.
        value: The constant's data, of that shape and dtype, or None for a computed value.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    value: np.ndarray[Any, Any] | None = field(default=None, compare=False, repr=False)

    @property
    def is_constant(self) -> bool:
        """Whether the data is known before the model runs."""
        return self.value is not None


@dataclass(frozen=True)
class Op:
    """An operator of the graph.

    Attributes:
        kind: The ONNX operator type.
        name: Unique within the graph.
        inputs: Names of tensors; an empty string stands for an omitted optional input.
        outputs: Names of tensors; an empty string stands for an omitted optional output.
        attrs: Attributes by their ONNX names; lists are tuples.
        origin: Names of the nodes of the model this op was made from.
    """

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attrs: Mapping[str, Any] = field(default_factory=dict)
    origin: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "attrs", MappingProxyType(dict(self.attrs)))

    @property
    def output(self) -> str:
        """The first output."""
        return self.outputs[0]

    def __str__(self) -> str:
        return f"{self.kind} {self.name!r}"


class Graph:
    """Operators and tensors of a model, in which rewrites replace ops and everything else only reads.

    Args:
        name: The model's name.
        inputs: Names of the tensors given at run time, in order.
        outputs: Names of the tensors returned, in order.
        tensors: All tensors.
        ops: All operators, in any order.
        batch: Where the model takes any number of images, the number that shapes are written for: the first dimension
            of every computed tensor, and of no constant, is the batch then. None where all dimensions are fixed.
    """

    def __init__(
        self,
        name: str,
        inputs: Iterable[str],
        outputs: Iterable[str],
        tensors: Iterable[Tensor],
        ops: Iterable[Op],
        batch: int | None = None,
    ) -> None:
        self.name = name
        self.batch = batch
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)
        self._tensors = {tensor.name: tensor for tensor in tensors}
        self._producer: dict[str, Op] = {}
        self._consumers: dict[str, dict[str, Op]] = {}
        self._ops: dict[str, Op] = {}
        for op in ops:
            self.add_op(op)

    # ---- reading -----------------------------------------------------------------------------------------------------
    def tensor(self, name: str) -> Tensor:
        """The tensor of that name."""
        return self._tensors[name]

    def has_tensor(self, name: str) -> bool:
        """Whether the graph has a tensor of that name."""
        return name in self._tensors

    def op(self, name: str) -> Op:
        """The operator of that name."""
        return self._ops[name]

    @property
    def tensors(self) -> Iterator[Tensor]:
        """All tensors."""
        return iter(self._tensors.values())

    def has_op(self, name: str) -> bool:
        """Whether the graph has an operator of that name."""
        return name in self._ops

    @property
    def op_count(self) -> int:
        """Number of operators."""
        return len(self._ops)

    def producer(self, tensor: str) -> Op | None:
        """The op that computes a tensor; None for inputs and constants."""
        return self._producer.get(tensor)

    def consumers(self, tensor: str) -> tuple[Op, ...]:
        """The ops that read a tensor, each once."""
        return tuple(self._consumers.get(tensor, {}).values())

    def is_output(self, tensor: str) -> bool:
        """Whether the caller receives this tensor."""
        return tensor in self.outputs

    def constant(self, tensor: str) -> np.ndarray[Any, Any] | None:
        """The data of a constant tensor; None for computed values and omitted inputs."""
        return self._tensors[tensor].value if tensor else None

    def network(self) -> nx.DiGraph[str]:
        """The graph with op names as nodes and an edge for every value passed between two ops."""
        network: nx.DiGraph[str] = nx.DiGraph()
        network.add_nodes_from(self._ops)
        for tensor, producer in self._producer.items():
            network.add_edges_from((producer.name, consumer.name) for consumer in self.consumers(tensor))
        return network

    def ops(self) -> tuple[Op, ...]:
        """All operators, producers before consumers, ties in the order they were added."""
        order = {name: index for index, name in enumerate(self._ops)}
        try:
            names = list(nx.lexicographical_topological_sort(self.network(), key=order.__getitem__))
        except nx.NetworkXUnfeasible:
            raise InternalError(f"graph {self.name!r} has a cycle") from None
        return tuple(self._ops[name] for name in names)

    # ---- rewriting ---------------------------------------------------------------------------------------------------
    def copy(self) -> Graph:
        """An independent graph with the same ops and tensors."""
        return Graph(self.name, self.inputs, self.outputs, self._tensors.values(), self._ops.values(), self.batch)

    def with_batch(self, batch: int) -> Graph:
        """The same network with its shapes written for another number of images; it must take any."""
        if self.batch is None:
            raise InternalError(f"the batch of graph {self.name!r} is fixed")
        tensors = [
            tensor if tensor.is_constant else replace(tensor, shape=(batch, *tensor.shape[1:]))
            for tensor in self._tensors.values()
        ]
        return Graph(self.name, self.inputs, self.outputs, tensors, self._ops.values(), batch)

    def add_tensor(self, tensor: Tensor) -> None:
        """Add a tensor, or replace the one of that name."""
        self._tensors[tensor.name] = tensor

    def add_op(self, op: Op) -> None:
        """Add an operator whose tensors exist."""
        if op.name in self._ops:
            raise InternalError(f"two ops are called {op.name!r}")
        for name in (*op.inputs, *op.outputs):
            if name and name not in self._tensors:
                raise InternalError(f"{op} names tensor {name!r}, which does not exist")
        for name in op.outputs:
            if name in self._producer:
                raise InternalError(f"tensor {name!r} is produced by {self._producer[name]} and {op}")
            if name:
                self._producer[name] = op
        for name in op.inputs:
            if name:
                self._consumers.setdefault(name, {})[op.name] = op
        self._ops[op.name] = op

    def remove_op(self, op: Op) -> None:
        """Remove an operator; its tensors stay until :meth:`prune`."""
        del self._ops[op.name]
        for name in op.outputs:
            self._producer.pop(name, None)
        for name in op.inputs:
            self._consumers.get(name, {}).pop(op.name, None)

    def replace(self, old: Iterable[Op], new: Iterable[Op]) -> None:
        """Remove some operators and add others in their place."""
        for op in old:
            self.remove_op(op)
        for op in new:
            self.add_op(op)

    def redirect(self, old: str, new: str) -> None:
        """Make every reader of tensor ``old`` read ``new`` instead; ``old`` must not be a graph output."""
        for op in self.consumers(old):
            self.remove_op(op)
            inputs = tuple(new if name == old else name for name in op.inputs)
            self.add_op(Op(op.kind, op.name, inputs, op.outputs, op.attrs, op.origin))

    def prune(self) -> None:
        """Drop ops whose results nobody reads, and tensors that nothing names."""
        for op in reversed(self.ops()):
            if not any(name and (self.consumers(name) or self.is_output(name)) for name in op.outputs):
                self.remove_op(op)
        used = {name for op in self._ops.values() for name in (*op.inputs, *op.outputs)}
        used.update(self.inputs, self.outputs)
        self._tensors = {name: tensor for name, tensor in self._tensors.items() if name in used}

    # ---- checking and printing ---------------------------------------------------------------------------------------
    def check(self) -> None:
        """Raise :class:`InternalError` unless every value read has exactly one source and the graph has no cycle."""
        self.ops()
        for op in self._ops.values():
            for name in op.inputs:
                if name and not self._has_source(name):
                    raise InternalError(f"{op} reads {name!r}, which nothing produces")
        for name in self.outputs:
            if not self._has_source(name):
                raise InternalError(f"graph output {name!r} is not produced")
        for tensor in self._tensors.values():
            if self.batch is not None and not tensor.is_constant and tensor.shape[:1] != (self.batch,):
                raise InternalError(f"graph {self.name!r} takes any batch, and {tensor} has none")

    def _has_source(self, name: str) -> bool:
        return name in self._producer or name in self.inputs or self._tensors[name].is_constant

    def __str__(self) -> str:
        lines = [f"graph {self.name}: {', '.join(self.inputs)} -> {', '.join(self.outputs)}"]
        for op in self.ops():
            shapes = ", ".join(f"{name} {self._shape_text(name)}" for name in op.outputs if name)
            attrs = "".join(f" {key}={value}" for key, value in sorted(op.attrs.items()))
            lines.append(f"  {shapes} = {op.kind}({', '.join(op.inputs)}){attrs}")
        return "\n".join(lines)

    def _shape_text(self, name: str) -> str:
        return shape_text(self._tensors[name].shape, any_batch=self.batch is not None)


def shape_text(shape: Iterable[int], *, any_batch: bool) -> str:
    """A shape as people read it, such as ``[N, 3, 224, 224]``."""
    dims = [str(dim) for dim in shape]
    return f"[{', '.join(['N', *dims[1:]] if any_batch else dims)}]"
