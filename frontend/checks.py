"""Checks on operators that shape inference lets through."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from blockfuse.errors import ModelError, UnsupportedModelError
from blockfuse.frontend.allowed import check_allowed, check_padding
from blockfuse.graph import Graph, Op

MAX_TAPS = 2**20
"""Most pixels under a window; compiling takes time for each."""


def check_ops(graph: Graph) -> None:
    """Refuse convolutions, normalisations and poolings of a graph as read that contradict their shapes.

    Raises:
        ModelError: A filter, a bias, a group count or a window is wrong.
        UnsupportedModelError: A form of an operator is not supported.
    """
    for op in graph.ops():
        check = _CHECKS.get(op.kind)
        if check is not None:
            check(graph, op)
        check_allowed(graph, op)


_PLACES = {"QLinearConv": (3, 8), "ConvInteger": (1, 4)}
"""Where convolutions have their filter and bias if not at 1 and 2; ConvInteger has no bias."""


def _check_conv(graph: Graph, op: Op) -> None:
    filter_at, bias_at = _PLACES.get(op.kind, (1, 2))
    image, weight = graph.tensor(op.inputs[0]).shape, graph.tensor(op.inputs[filter_at]).shape
    if len(image) < 3 or len(weight) != len(image):
        raise ModelError(f"{op}: an image {_times(image)} and a filter {_times(weight)} do not go together")
    group = op.attrs["group"]
    if group < 1 or image[1] % group or weight[0] % group:
        raise ModelError(f"{op}: {image[1]} input and {weight[0]} output channels do not divide into {group} groups")
    if weight[1] * group != image[1]:
        raise ModelError(
            f"{op}: the filter {_times(weight)} with {group} groups needs {weight[1] * group} input channels, "
            f"and the input has {image[1]}"
        )
    if tuple(op.attrs.get("kernel_shape", weight[2:])) != weight[2:]:
        raise ModelError(
            f"{op}: kernel_shape {_times(op.attrs['kernel_shape'])} is not that of the filter {_times(weight)}"
        )
    bias = op.inputs[bias_at] if len(op.inputs) > bias_at else ""
    if bias and graph.tensor(bias).shape != weight[:1]:
        raise ModelError(f"{op}: the bias {_times(graph.tensor(bias).shape)} does not fit {weight[0]} outputs")
    _check_window(op, len(image) - 2)
    _check_extent(op, image[2:], weight[2:])


def _check_extent(op: Op, image: tuple[int, ...], size: tuple[int, ...]) -> None:
    """Refuse a window larger than the padded image, to which shape inference may still give one place."""
    if op.attrs.get("auto_pad", "NOTSET") in {"SAME_UPPER", "SAME_LOWER"}:
        return
    pads = op.attrs.get("pads", (0,) * 2 * len(image)) if op.attrs.get("auto_pad", "NOTSET") == "NOTSET" else ()
    for axis, (length, taps) in enumerate(zip(image, size, strict=True)):
        padded = length + sum(pads[axis :: len(image)])
        extent = (taps - 1) * op.attrs.get("dilations", (1,) * len(image))[axis] + 1
        if extent > padded:
            raise ModelError(f"{op}: a window of {extent} does not fit {padded} rows or columns")


def _check_conv_transpose(graph: Graph, op: Op) -> None:
    image, weight = graph.tensor(op.inputs[0]).shape, graph.tensor(op.inputs[1]).shape
    if len(image) < 3 or len(weight) != len(image):
        raise ModelError(f"{op}: an image {_times(image)} and a filter {_times(weight)} do not go together")
    group = op.attrs["group"]
    if group < 1 or image[1] % group:
        raise ModelError(f"{op}: {image[1]} input channels do not divide into {group} groups")
    if weight[0] != image[1]:
        raise ModelError(f"{op}: the filter {_times(weight)} is for {weight[0]} channels, and the input has {image[1]}")
    outputs = weight[1] * group
    if len(op.inputs) > 2 and op.inputs[2] and graph.tensor(op.inputs[2]).shape != (outputs,):
        raise ModelError(f"{op}: the bias {_times(graph.tensor(op.inputs[2]).shape)} does not fit {outputs} outputs")
    _check_window(op, len(image) - 2)


def _check_gemm(graph: Graph, op: Op) -> None:
    first, second = (graph.tensor(name).shape for name in op.inputs[:2])
    for name in ("transA", "transB"):
        if op.attrs.get(name, 0) not in (0, 1):
            raise ModelError(f"{op}: {name} is {op.attrs[name]}, neither 0 nor 1")
    if first[1 - op.attrs.get("transA", 0)] != second[op.attrs.get("transB", 0)]:
        raise ModelError(f"{op}: matrices {_times(first)} and {_times(second)} cannot be multiplied")


def _check_groups(graph: Graph, op: Op) -> None:
    shape, groups = graph.tensor(op.inputs[0]).shape, op.attrs["num_groups"]
    if len(shape) < 3 or groups < 1 or shape[1] % groups:
        raise ModelError(f"{op}: the channels of {_times(shape)} do not divide into {groups} groups")
    for name in op.inputs[1:]:
        if graph.tensor(name).shape not in {(groups,), shape[1:2]}:
            raise ModelError(f"{op}: {name!r} has shape {_times(graph.tensor(name).shape)}, not one value per channel")


def _check_instances(graph: Graph, op: Op) -> None:
    shape = graph.tensor(op.inputs[0]).shape
    if len(shape) < 3:
        raise ModelError(f"{op}: an input {_times(shape)} has no images to normalize")
    for name in op.inputs[1:]:
        if graph.tensor(name).shape != shape[1:2]:
            raise ModelError(f"{op}: {name!r} has shape {_times(graph.tensor(name).shape)}, not one value per channel")


def _check_square(graph: Graph, op: Op) -> None:
    shape, size = graph.tensor(op.inputs[0]).shape, op.attrs["blocksize"]
    divides = size > 0 and (
        shape[1] % size**2 == 0 if op.kind == "DepthToSpace" else shape[2] % size == 0 and shape[3] % size == 0
    )
    if len(shape) != 4 or not divides:
        raise ModelError(f"{op}: a blocksize of {size} does not divide an image {_times(shape)}")


def _check_pool(graph: Graph, op: Op) -> None:
    _check_window(op, len(graph.tensor(op.inputs[0]).shape) - 2)


def _check_window(op: Op, spatial: int) -> None:
    """Length and sign of the lists that describe a sliding window."""
    for name, length, least in (("kernel_shape", 1, 1), ("strides", 1, 1), ("dilations", 1, 1), ("pads", 2, 0)):
        values = op.attrs.get(name)
        if values is None:
            continue
        if len(values) != length * spatial:
            raise ModelError(f"{op}: {name} has {len(values)} entries and needs {length * spatial}")
        if min(values) < least:
            raise ModelError(f"{op}: {name} has an entry below {least}: {tuple(values)}")
    if math.prod(op.attrs.get("kernel_shape", ())) > MAX_TAPS:
        shape = _times(op.attrs["kernel_shape"])
        raise UnsupportedModelError(f"{op}: the window {shape} is too large; at most {MAX_TAPS} pixels are supported")
    if op.attrs.get("auto_pad", "NOTSET") not in {"NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"}:
        raise ModelError(f"{op}: auto_pad {op.attrs['auto_pad']!r} is unknown")
    check_padding(op)


def _check_batch_normalization(graph: Graph, op: Op) -> None:
    channels = graph.tensor(op.inputs[0]).shape[1:2]
    if op.attrs.get("spatial", 1) != 1:
        raise UnsupportedModelError(f"{op}: spatial=0 is not supported; export the model with a newer opset")
    for name in op.inputs[1:]:
        if graph.tensor(name).shape != channels:
            raise ModelError(f"{op}: {name!r} has shape {_times(graph.tensor(name).shape)}, not one value per channel")


def _check_transpose(graph: Graph, op: Op) -> None:
    axes = range(len(graph.tensor(op.inputs[0]).shape))
    if sorted(op.attrs.get("perm", axes)) != list(axes):
        raise ModelError(f"{op}: perm {tuple(op.attrs['perm'])} is no order of {len(axes)} axes")


def _check_gather(graph: Graph, op: Op) -> None:
    shape, indices = graph.tensor(op.inputs[0]).shape, graph.constant(op.inputs[1])
    if not -len(shape) <= op.attrs["axis"] < len(shape):
        return  # which is said next
    size = shape[op.attrs["axis"]]
    if indices is not None and indices.size and not (-size <= indices.min() and indices.max() < size):
        worst = max(indices.reshape(-1).tolist(), key=abs)
        raise ModelError(f"{op}: index {worst} lies outside axis {op.attrs['axis']} of {_times(shape)}")


def _check_pad(graph: Graph, op: Op) -> None:
    """Reflection cannot reach beyond the image, and nothing can be taken away twice."""
    shape = graph.tensor(op.inputs[0]).shape
    pads = op.attrs.get("pads") if len(op.inputs) < 2 else graph.constant(op.inputs[1])
    if pads is None or len(op.inputs) > 3 or op.attrs.get("mode", "constant") != "reflect":
        return
    if any(max(pair) >= size for size, pair in zip(shape, np.reshape(pads, (2, -1)).T.tolist(), strict=False)):
        raise ModelError(
            f"{op}: an image {_times(shape)} has too few elements to be reflected by {np.ravel(pads).tolist()}"
        )


def _check_lrn(_: Graph, op: Op) -> None:
    if not 1 <= op.attrs["size"] <= MAX_TAPS:
        raise ModelError(f"{op}: size {op.attrs['size']} does not lie between 1 and {MAX_TAPS}")


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


_CHECKS: dict[str, Callable[[Graph, Op], None]] = {
    "Conv": _check_conv,
    "ConvInteger": _check_conv,
    "ConvTranspose": _check_conv_transpose,
    "DepthToSpace": _check_square,
    "Gather": _check_gather,
    "Gemm": _check_gemm,
    "GroupNormalization": _check_groups,
    "InstanceNormalization": _check_instances,
    "LRN": _check_lrn,
    "LpPool": _check_pool,
    "Pad": _check_pad,
    "QLinearConv": _check_conv,
    "SpaceToDepth": _check_square,
    "MaxPool": _check_pool,
    "AveragePool": _check_pool,
    "BatchNormalization": _check_batch_normalization,
    "Transpose": _check_transpose,
}
