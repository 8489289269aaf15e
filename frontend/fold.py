"""Nodes whose inputs are known are evaluated while reading, with ONNX's own definitions in numpy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import helper

from blockfuse.errors import ModelError, UnsupportedModelError, first_line
from blockfuse.frontend.load import node_label

MAX_FOLDED_ELEMENTS = 2**26
"""Most elements a constant computed while reading may have."""

_KINDS = """
    Abs Add And BatchNormalization Cast CastLike Ceil Clip Concat Constant ConstantOfShape CumSum DequantizeLinear Div
    Equal Erf Exp Expand Flatten Floor Gather GatherElements GatherND Greater GreaterOrEqual Identity
    InstanceNormalization LayerNormalization Less LessOrEqual Log LpNormalization MatMul Max Min Mod Mul Neg Not Or
    Pad Pow QuantizeLinear Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean
    ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Round ScatterElements ScatterND Shape Sigmoid Sign
    Size Slice Softmax Split Sqrt Squeeze Sub Sum Tanh Tile Transpose Trilu Unsqueeze Where
"""

FOLDABLE = frozenset(_KINDS.split())
"""Operators that are evaluated: deterministic ones whose result is not much larger than what describes it."""

Array = np.ndarray[Any, Any]
Shapes = Mapping[str, tuple[int, ...] | None]


def evaluate(node: onnx.NodeProto, values: Mapping[str, Array], shapes: Shapes, opset: int) -> dict[str, Array]:
    """The results of a node by name, or nothing if they are not known yet.

    A node is evaluated when all it reads is constant and the shape of its results is known, so that a few numbers
    cannot ask for more memory than there is.

    Args:
        node: The node.
        values: Constants by name.
        shapes: Shapes of computed tensors by name, None where not known.
        opset: Version of the standard operator set.

    Raises:
        ModelError: The node cannot be computed.
        UnsupportedModelError: A result would be too large.
    """
    if node.op_type not in FOLDABLE:
        return {}
    if node.op_type in {"Shape", "Size"} and node.input[0] not in values:
        return _evaluate_shape(node, shapes.get(node.input[0]))
    if not all(name in values for name in node.input if name):
        return {}
    for name in filter(None, node.output):
        shape = shapes.get(name)
        if shape is None:
            return {}
        if math.prod(shape) > MAX_FOLDED_ELEMENTS:
            raise UnsupportedModelError(f"the constant {name!r} computed by {node_label(node)} is too large: {shape}")
    if node.op_type == "DequantizeLinear":
        return _dequantized(node, [values[name] for name in node.input if name])
    return _run(node, {name: values[name] for name in node.input if name}, opset)


def _evaluate_shape(node: onnx.NodeProto, shape: tuple[int, ...] | None) -> dict[str, Array]:
    """``Shape`` and ``Size`` of a computed tensor, whose shape is enough."""
    if shape is None:
        return {}
    if node.op_type == "Size":
        return {node.output[0]: np.array(math.prod(shape), np.int64)}
    bounds = {attribute.name: attribute.i for attribute in node.attribute}
    return {node.output[0]: np.array(shape[bounds.get("start") : bounds.get("end")], np.int64)}


def _dequantized(node: onnx.NodeProto, operands: list[Array]) -> dict[str, Array]:
    """``(x - zero) * scale``, of any type; onnx evaluates that for new operator sets and some types only."""
    attributes = {attribute.name: attribute.i for attribute in node.attribute}
    data, scale = operands[:2]
    zero = operands[2] if len(operands) > 2 else np.zeros_like(scale)
    axis, block = attributes.get("axis", 1), attributes.get("block_size", 0)
    offset, factor = (_spread(node, part.astype(np.float64), data.shape, axis, block) for part in (zero, scale))
    given = attributes.get("output_dtype", 0)
    dtype = helper.tensor_dtype_to_np_dtype(given) if given else scale.dtype
    return {node.output[0]: ((data.astype(np.float64) - offset) * factor).astype(dtype)}


def _spread(node: onnx.NodeProto, scale: Array, shape: tuple[int, ...], axis: int, block: int) -> Array:
    """Scales as they broadcast over data: one in all, one per element of an axis, or one per block along it."""
    if scale.size == 1:
        return scale.reshape(())
    if -len(shape) <= axis < len(shape):
        if not block and scale.shape == (shape[axis],):
            return scale.reshape([-1 if at == axis % len(shape) else 1 for at in range(len(shape))])
        blocks = [-(-size // block) if block and at == axis % len(shape) else size for at, size in enumerate(shape)]
        if block > 0 and list(scale.shape) == blocks:
            return np.repeat(scale, block, axis).take(range(shape[axis]), axis)
    raise ModelError(f"{node_label(node)}: the scale {scale.shape} does not fit axis {axis} of {shape}")


def _run(node: onnx.NodeProto, values: Mapping[str, Array], opset: int) -> dict[str, Array]:
    # Imported here because many models need no evaluation.
    from onnx.reference import ReferenceEvaluator  # noqa: PLC0415

    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in values.items()
    ]
    names = [name for name in node.output if name]
    graph = helper.make_graph([node], "constant", inputs, [onnx.ValueInfoProto(name=name) for name in names])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    try:
        with np.errstate(all="ignore"):
            results = ReferenceEvaluator(model).run(None, dict(values))
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise ModelError(f"the constant {node_label(node)} cannot be computed: {first_line(error)}") from None
    return {name: np.asarray(result) for name, result in zip(names, results, strict=True)}
