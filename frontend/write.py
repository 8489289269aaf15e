"""A canonical Graph back to ONNX, for comparison with other runtimes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.defs import SchemaError, get_schema

from blockfuse.errors import ModelError, UnsupportedModelError
from blockfuse.graph import Graph, Op, Tensor

OPSET = 21
"""Version of the standard operator set that is written."""

BATCH = "N"
"""What an open batch is called."""

_IR_VERSION = 10


def to_onnx(graph: Graph) -> onnx.ModelProto:
    """Write a canonical graph as a model of opset 21.

    Tensors keep their names. ``Swish``, which opset 21 lacks, becomes ``Sigmoid`` and ``Mul``, a normalization over
    channels one over the last axis between two Transposes, and ``MeanNormalization`` arithmetic.

    Raises:
        UnsupportedModelError: An op or an attribute is not part of opset 21.
    """
    taken = {tensor.name for tensor in graph.tensors} | {op.name for op in graph.ops()}
    initializers: list[onnx.TensorProto] = []
    nodes: list[onnx.NodeProto] = []
    for op in graph.ops():
        nodes += _nodes(graph, op, initializers, taken)
    initializers += [_initializer(tensor) for tensor in graph.tensors if tensor.is_constant]
    computed = [name for op in graph.ops() for name in op.outputs if name and not graph.is_output(name)]
    proto = helper.make_graph(
        nodes,
        graph.name or "graph",
        [_value_info(graph, name) for name in graph.inputs],
        [_value_info(graph, name) for name in graph.outputs],
        initializers,
        value_info=[_value_info(graph, name) for name in computed],
    )
    return helper.make_model(
        proto, producer_name="blockfuse", opset_imports=[helper.make_opsetid("", OPSET)], ir_version=_IR_VERSION
    )


def with_outputs(model: onnx.ModelProto, tensors: Iterable[str]) -> onnx.ModelProto:
    """A copy of a model that also returns some of its intermediate tensors, after its own outputs.

    Raises:
        ModelError: The model has no such tensor.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    known = {name for node in graph.node for name in node.output if name}
    known.update(value.name for value in graph.input)
    known.update(value.name for value in graph.initializer)
    typed = {value.name: value for value in (*graph.value_info, *graph.input)}
    present = {value.name for value in graph.output}
    for name in dict.fromkeys(tensors):
        if name not in known:
            raise ModelError(f"model {graph.name!r} has no tensor {name!r}")
        if name not in present:
            # Runtimes infer the type of an output that only has a name.
            graph.output.append(typed.get(name, onnx.ValueInfoProto(name=name)))
    return result


def _nodes(graph: Graph, op: Op, initializers: list[onnx.TensorProto], taken: set[str]) -> list[onnx.NodeProto]:
    """The ONNX nodes of one op; constants they need in addition go to ``initializers``."""
    if op.kind == "Swish":
        gate = _fresh(f"{op.output}.gate", taken)
        return [
            helper.make_node("Sigmoid", op.inputs, [gate], _fresh(f"{op.name}.gate", taken)),
            helper.make_node("Mul", (*op.inputs, gate), op.outputs, op.name),
        ]
    if op.kind == "Clip" and op.attrs:
        names = [_bound(graph, op, key, initializers, taken) for key in ("min", "max")]
        return [helper.make_node("Clip", (*op.inputs, *names), op.outputs, op.name)]
    if op.kind == "Reshape" and graph.batch is not None:
        target = _fresh(f"{op.name}.target", taken)
        value = np.array([0, *graph.tensor(op.output).shape[1:]], np.int64)  # 0: as it is
        initializers.append(numpy_helper.from_array(value, target))
        return [helper.make_node("Reshape", (op.inputs[0], target), op.outputs, op.name)]
    if op.kind == "LayerNormalization" and "axes" in op.attrs:
        return _channel_norm(graph, op, taken)
    if op.kind == "MeanNormalization":
        return _mean_norm(graph, op, initializers, taken)
    _check_written(op)
    return [helper.make_node(op.kind, op.inputs, op.outputs, op.name, **_attributes(op))]


