"""Shapes and constants of a model, each of which helps to find the other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from blockfuse.errors import ModelError, UnsupportedModelError
from blockfuse.frontend.load import first_line, node_label

MAX_RANK = 8
"""Most dimensions a tensor may have."""

MAX_ELEMENTS = 2**31 - 1
"""Most elements a computed tensor may have; kernels index with 32 bits."""

MAX_FOLDED_ELEMENTS = 2**26
"""Most elements a constant computed while reading may have."""

_SMALL = 1024
"""Up to so many elements a constant is shown to shape inference; it may be a shape, an axis or a pad."""

_IR_VERSION = 10

FOLDABLE = frozenset(
    """
    Abs Add And Cast CastLike Ceil Clip Concat Constant ConstantOfShape CumSum Div Equal Erf Exp Expand Flatten Floor
    Gather GatherElements GatherND Greater GreaterOrEqual Identity Less LessOrEqual Log MatMul Max Min Mod Mul Neg Not
    Or Pad Pow Range Reciprocal ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum Relu Reshape Round ScatterElements
    ScatterND Shape Sigmoid Sign Size Slice Split Sqrt Squeeze Sub Sum Tanh Tile Transpose Trilu Unsqueeze Where
    """.split()
)
"""Operators evaluated while reading when all inputs are constant: deterministic, and results no surprise in size."""


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
    """

    opset: int
    inputs: dict[str, Info]
    outputs: list[str]
    nodes: list[onnx.NodeProto]
    values: dict[str, np.ndarray[Any, Any]]
    infos: dict[str, Info]


def settle(draft: Draft) -> None:
    """Infer shapes and fold constants until neither finds more; changes the draft.

    Raises:
        ModelError: The shapes contradict each other, or a constant cannot be computed.
    """
    while True:
        _infer(draft)
        if not _fold(draft):
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


def _infer(draft: Draft) -> None:
    """Run shape inference on a model without the weights, which it does not need."""
    try:
        inferred = onnx.shape_inference.infer_shapes(_skeleton(draft), check_type=True, strict_mode=True, data_prop=True)
    except onnx.shape_inference.InferenceError as error:
        raise ModelError(_inference_message(error)) from None
    infos = ((value.name, info_of(value)) for value in (*inferred.graph.value_info, *inferred.graph.output))
    draft.infos = {name: info for name, info in infos if info is not None}
    producers = {name: node for node in draft.nodes for name in node.output}
    for name, info in draft.infos.items():
        if name in producers:
            _check_size(name, info, producers[name])


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
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", draft.opset)], ir_version=_IR_VERSION)


def _value_info(name: str, info: Info) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, info.elem_type, info.shape)


def _inference_message(error: Exception) -> str:
    """The innermost complaint of shape inference, which nests its prefixes."""
    line = first_line(error)
    place = line[line.find("(op_type:") :].partition(")")[0].removeprefix("(op_type:").replace(", node name: ", " '")
    complaint = line.rpartition("InferenceError] ")[2].rpartition("): ")[2]
    return f"the shapes do not fit at {place}': {complaint}" if "op_type" in line else f"the shapes do not fit: {complaint}"


def _check_size(name: str, info: Info, node: onnx.NodeProto) -> None:
    if info.shape is None:
        return
    dims = [dim for dim in info.shape if dim is not None]
    text = "x".join("?" if dim is None else str(dim) for dim in info.shape)
    where = f"{node_label(node)} gives {name!r} the shape {text}"
    if any(dim < 1 for dim in dims) and node.op_type not in FOLDABLE:
        raise ModelError(f"{where}; its window does not fit into its input, so the input is too small")
    if len(info.shape) > MAX_RANK:
        raise UnsupportedModelError(f"{where}, and at most {MAX_RANK} dimensions are supported")
    if math.prod(dims) > MAX_ELEMENTS:
        raise UnsupportedModelError(f"{where}, and at most {MAX_ELEMENTS} elements are supported")


def _fold(draft: Draft) -> bool:
    """Evaluate the nodes whose result is known; returns whether any was."""
    kept = []
    for node in draft.nodes:
        results = _evaluate(node, draft)
        if results is None:
            kept.append(node)
        else:
            draft.values.update(zip(node.output, results, strict=False))
    progress = len(kept) < len(draft.nodes)
    draft.nodes = kept
    return progress


def _evaluate(node: onnx.NodeProto, draft: Draft) -> Sequence[np.ndarray[Any, Any]] | None:
    if node.op_type not in FOLDABLE:
        return None
    if node.op_type in {"Shape", "Size"} and node.input[0] not in draft.values:
        return _evaluate_shape(node, draft)
    if not all(name in draft.values for name in node.input if name):
        return None
    for name in filter(None, node.output):
        shape = draft.infos[name].known_shape if name in draft.infos else None
        if shape is None:
            return None
        if math.prod(shape) > MAX_FOLDED_ELEMENTS:
            raise UnsupportedModelError(f"the constant {name!r} computed by {node_label(node)} is too large: {shape}")
    return _run(node, {name: draft.values[name] for name in node.input if name}, draft.opset)


def _evaluate_shape(node: onnx.NodeProto, draft: Draft) -> Sequence[np.ndarray[Any, Any]] | None:
    """``Shape`` and ``Size`` of a computed tensor, whose shape is enough."""
    info = draft.inputs.get(node.input[0]) or draft.infos.get(node.input[0])
    shape = info.known_shape if info is not None else None
    if shape is None:
        return None
    if node.op_type == "Size":
        return [np.array(math.prod(shape), np.int64)]
    bounds = {attribute.name: attribute.i for attribute in node.attribute}
    return [np.array(shape[bounds.get("start") : bounds.get("end")], np.int64)]


def _run(node: onnx.NodeProto, values: Mapping[str, np.ndarray[Any, Any]], opset: int) -> list[np.ndarray[Any, Any]]:
    """Evaluate one node with ONNX's own definition of it in numpy."""
    # Imported here because it takes time to load and most models need it only for a few nodes.
    from onnx.reference import ReferenceEvaluator  # noqa: PLC0415

    inputs = [
        _value_info(name, Info(helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)) for name, value in values.items()
    ]
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
    graph = helper.make_graph([node], "constant", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=_IR_VERSION)
    try:
        with np.errstate(all="ignore"):
            results = iter(ReferenceEvaluator(model).run(None, dict(values)))
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise ModelError(f"the constant {node_label(node)} cannot be computed: {first_line(error)}") from None
    return [np.asarray(next(results)) if name else np.empty(0) for name in node.output]
