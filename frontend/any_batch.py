"""Models whose first dimension is open: read so that every computed value is known to be one image after the other.

Such a model is settled for four batches, two of them primes that divide no dimension of the model. What is the same in
all is constant; a value's first dimension must be the batch, and all others constant. Of constants only targets of
Reshape, Expand and Resize may differ. Nothing is concluded from a dimension that merely equals a batch: what is
compared are results for different batches, and computations whose result four samples cannot tell, such as a comparison
of the batch with a number, are refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx

from blockfuse.errors import ModelError, UnsupportedModelError
from blockfuse.frontend.image_by_image import objection
from blockfuse.frontend.load import node_label
from blockfuse.frontend.settle import Draft, Info, settle
from blockfuse.frontend.strided import reshape_strided_views
from blockfuse.graph import Graph, Op, Tensor

FIX = "give the inputs' shapes, as in --shape {name}={shape}, to compile for a fixed batch"

_PRIMES = (101, 103, 107, 109, 113, 127, 131, 137, 139, 149, 151, 157, 163, 167, 173, 179, 181, 191, 193, 197, 199)
_SMALL = (1, 2)  # where one image is a special case, and what is divided by two

_KINDS = """
    Add Cast Concat ConstantOfShape Expand Identity Mul Neg ReduceProd Reshape Shape Size Squeeze Sub Unsqueeze
