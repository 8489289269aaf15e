"""An ONNX model to a Graph."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.defs import get_schema

from blockfuse.errors import ModelError, UnsupportedModelError, UsageError, one_line
from blockfuse.frontend.any_batch import check_any_batch, open_targets, settle_any_batch
from blockfuse.frontend.checks import check_ops
from blockfuse.frontend.load import load, node_label, opset
from blockfuse.frontend.opsets import modernize
from blockfuse.frontend.settle import MAX_RANK, Draft, Info, check_size, dtype_name, info_of, settle
from blockfuse.frontend.structure import check_names, check_operators, sort_nodes
from blockfuse.graph import Graph, Op, Tensor

Model: TypeAlias = str | os.PathLike[str] | onnx.ModelProto
"""What can be read: the path of an ``.onnx`` file, or a model in memory."""

_NAMES_OF_EXPORTERS = {"", "graph", "main", "main_graph", "torch_jit", "torch-jit-export"}

_SIZED = {"Expand", "Pad", "Reshape", "Resize", "Slice", "Split", "Tile", "Upsample"}
_SIZES = {"ends", "pads", "scales", "shape", "split", "starts"}
"""Operators that are told the size of their results, and the attributes that say it in old operator sets."""

Shapes: TypeAlias = Mapping[str, Sequence[int]]
"""Shapes of graph inputs by name."""


def read(model: Model, shape: Shapes | None = None) -> Graph:
    """Read an ONNX model.

    Functions are inlined, constants folded and all shapes inferred. Operators keep their ONNX kinds; defaults of
    their attributes are filled in as the model's opset has them. An initializer that is also an input is a constant.

    Where the model leaves the first dimension of all its inputs open and no other, and no shapes are given, the graph
    takes any batch: see ``Graph.batch``. Its shapes are written for a batch that no other dimension is a multiple of.

    Args:
        model: The path of an ``.onnx`` file, or a model in memory, which is not changed.
        shape: Shapes of inputs by name, in place of those the model gives.

    Returns:
        The graph, pruned of what its outputs do not need.

    Raises:
        ModelError: The file is no ONNX model, or the model is inconsistent.
        UnsupportedModelError: The model is valid and cannot be compiled.
        UsageError: ``shape`` does not fit the model's inputs.
    """
    if not isinstance(model, str | os.PathLike | onnx.ModelProto):
        raise UsageError(f"a model is the path of an ONNX file, or an onnx.ModelProto, not {type(model).__name__}")
    label = f"model {model.graph.name!r}" if isinstance(model, onnx.ModelProto) else os.fspath(model)
    try:
        return _read(model, shape or {})
    except (ModelError, UsageError) as error:
        # Names in a damaged file can hold anything, line breaks included.
        raise type(error)(one_line(f"{label}: {error}")) from None


def _read(source: Model, shape: Shapes) -> Graph:
    model = load(source)
    draft = _draft(model, shape)
    check_operators(draft.nodes, draft.opset)
    name = _name(model, source)
    if any(info.known_shape is None for info in draft.inputs.values()):
        graph = _read_any_batch(name, draft)
    else:
        graph = _read_fixed(name, draft)
    _check_declared(model, graph)
    return graph


def _read_fixed(name: str, draft: Draft) -> Graph:
    settle(draft)
    graph = _graph(name, draft)
    graph.prune()
    check_ops(graph)
    return modernize(graph, draft.opset)


def _read_any_batch(name: str, draft: Draft) -> Graph:
    drafts = settle_any_batch(draft)
    graph = _graph(name, drafts[0])
    graph.prune()
    check_ops(graph)
    graph = modernize(graph, draft.opset)
    check_any_batch(graph, drafts)
    open_targets(graph)
    graph.batch = drafts[0].images
    return graph


def _check_declared(model: onnx.ModelProto, graph: Graph) -> None:
    """Refuse outputs that the model says are of another type than they are."""
    for value in model.graph.output:
        info, found = info_of(value), graph.tensor(value.name).dtype
        declared = None if info is None else dtype_name(info.elem_type)
        if declared is not None and declared != found:
            raise ModelError(f"the output {value.name!r} is declared as {declared} and computed as {found}")


def _name(model: onnx.ModelProto, source: Model) -> str:
    """The graph's name; the file's where exporters gave it none of its own."""
    if model.graph.name not in _NAMES_OF_EXPORTERS or isinstance(source, onnx.ModelProto):
        return model.graph.name
    return Path(source).stem


def _draft(model: onnx.ModelProto, shape: Shapes) -> Draft:
    graph = model.graph
    if graph.sparse_initializer:
        raise UnsupportedModelError("sparse initializers are not supported; save the weights as dense tensors")
    check_names((tensor.name for tensor in graph.initializer), "initializer")
    check_names((value.name for value in graph.input), "input")
    check_names((value.name for value in graph.output), "output")
    if not graph.output:
        raise ModelError("the graph has no outputs")
    values = {tensor.name: _array(tensor) for tensor in graph.initializer}
    inputs = _inputs([value for value in graph.input if value.name not in values], shape)
    nodes = sort_nodes(graph, (*values, *inputs))
    outputs = [value.name for value in graph.output]
    return Draft(opset(model), inputs, outputs, nodes, values, infos={}, batch=_batch(graph, inputs))


def _batch(graph: onnx.GraphProto, inputs: dict[str, Info]) -> tuple[int, int] | None:
    """Declared and given first dimension, where all inputs whose shape was given agree on both."""
    pairs = set()
    for value in graph.input:
        declared = info_of(value)
        given = inputs.get(value.name)
        if declared and given and declared.shape and given.shape and declared.shape[0] and given.shape[0]:
            pairs.add((declared.shape[0], given.shape[0]))
    declared_and_given = pairs.pop() if len(pairs) == 1 else (0, 0)
    return declared_and_given if declared_and_given[0] != declared_and_given[1] else None


def _array(tensor: onnx.TensorProto) -> np.ndarray[Any, Any]:
    if len(tensor.dims) > MAX_RANK:
        raise UnsupportedModelError(f"initializer {tensor.name!r} has {len(tensor.dims)} dimensions, above {MAX_RANK}")
    if any(dim < 0 for dim in tensor.dims):
        raise ModelError(f"initializer {tensor.name!r} has a dimension below 0: {tuple(tensor.dims)}")
    try:
        return numpy_helper.to_array(tensor)
    except (KeyError, TypeError, ValueError):
        raise ModelError(f"the data of initializer {tensor.name!r} does not fit its type and shape") from None


def _inputs(values: list[onnx.ValueInfoProto], shape: Shapes) -> dict[str, Info]:
    names = [value.name for value in values]
    for name in shape:
        if name not in names:
            raise UsageError(f"a shape is given for {name!r}, and the model's inputs are {', '.join(names)}")
    if not values:
        raise ModelError("the graph has no inputs")
    infos = {value.name: _input_info(value, shape.get(value.name)) for value in values}
    fixed = [name for name, info in infos.items() if info.known_shape is not None]
    for value in values:
        if fixed and value.name not in fixed:
            raise UnsupportedModelError(
                f"{_symbolic_message(value, infos[value.name])}: the batch of input {fixed[0]!r} is fixed"
            )
    return infos


def _input_info(value: onnx.ValueInfoProto, given: Sequence[int] | None) -> Info:
    """Type and shape of an input, known but for an open batch."""
    info = info_of(value)
    if info is None or dtype_name(info.elem_type) is None:
        raise UnsupportedModelError(f"input {value.name!r} is not a tensor of numbers")
    settled = _settled(value, info, given)
    check_size(f"input {value.name!r}", settled)
    return settled


def _settled(value: onnx.ValueInfoProto, info: Info, given: Sequence[int] | None) -> Info:
    if given is not None:
        if info.shape is not None and len(given) != len(info.shape):
            raise UsageError(f"the shape given for {value.name!r} has {len(given)} dimensions, not {len(info.shape)}")
        if not all(dim >= 1 for dim in given):
            raise UsageError(f"the shape given for {value.name!r} has a dimension below 1: {tuple(given)}")
        return Info(info.elem_type, tuple(given))
    shape = (1, *info.shape[1:]) if info.shape and info.shape[0] is None else info.shape or ()
    known = Info(info.elem_type, shape).known_shape
    if info.shape is None or known is None:
        raise UnsupportedModelError(_symbolic_message(value, info))
    if not all(dim >= 1 for dim in known):
        raise ModelError(f"input {value.name!r} has a dimension below 1: {known}")
    return info


def _symbolic_message(value: onnx.ValueInfoProto, info: Info) -> str:
    usual = (1, 3, 224, 224)
    if info.shape is None:
        return f"input {value.name!r} has no shape; give it, as in --shape {value.name}=1x3x224x224"
    guess = [usual[min(axis, 3)] if dim is None else dim for axis, dim in enumerate(info.shape)]
    symbols = [dim.dim_param or "?" for dim in value.type.tensor_type.shape.dim if not dim.HasField("dim_value")]
    return (
        f"input {value.name!r} has the symbolic dimension {', '.join(symbols)}; "
        f"give its shape, as in --shape {value.name}={'x'.join(map(str, guess))}"
    )


def _graph(name: str, draft: Draft) -> Graph:
    graph = Graph(name, draft.inputs, draft.outputs, (), ())
    for key, value in draft.values.items():
        graph.add_tensor(Tensor(key, value.shape, value.dtype.name, value))
    for key, info in draft.inputs.items():
        graph.add_tensor(_tensor(key, info, f"input {key!r}"))
    taken: set[str] = set()
    read = {key for node in draft.nodes for key in node.input} | set(draft.outputs)
    for node in draft.nodes:
        outputs = [key if key in read or _is_shaped(draft, key) else "" for key in node.output]
        for key in filter(None, outputs):
            graph.add_tensor(_tensor(key, draft.infos.get(key), node_label(node), _numbers(node, draft)))
        op_name = _unique(node.name or f"{node.op_type}_{next(filter(None, node.output), '')}", taken)
        origin = (node.name or op_name,)
        graph.add_op(Op(node.op_type, op_name, tuple(node.input), tuple(outputs), _attributes(node, draft), origin))
    return graph


def _is_shaped(draft: Draft, name: str) -> bool:
    """Whether the shape of a result is known; it may be missing of results that nobody reads, such as masks."""
    info = draft.infos.get(name)
    return info is not None and info.known_shape is not None


def _numbers(node: onnx.NodeProto, draft: Draft) -> str:
    """What may make a result empty: the few numbers that a node says its size with, or else a small input."""
    given = {name: draft.values[name] for name in node.input if name in draft.values and draft.values[name].size <= 16}
    sizes = {one.name: np.array(helper.get_attribute_value(one)) for one in node.attribute if one.name in _SIZES}
    found = {name: value.reshape(-1).tolist() for name, value in (given | sizes).items() if value.size}
    if node.op_type not in _SIZED or not found:
        return "the input is too small for this model"
    return "check " + ", ".join(f"{name!r}: {values}" for name, values in found.items())


def _tensor(name: str, info: Info | None, source: str, cause: str = "its dimensions must be above 0") -> Tensor:
    shape = info.known_shape if info is not None else None
    dtype = dtype_name(info.elem_type) if info is not None else None
    if shape is None:
        raise UnsupportedModelError(f"the shape of {name!r}, result of {source}, depends on the data or is not known")
    if dtype is None:
        raise UnsupportedModelError(f"{name!r}, result of {source}, is not a tensor of numbers")
    if not all(dim >= 1 for dim in shape):
        text = "x".join(map(str, shape))
        raise ModelError(f"{source} gives {name!r} the empty shape {text}; {cause}")
    return Tensor(name, shape, dtype)


def _unique(name: str, taken: set[str]) -> str:
    candidate, count = name, 1
    while candidate in taken:
        count += 1
        candidate = f"{name}_{count}"
    taken.add(candidate)
    return candidate


def _attributes(node: onnx.NodeProto, draft: Draft) -> dict[str, Any]:
    """The node's attributes, and the defaults of those it leaves out."""
    schema = get_schema(node.op_type, draft.opset, "")
    defaults = [known.default_value for known in schema.attributes.values() if known.default_value.name]
    return {attribute.name: _attribute(attribute, node) for attribute in (*defaults, *node.attribute)}


def _attribute(attribute: onnx.AttributeProto, node: onnx.NodeProto) -> Any:
    try:
        value = helper.get_attribute_value(attribute)
        if isinstance(value, bytes):
            return value.decode()
        if isinstance(value, onnx.TensorProto):
            return numpy_helper.to_array(value)
        if attribute.type == onnx.AttributeProto.STRINGS:
            return tuple(item.decode() for item in value)
    except (KeyError, TypeError, ValueError):
        raise ModelError(f"{node_label(node)} has a damaged attribute {attribute.name!r}") from None
    return tuple(value) if isinstance(value, list) or hasattr(value, "extend") else value