def _channel_norm(graph: Graph, op: Op, taken: set[str]) -> list[onnx.NodeProto]:
    rank = len(graph.tensor(op.inputs[0]).shape)
    last, first = (0, *range(2, rank), 1), (0, rank - 1, *range(1, rank - 1))
    before, after = (_fresh(f"{op.output}.{part}", taken) for part in ("last", "norm"))
    attrs = {"axis": -1, "epsilon": op.attrs["epsilon"]}
    names = [_fresh(f"{op.name}.{part}", taken) for part in ("last", "first")]
    return [
        helper.make_node("Transpose", op.inputs[:1], [before], names[0], perm=last),
        helper.make_node("LayerNormalization", [before, *op.inputs[1:]], [after], op.name, **attrs),
        helper.make_node("Transpose", [after], op.outputs, names[1], perm=first),
    ]


def _mean_norm(graph: Graph, op: Op, initializers: list[onnx.TensorProto], taken: set[str]) -> list[onnx.NodeProto]:
    image = graph.tensor(op.inputs[0])
    vectors = dict(zip(("scale", "shift"), (graph.constant(name) for name in op.inputs[1:]), strict=True))
    values = {"axes": np.array([1], np.int64), "epsilon": np.array(op.attrs["epsilon"], image.dtype)}
    values |= {key: np.asarray(value).reshape(-1, *[1] * (len(image.shape) - 2)) for key, value in vectors.items()}
    names = {key: _fresh(f"{op.name}.{key}", taken) for key in values}
    initializers += [numpy_helper.from_array(np.asarray(value), names[key]) for key, value in values.items()]
    mean, total, ratio, scaled = (_fresh(f"{op.output}.{part}", taken) for part in ("mean", "sum", "ratio", "scaled"))
    written = (
        ("ReduceMean", (op.inputs[0], names["axes"]), mean),
        ("Add", (mean, names["epsilon"]), total),
        ("Div", (op.inputs[0], total), ratio),
        ("Mul", (ratio, names["scale"]), scaled),
        ("Add", (scaled, names["shift"]), op.output),
    )
    return [helper.make_node(kind, inputs, [output], _fresh(op.name, taken)) for kind, inputs, output in written]


def _bound(graph: Graph, op: Op, key: str, initializers: list[onnx.TensorProto], taken: set[str]) -> str:
    """The name of a new constant that holds a bound of a Clip; empty for an infinite one."""
    if math.isinf(op.attrs[key]):
        return ""
    name = _fresh(f"{op.name}.{key}", taken)
    value = np.array(op.attrs[key], graph.tensor(op.output).dtype)
    initializers.append(numpy_helper.from_array(value, name))
    return name


def _attributes(op: Op) -> dict[str, Any]:
    return {
        key: numpy_helper.from_array(value) if isinstance(value, np.ndarray) else value
        for key, value in op.attrs.items()
    }


def _check_written(op: Op) -> None:
    try:
        known = get_schema(op.kind, OPSET, "").attributes
    except SchemaError:
        raise UnsupportedModelError(f"{op} is no operator of ONNX opset {OPSET}") from None
    strangers = [key for key in op.attrs if key not in known]
    if strangers:
        raise UnsupportedModelError(f"{op} has the attribute {strangers[0]!r}, which opset {OPSET} does not know")


def _initializer(tensor: Tensor) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(tensor.value, order="C"), tensor.name)


def _value_info(graph: Graph, name: str) -> onnx.ValueInfoProto:
    tensor = graph.tensor(name)
    is_open = graph.batch is not None and not tensor.is_constant
    shape: list[str | int | None] = [BATCH, *tensor.shape[1:]] if is_open else list(tensor.shape)
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype)), shape)


def _fresh(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    taken.add(name)
    return name
