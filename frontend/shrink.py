"""Smaller models made of a model: fewer nodes, one image, small weights. The start of a report of a bug.

All functions return copies. What they return need not be valid: whoever asks tries it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # its stubs are another package
from onnx import TensorProto, numpy_helper

from blockfuse.errors import ModelError, UsageError, first_line
from blockfuse.frontend.load import STANDARD_DOMAINS, check_file

_FEW = 64
"""Constants of so few elements may be shapes, axes or bounds, and stay."""

Types = Mapping[str, onnx.TypeProto]
"""Element types and shapes by the names of tensors."""


def load_whole(path: str | os.PathLike[str]) -> onnx.ModelProto:
    """A model file as it is, with its external data; nothing else is checked.

    Raises:
        ModelError: It is no model file.
    """
    try:
        check_file(Path(path))
        return onnx.load(path, format="protobuf")
    except ModelError as error:
        raise ModelError(f"{os.fspath(path)}: {error}") from None
    except DecodeError:
        raise ModelError(f"{os.fspath(path)}: this is not an ONNX model, so there is nothing to make smaller") from None
    except (OSError, ValueError, RuntimeError, onnx.checker.ValidationError) as error:
        raise ModelError(f"{os.fspath(path)}: the file cannot be read: {first_line(error)}") from None


def with_shapes(model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]]) -> onnx.ModelProto:
    """The model with these shapes of inputs, and without texts and shapes that nothing needs.

    Raises:
        UsageError: The model has no such input.
    """
    result = _copy(model)
    names = [value.name for value in model.graph.input]
    for name in shapes:
        if name not in names:
            raise UsageError(f"a shape is given for {name!r}, and the model's inputs are {', '.join(names)}")
    del result.graph.value_info[:], result.metadata_props[:], result.training_info[:]
    result.doc_string = ""
    for node in result.graph.node:
        node.doc_string = ""
    for value in result.graph.input:
        if value.name in shapes:
            del value.type.tensor_type.shape.dim[:]
            value.type.tensor_type.shape.dim.extend(
                onnx.TensorShapeProto.Dimension(dim_value=dim) for dim in shapes[value.name]
            )
    return result


def inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its functions inlined; as it is where that fails."""
    if not model.functions:
        return model
    from onnx.inliner import inline_local_functions  # noqa: PLC0415 - takes time to load

    try:
        return inline_local_functions(model)
    except (RuntimeError, ValueError, onnx.checker.ValidationError, onnx.shape_inference.InferenceError):
        return model


def types_of(model: onnx.ModelProto) -> Types:
    """Types of all tensors of which they can be told."""
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except (RuntimeError, TypeError, ValueError, onnx.shape_inference.InferenceError):
        inferred = model
    graph = inferred.graph
    return {value.name: value.type for value in (*graph.value_info, *graph.output, *graph.input)}


def node_count(model: onnx.ModelProto) -> int:
    """Number of nodes."""
    return len(model.graph.node)


def with_output(model: onnx.ModelProto, index: int) -> onnx.ModelProto:
    """The model with one of its outputs, and what that needs."""
    result = _copy(model)
    kept = _copy_of(model.graph.output[index])
    del result.graph.output[:]
    result.graph.output.append(kept)
    return _pruned(result)


def output_count(model: onnx.ModelProto) -> int:
    """Number of outputs."""
    return len(model.graph.output)


def without_nodes(model: onnx.ModelProto, start: int, count: int, types: Types) -> Iterator[onnx.ModelProto]:
    """The model without a range of its nodes: passed by where shapes allow, and with new inputs in their place.

    What only the missing nodes read is returned. Nothing is yielded if no node would be left.

    Args:
        model: The model.
        start: The first node that goes.
        count: Nodes that go.
        types: Of its tensors.
    """
    nodes = model.graph.node
    removed, kept = nodes[start : start + count], [*nodes[:start], *nodes[start + count :]]
    if not (removed and kept):
        return
    passed = _cut(model, removed, kept, types, _detours(removed, types))
    apart = _cut(model, removed, kept, types, {})
    yield passed
    if passed.SerializeToString(deterministic=True) != apart.SerializeToString(deterministic=True):
        yield apart


