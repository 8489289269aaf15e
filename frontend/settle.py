"""Shapes and constants of a model, each of which helps to find the other."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from blockfuse.errors import ModelError, UnsupportedModelError, first_line
from blockfuse.frontend.fold import MAX_FOLDED_ELEMENTS, evaluate
from blockfuse.frontend.load import node_label
from blockfuse.frontend.rebatch import follow_batch
from blockfuse.frontend.rounding import drop_windows, has_rounded_pools

MAX_RANK = 8
"""Most dimensions a tensor may have."""

MAX_ELEMENTS = 2**31 - 1
"""Most elements a computed tensor may have; kernels index with 32 bits."""

_GROWTH = 8
"""Times as many elements as a file gives may be computed from them while reading, and some more."""

_SMALL = 1024
"""Up to so many elements a constant is shown to shape inference; it may be a shape, an axis or a pad."""

_MAX_ROUNDS = 200
"""Shapes computed from shapes computed from shapes, so many levels deep, are found."""

_IR_VERSION = 10

_LIKE_THEIR_INPUT = {"GroupNormalization", "MeanVarianceNormalization"}
"""Operators whose results have the type and shape of their first input, which onnx does not infer."""


@dataclass(frozen=True)
class Info:
    """What shape inference says of a tensor.

    Attributes:
        elem_type: The element type as ONNX numbers it.
        shape: Dimensions, None for one that is not known; None when not even the rank is known.
    """

    elem_type: int
    shape: tuple[int | None, ...] | None

    @property
    def known_shape(self) -> tuple[int, ...] | None:
        """The shape, if every dimension is known."""
        if self.shape is None:
            return None
        dims = tuple(dim for dim in self.shape if dim is not None)
        return dims if len(dims) == len(self.shape) else None


@dataclass
class Draft:
    """A model on its way to a Graph.

    Attributes:
        opset: Version of the standard operator set.
        inputs: Graph inputs with all dimensions settled.
        outputs: Names of the graph outputs.
        nodes: Nodes in execution order; those folded into constants are gone.
        values: Constants by name.
        infos: Element type and shape of the tensors that nodes compute.
        batch: Declared and given first dimension of the inputs, if a shape was given that differs from the declared.
        folded: Nodes that were folded into constants, producers before consumers.
        images: What the limit on elements is a multiple of: where the batch is open, the one that is tried.
    """

    opset: int
    inputs: dict[str, Info]
    outputs: list[str]
    nodes: list[onnx.NodeProto]
    values: dict[str, np.ndarray[Any, Any]]
    infos: dict[str, Info]
    batch: tuple[int, int] | None = None
    folded: list[onnx.NodeProto] = field(default_factory=list)
    images: int = 1


def settle(draft: Draft) -> None:
    """Infer shapes and fold constants until neither finds more; changes the draft.

    Raises:
        ModelError: The shapes contradict each other, or a constant cannot be computed.
    """
    given = sum(value.size for value in draft.values.values())
    for _ in range(_MAX_ROUNDS):
        if has_rounded_pools(draft):
            _infer(draft, strict=False)
            if drop_windows(draft):
                continue
        strict = draft.batch is None  # until the batch is the given one everywhere, shapes may contradict each other
        _infer(draft, strict=strict)
        if follow_batch(draft):
            continue
        draft.batch = None
        if not _fold(draft, MAX_FOLDED_ELEMENTS + _GROWTH * given) and strict:
            return


def info_of(value: onnx.ValueInfoProto) -> Info | None:
    """Element type and shape of a declared value; None when it is no tensor or not typed."""
    if not value.type.HasField("tensor_type") or not value.type.tensor_type.elem_type:
        return None
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return Info(tensor.elem_type, None)
    dims = (dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim)
    return Info(tensor.elem_type, tuple(dims))


def dtype_name(elem_type: int) -> str | None:
    """The numpy name of an ONNX element type; None for text and for types numpy lacks."""
    try:
        name = helper.tensor_dtype_to_np_dtype(elem_type).name
    except KeyError:
        return None
    return None if name.startswith(("object", "str")) else name


def check_size(what: str, info: Info, images: int = 1) -> None:
    """Refuse a tensor of too many dimensions or elements for so many images; ``what`` names it in the message."""
    if info.shape is None:
        return
    text = "x".join("?" if dim is None else str(dim) for dim in info.shape)
    if len(info.shape) > MAX_RANK:
        raise UnsupportedModelError(f"{what} has the shape {text}, and at most {MAX_RANK} dimensions are supported")
    if math.prod(dim for dim in info.shape if dim is not None) > MAX_ELEMENTS * images:
        raise UnsupportedModelError(f"{what} has the shape {text}, and at most {MAX_ELEMENTS} elements are supported")


def _infer(draft: Draft, *, strict: bool) -> None:
    """Run shape inference on a model without the weights, which it does not need.

    Its own propagation of data stays off: a constant of a few bytes can make that ask for all memory.
    """
    try:
        inferred = onnx.shape_inference.infer_shapes(_skeleton(draft), check_type=strict, strict_mode=strict)
    except (onnx.shape_inference.InferenceError, MemoryError, RuntimeError, TypeError, ValueError) as error:
        raise ModelError(_inference_message(error)) from None
    infos = ((value.name, info_of(value)) for value in (*inferred.graph.value_info, *inferred.graph.output))
    draft.infos = {name: info for name, info in infos if info is not None}
    producers = {name: node for node in draft.nodes for name in node.output}
    for name, info in draft.infos.items():
        if name in producers:
            check_size(f"{name!r}, result of {node_label(producers[name])},", info, draft.images)


def _skeleton(draft: Draft) -> onnx.ModelProto:
    inputs = [_value_info(name, info) for name, info in draft.inputs.items()]
    initializers = []
    for name, value in draft.values.items():
        if value.size <= _SMALL:
            initializers.append(numpy_helper.from_array(value, name))
        else:
            inputs.append(_value_info(name, Info(helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)))
    outputs = [onnx.ValueInfoProto(name=name) for name in draft.outputs if name not in draft.values]
    graph = helper.make_graph(draft.nodes, "skeleton", inputs, outputs, initializers)
    for node in graph.node:
        node.name = node.name or next((output for output in node.output if output), "")
        if node.op_type in _LIKE_THEIR_INPUT:
            node.CopyFrom(helper.make_node("Identity", node.input[:1], node.output[:1], node.name))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", draft.opset)], ir_version=_IR_VERSION)


def _value_info(name: str, info: Info) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, info.elem_type, info.shape)


def _inference_message(error: Exception) -> str:
    """The innermost complaint of shape inference, which nests its prefixes."""
    line = first_line(error)
    place, _, complaint = line.rpartition("): ")
    complaint = complaint.rpartition("InferenceError] ")[2]
    kind, _, name = place.rpartition("(op_type:")[2].partition(", node name: ")
    return f"the shapes do not fit at {kind} {name!r}: {complaint}" if kind else f"the shapes do not fit: {complaint}"


def _fold(draft: Draft, most: int) -> bool:
    """Evaluate the nodes whose results are known; returns whether there was any.

    Raises:
        UnsupportedModelError: All constants together have more than ``most`` elements.
    """
    total = sum(value.size for value in draft.values.values())
    shapes = {name: info.known_shape for name, info in (*draft.inputs.items(), *draft.infos.items())}
    kept: list[onnx.NodeProto] = []
    for node in draft.nodes:
        results = evaluate(node, draft.values, shapes, draft.opset)
        draft.values.update(results)
        total += sum(value.size for value in results.values())
        if total > most:
            raise UnsupportedModelError(
                f"with {node_label(node)} constants have {total} elements; {most} are supported"
            )
        (draft.folded if results else kept).append(node)
    progress = len(kept) < len(draft.nodes)
    draft.nodes = kept
    return progress
