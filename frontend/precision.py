"""Models in half precision: what type a model computes in, and the same model in float32.

Everything after the frontend sees networks that compute in float32. A model of another type becomes one here: constants
are converted, and a ``Cast`` stands behind every input and before every output that is not float32, so that the model's
interface stays. Compilers that compute in half precision narrow all of it again, these Casts included.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from onnx import TensorProto

from blockfuse.dtypes import COMPUTED, HALF
from blockfuse.graph import Graph, Op, Tensor

_NUMBERS = {"float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}


def own_dtype(graph: Graph) -> str:
    """The type a model computes in: that of all results but those of casts; float32 where there are several."""
    ops = (op for op in graph.ops() if op.kind not in {"Cast", "CastLike"})
    found = {graph.tensor(name).dtype for op in ops for name in op.outputs if name} & {*HALF, COMPUTED}
    return found.pop() if len(found) == 1 else COMPUTED


def is_half(graph: Graph) -> bool:
    """Whether anything but inputs and outputs is of half precision."""
    return any(tensor.dtype in HALF and not _is_border(graph, tensor.name) for tensor in graph.tensors)


def widened(graph: Graph) -> Graph:
    """A copy with float32 in place of every type of half precision, its inputs and outputs aside."""
    ports = dict.fromkeys((*graph.inputs, *graph.outputs))
    outer = {name: replace(graph.tensor(name), value=None) for name in ports if graph.tensor(name).dtype in HALF}
    inner = {name: _unused(graph.has_tensor, f"{name}.{COMPUTED}") for name in outer}
    tensors = [_widened(tensor, inner.get(tensor.name, tensor.name)) for tensor in graph.tensors]
    ops = [_renamed(op, inner) for op in graph.ops()]
    result = Graph(graph.name, graph.inputs, graph.outputs, [*tensors, *outer.values()], ops, graph.batch)
    for name, tensor in outer.items():
        is_input = name in graph.inputs
        source, target = (name, inner[name]) if is_input else (inner[name], name)
        label = _unused(result.has_op, f"Cast_{target}")
        attrs = {"to": TensorProto.FLOAT if is_input else _NUMBERS[tensor.dtype], "saturate": 1}
        result.add_op(Op("Cast", label, (source,), (target,), attrs, (label,)))
    result.prune()
    return result


def _is_border(graph: Graph, name: str) -> bool:
    """Whether a tensor is an input or output that only Casts touch."""
    producer = graph.producer(name)
    around = (*graph.consumers(name), *((producer,) if producer else ()))
    return name in {*graph.inputs, *graph.outputs} and all(op.kind == "Cast" for op in around)


def _widened(tensor: Tensor, name: str) -> Tensor:
    if tensor.dtype not in HALF:
        return tensor
    value = None if tensor.value is None else tensor.value.astype(COMPUTED)
    return Tensor(name, tensor.shape, COMPUTED, value)


def _renamed(op: Op, names: dict[str, str]) -> Op:
    inputs = tuple(names.get(name, name) for name in op.inputs)
    outputs = tuple(names.get(name, name) for name in op.outputs)
    attrs = {**op.attrs, "to": TensorProto.FLOAT} if op.attrs.get("to") in _NUMBERS.values() else op.attrs
    return replace(op, inputs=inputs, outputs=outputs, attrs=attrs)


def _unused(is_taken: Callable[[str], bool], name: str) -> str:
    while is_taken(name):
        name += "_"
    return name