def with_one_image(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with a first dimension of 1 wherever an input has a larger one."""
    return _with_dims(model, lambda axis, dim: 1 if axis == 0 else dim)


def with_smaller_images(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with inputs of about half as many rows and columns."""
    return _with_dims(model, lambda axis, dim: (dim + 1) // 2 if axis > 1 else dim)


def with_seeded_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with seeded normal numbers, divided by the root of a filter's size, in place of its weights.

    Variances of batch normalizations and the like must be positive; vectors are near 1 therefore.
    """
    result, rng = _copy(model), np.random.default_rng(0)
    for tensor in result.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and _elements(tensor) > _FEW:
            value = rng.standard_normal(tuple(tensor.dims))
            fan_in = max(1, _elements(tensor) // tensor.dims[0])
            value = 1 + 0.1 * value if len(tensor.dims) == 1 else value * fan_in**-0.5
            tensor.CopyFrom(numpy_helper.from_array(value.astype(np.float32), tensor.name))
    return result


def _with_dims(model: onnx.ModelProto, new: Callable[[int, int], int]) -> onnx.ModelProto:
    result = _copy(model)
    for value in result.graph.input:
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if dim.dim_value > 0:
                dim.dim_value = new(axis, dim.dim_value)
    for value in result.graph.output:
        value.type.tensor_type.ClearField("shape")
    return result


def _cut(
    model: onnx.ModelProto,
    removed: Sequence[onnx.NodeProto],
    kept: Sequence[onnx.NodeProto],
    types: Types,
    detours: Mapping[str, str],
) -> onnx.ModelProto:
    """The model with these nodes alone; ``detours`` says what is read in place of a result that is gone."""
    result = _copy(model)
    graph = result.graph
    del graph.node[:], graph.output[:]
    for node in kept:
        copy = graph.node.add()
        copy.CopyFrom(node)
        copy.input[:] = [_followed(name, detours) for name in node.input]
    gone = {name for node in removed for name in node.output if name}
    read = {name for node in graph.node for name in node.input}
    made = [name for node in graph.node for name in node.output if name]
    graph.input.extend(_value(name, types) for name in sorted(read & gone))
    lost = {name for node in removed for name in node.input}
    wanted = {value.name for value in model.graph.output} | lost
    outputs = [name for name in made if name in wanted and (name not in read or name not in lost)]
    graph.output.extend(_value(name, types) for name in outputs or made[-1:])
    return _pruned(result)


def _detours(removed: Sequence[onnx.NodeProto], types: Types) -> dict[str, str]:
    """For results that go, the first input of the node, if that has the same type."""
    detours = {}
    for node in removed:
        if node.domain in STANDARD_DOMAINS and node.input and node.output:
            source, result = node.input[0], node.output[0]
            if source in types and result in types and types[source] == types[result]:
                detours[result] = source
    return detours


def _followed(name: str, detours: Mapping[str, str]) -> str:
    seen = set()
    while name in detours and name not in seen:
        seen.add(name)
        name = detours[name]
    return name


def _pruned(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without nodes, weights and inputs that no output needs; changes it."""
    graph = model.graph
    needed = {value.name for value in graph.output}
    nodes = list(graph.node)
    grows = True
    while grows:  # nodes may come in any order
        before = len(needed)
        for node in reversed(nodes):
            if needed & set(node.output):
                needed.update(node.input)
        grows = len(needed) > before
    _keep(graph.node, [bool(needed & set(node.output)) for node in nodes])
    for items in (graph.initializer, graph.input):
        _keep(items, [item.name in needed for item in items])
    return model


def _keep(items: Any, flags: Sequence[bool]) -> None:
    for index in range(len(flags) - 1, -1, -1):
        if not flags[index]:
            del items[index]


def _value(name: str, types: Types) -> onnx.ValueInfoProto:
    return onnx.ValueInfoProto(name=name, type=types.get(name))


def _elements(tensor: TensorProto) -> int:
    return int(np.prod(tensor.dims, dtype=np.int64)) if min(tensor.dims, default=1) > 0 else 0


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    result = onnx.ModelProto()
    result.CopyFrom(model)
    return result


def _copy_of(value: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
    result = onnx.ValueInfoProto()
    result.CopyFrom(value)
    return result