"""
_POLYNOMIAL = frozenset(_KINDS.split())
"""Results of these are polynomials in the batch, of a low degree."""

_SELECTING = frozenset({"Gather", "Slice", "Split", "Where"})
"""These choose from what they read, by constants."""

_TARGETS = {("Reshape", 1), ("Expand", 1), ("Resize", 3)}
"""Constants that may differ: operator and input."""


def settle_any_batch(draft: Draft) -> list[Draft]:
    """A draft settled for several batches, of which the first is a multiple of no dimension and vice versa.

    Args:
        draft: All its inputs have an open first dimension, None; is not changed.
    """
    dims = {dim for value in draft.values.values() for dim in value.shape}
    dims.update(dim for info in draft.inputs.values() for dim in info.shape or () if dim is not None)
    primes = [prime for prime in _PRIMES if all(dim % prime for dim in dims if dim)][:2]
    if len(primes) < 2:
        raise UnsupportedModelError(f"the dimensions of the model leave no batch to try; {_fix(draft)}")
    return [_settled(draft, batch) for batch in (*primes, *_SMALL)]


def _settled(draft: Draft, batch: int) -> Draft:
    copy = replace(
        draft,
        inputs={name: _with_batch(info, batch) for name, info in draft.inputs.items()},
        nodes=list(draft.nodes),
        values=dict(draft.values),
        infos={},
        folded=[],
        images=batch,
    )
    try:
        settle(copy)
    except ModelError as error:
        tried = f"that is with {batch} images, as the model's batch is open"
        raise type(error)(f"{error}; {tried}; {_fix(draft)}") from None
    return copy


def _with_batch(info: Info, batch: int) -> Info:
    return Info(info.elem_type, (batch, *(info.shape or ())[1:]))


def check_any_batch(graph: Graph, drafts: Sequence[Draft]) -> None:
    """Refuse a graph, read with the first draft's batch, unless it computes one image after the other for any batch.

    Strided views of whole tensors become a Reshape before.

    Raises:
        UnsupportedModelError: It does not; the message names the first node that does not.
    """
    fix = _fix(drafts[0])
    if len({tuple(_identity(node) for node in draft.nodes) for draft in drafts}) > 1:
        raise UnsupportedModelError(f"the model computes other nodes for one image than for several; {fix}")
    indices = reshape_strided_views(graph, drafts)
    for op in graph.ops():
        complaint = _shape_complaint(op, drafts) or objection(graph, op)
        if complaint:
            raise UnsupportedModelError(f"{op} {complaint}, and the model's batch is open; {fix}")
    constants = {tensor.name for tensor in graph.tensors if tensor.is_constant}
    for name in constants & set(graph.outputs):
        raise UnsupportedModelError(f"the output {name!r} is constant, and the model's batch is open; {fix}")
    varying = {name for draft in drafts[1:] for name in draft.values if _differs(name, drafts[0], draft)}
    for op in graph.ops():
        for position, name in enumerate(op.inputs):
            if name in varying & constants and (op.kind, position) not in _TARGETS:
                raise UnsupportedModelError(f"{op} reads {name!r}, a constant that depends on the open batch; {fix}")
    _check_branches(constants | indices, varying, drafts, fix)


def open_targets(graph: Graph) -> None:
    """Make the targets of Expand and Resize keep the batch, whatever it is; changes the graph.

    Those of Reshape follow in :func:`for_batch`.
    """
    for op in graph.ops():
        position = {"Expand": 1, "Resize": 3}.get(op.kind, len(op.inputs))
        target = graph.constant(op.inputs[position]) if position < len(op.inputs) else None
        rank = len(graph.tensor(op.output).shape)
        if target is None or len(target) != rank or "axes" in op.attrs:
            continue
        sizes = target.tolist()[1:]
        value = np.array([1, *sizes] if op.kind == "Expand" else sizes, np.int64)
        name = _fresh(graph, f"{op.inputs[position]}.open")
        graph.add_tensor(Tensor(name, value.shape, "int64", value))
        attrs = {**op.attrs, "axes": tuple(range(1, rank))} if op.kind == "Resize" else op.attrs
        graph.replace([op], [replace(op, inputs=(*op.inputs[:position], name), attrs=attrs)])
    graph.prune()


def for_batch(graph: Graph, batch: int) -> Graph:
    """A canonical graph that takes any batch, with its shapes and targets of Reshape written for another one."""
    result = graph.with_batch(batch)
    for op in result.ops():
        if op.kind == "Reshape":
            name = _fresh(result, f"{op.output}.shape")
            value = np.array(result.tensor(op.output).shape, np.int64)
            result.add_tensor(Tensor(name, value.shape, "int64", value))
            result.replace([op], [replace(op, inputs=(op.inputs[0], name))])
    result.prune()
    return result


def _fresh(graph: Graph, name: str) -> str:
    while graph.has_tensor(name):
        name += "_"
    return name


def _identity(node: onnx.NodeProto) -> tuple[Any, ...]:
    return node.op_type, tuple(node.input), tuple(node.output)


def _shape_complaint(op: Op, drafts: Sequence[Draft]) -> str:
    """Why a result is not one image after the other; empty if it is."""
    for name in filter(None, op.outputs):
        shapes = [(draft.infos[name].known_shape if name in draft.infos else None) for draft in drafts]
        if any(shape is None or shape[:1] != (draft.images,) for shape, draft in zip(shapes, drafts, strict=True)):
            return f"makes {name!r}, whose first dimension is not the batch"
        if len({shape[1:] for shape in shapes if shape is not None}) > 1:
            return f"makes {name!r}, of which more dimensions than the first depend on the batch"
    return ""


def _differs(name: str, first: Draft, other: Draft) -> bool:
    a, b = first.values.get(name), other.values.get(name)
    if a is b:
        return False
    return a is None or b is None or not _equal(a, b)


def _equal(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def _check_branches(constants: set[str], varying: set[str], drafts: Sequence[Draft], fix: str) -> None:
    """Refuse constants that three samples do not determine."""
    needed = set(constants)
    for node in reversed(drafts[0].folded):
        if not needed & set(node.output):
            continue
        needed.update(node.input)
        if varying & set(node.input) and not _is_determined(node, varying, drafts):
            raise UnsupportedModelError(f"{node_label(node)} computes a constant from the open batch; {fix}")


def _is_determined(node: onnx.NodeProto, varying: set[str], drafts: Sequence[Draft]) -> bool:
    """Whether the samples of a constant that depends on the batch determine it for every batch, which is at least 1."""
    if node.op_type in _SELECTING:
        choosing = node.input[:1] if node.op_type == "Where" else node.input[1:]
        return not varying & set(choosing)
    if node.op_type == "Equal":
        others = [drafts[0].values[name] for name in node.input if name not in varying]
        return len(others) == 1 and bool(np.all(others[0] < 1))  # such as -1, which stands for "as it is"
    if node.op_type == "Range":
        return not varying & {node.input[0], node.input[2]}  # only the end moves
    if node.op_type == "Div":
        return node.input[1] not in varying and all(_divides(node, draft) for draft in drafts)
    return node.op_type in _POLYNOMIAL


def _divides(node: onnx.NodeProto, draft: Draft) -> bool:
    dividend, divisor = (draft.values[name] for name in node.input)
    return bool(np.all(divisor != 0)) and not np.any(dividend % divisor)


def _fix(draft: Draft) -> str:
    name, info = next(iter(draft.inputs.items()))
    return FIX.format(name=name, shape="x".join(map(str, (1, *(info.shape or ())[1:]))))
