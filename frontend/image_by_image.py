"""Whether an operator computes every image of a batch by itself.

Graphs are as read: operators in ONNX's words, and the first dimension of every computed tensor is the batch. What is
not in the table is refused, not guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from blockfuse.graph import Graph, Op

Check = Callable[[Graph, Op], bool]

_ELEMENTWISE = """
    Abs Acos Acosh Add And Asin Asinh Atan Atanh BitShift Cast CastLike Ceil Celu Clip Cos Cosh Div Dropout Elu Equal
    Erf Exp Floor Gelu Greater GreaterOrEqual HardSigmoid HardSwish Identity IsInf IsNaN LeakyRelu Less LessOrEqual Log
    Max Mean Min Mish Mod Mul Neg Not Or Pow PRelu Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin Sinh Softplus
    Softsign Sqrt Sub Sum Swish Tan Tanh ThresholdedRelu Where Xor
"""
_ON_IMAGES = """
    AveragePool Conv ConvTranspose DepthToSpace GlobalAveragePool GlobalLpPool GlobalMaxPool
    GroupNormalization InstanceNormalization LRN LpPool MaxPool SpaceToDepth
"""
_ALONG_AN_AXIS = """
    ArgMax ArgMin Concat Hardmax LayerNormalization LogSoftmax LpNormalization MeanNormalization RMSNormalization
    Softmax Split TopK
"""
_REDUCTIONS = """
    ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare
"""


def objection(graph: Graph, op: Op) -> str:
    """Why an operator does not compute images one by one; empty if it does."""
    check = _CHECKS.get(op.kind)
    if check is None:
        return "is not known to compute images one by one"
    return "" if check(graph, op) else "does not compute images one by one"


def _anything(_graph: Graph, _op: Op) -> bool:
    return True


def _rank(graph: Graph, name: str) -> int:
    return len(graph.tensor(name).shape)


def _computed(graph: Graph, op: Op) -> list[int]:
    """Positions of the inputs that are computed."""
    return [i for i, name in enumerate(op.inputs) if name and not graph.tensor(name).is_constant]


def _elementwise(graph: Graph, op: Op) -> bool:
    """The batches of all that is broadcast lie above each other, and no constant has one."""
    rank = _rank(graph, op.output)
    shapes = [graph.tensor(name).shape for name in op.inputs if name and graph.tensor(name).is_constant]
    fits = all(len(shape) < rank or shape[:1] in {(), (1,)} for shape in shapes)
    return fits and all(_rank(graph, op.inputs[i]) == rank for i in _computed(graph, op))


def _only_first(graph: Graph, op: Op) -> bool:
    return _computed(graph, op) == [0]


def _batch_normalization(graph: Graph, op: Op) -> bool:
    return _only_first(graph, op) and not op.attrs.get("training_mode") and len(op.outputs) == 1


def _along_axis(graph: Graph, op: Op) -> bool:
    default = {"Concat": 0, "ArgMax": 0, "ArgMin": 0, "Split": 0}.get(op.kind, -1)
    return int(op.attrs.get("axis", default)) % _rank(graph, op.inputs[0]) != 0


def _axes(graph: Graph, op: Op, position: int) -> list[int] | None:
    """Axes from the attribute or the input that gives them; None if neither does."""
    given = op.attrs.get("axes")
    if given is not None:
        return [int(axis) for axis in given]
    value = graph.constant(op.inputs[position]) if position < len(op.inputs) else None
    return None if value is None else [int(axis) for axis in value.reshape(-1)]


def _spares_first(axes: Iterable[int] | None, rank: int) -> bool:
    return axes is not None and all(axis % rank != 0 for axis in axes)


def _reduction(graph: Graph, op: Op) -> bool:
    return _only_first(graph, op) and _spares_first(_axes(graph, op, 1), _rank(graph, op.inputs[0]))


def _slice(graph: Graph, op: Op) -> bool:
    rank = _rank(graph, op.inputs[0])
    axes = _axes(graph, op, 3)
    if axes is None:  # the first ones
        return False
    return _only_first(graph, op) and _spares_first(axes, rank)


def _gather(graph: Graph, op: Op) -> bool:
    return _only_first(graph, op) and int(op.attrs.get("axis", 0)) % _rank(graph, op.inputs[0]) != 0


def _pad(graph: Graph, op: Op) -> bool:
    rank = _rank(graph, op.inputs[0])
    pads = op.attrs.get("pads") or op.attrs.get("paddings")
    if pads is None:
        value = graph.constant(op.inputs[1]) if len(op.inputs) > 1 else None
        pads = None if value is None else value.reshape(-1).tolist()
    if pads is None or not _only_first(graph, op):
        return False
    axes = _axes(graph, op, 3)
    if axes is not None:
        return _spares_first(axes, rank)
    return len(pads) == 2 * rank and pads[0] == 0 == pads[rank]


def _transpose(graph: Graph, op: Op) -> bool:
    return bool(op.attrs.get("perm", range(_rank(graph, op.inputs[0]))[::-1])[0] == 0)


def _matmul(graph: Graph, op: Op) -> bool:
    """A matrix per image, or rows that are images; not a product that adds over the batch or has it twice."""
    ranks = [_rank(graph, name) for name in op.inputs[:2]]
    computed = _computed(graph, op)
    if computed == [0, 1]:
        return ranks[0] == ranks[1] > 2
    constant = graph.tensor(op.inputs[1 - computed[0]]).shape
    if computed == [0]:
        return ranks[0] > 1 and (len(constant) < ranks[0] or ranks[0] == 2 or constant[0] == 1)
    return ranks[1] > 2 and (len(constant) < ranks[1] or constant[0] == 1)


def _gemm(graph: Graph, op: Op) -> bool:
    if op.attrs.get("transA") or 1 in _computed(graph, op):
        return False
    bias = op.inputs[2] if len(op.inputs) > 2 else ""
    return not bias or not graph.tensor(bias).is_constant or graph.tensor(bias).shape[:-1] in {(), (1,)}


def _resize(graph: Graph, op: Op) -> bool:
    """To sizes, of which the first is the batch, or by scales, of which the first is 1."""
    shape, axes = graph.tensor(op.inputs[0]).shape, op.attrs.get("axes")
    if axes is not None:
        return _only_first(graph, op) and _spares_first(axes, len(shape))
    if len(op.inputs) > 3 and op.inputs[3]:
        sizes = graph.constant(op.inputs[3])
        plain = op.attrs.get("keep_aspect_ratio_policy", "stretch") == "stretch" and not _crops(op)
        return plain and sizes is not None and sizes.tolist()[:1] == [shape[0]]
    position = 1 if len(op.inputs) == 2 else 2
    scales = graph.constant(op.inputs[position]) if position < len(op.inputs) else op.attrs.get("scales")
    return scales is not None and len(scales) > 0 and float(scales[0]) == 1.0


def _crops(op: Op) -> bool:
    return str(op.attrs.get("coordinate_transformation_mode")) == "tf_crop_and_resize"


def _tile(graph: Graph, op: Op) -> bool:
    repeats = graph.constant(op.inputs[1])
    return repeats is not None and int(repeats.reshape(-1)[0]) == 1


def _cumulative(graph: Graph, op: Op) -> bool:
    axis = graph.constant(op.inputs[1])
    return axis is not None and int(axis.reshape(())) % _rank(graph, op.inputs[0]) != 0


def _over_axes(graph: Graph, op: Op) -> bool:
    """By default the axes of all images."""
    return _spares_first(op.attrs.get("axes"), _rank(graph, op.inputs[0]))


def _same_rank(graph: Graph, op: Op) -> bool:
    return _rank(graph, op.inputs[0]) == _rank(graph, op.output)


def _named(names: str, check: Check) -> dict[str, Check]:
    return dict.fromkeys(names.split(), check)


_CHECKS: Mapping[str, Check] = {
    **_named(_ELEMENTWISE, _elementwise),
    **_named(_ON_IMAGES, _only_first),
    **_named(_ALONG_AN_AXIS, _along_axis),
    **_named(_REDUCTIONS, _reduction),
    # Rows of a batch stay in order, and where the result begins with the batch too, each is one image.
    **_named("Flatten Reshape Squeeze Unsqueeze", _anything),
    "BatchNormalization": _batch_normalization,
    "CumSum": _cumulative,
    "Expand": _same_rank,
    "Gather": _gather,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "MeanVarianceNormalization": _over_axes,
    "DequantizeLinear": _only_first,
    "Pad": _pad,
    "QuantizeLinear": _only_first,
    "Resize": _resize,
    "Slice": _slice,
    "Tile": _tile,
    "Transpose": _transpose,
    "Upsample": _resize,
}
