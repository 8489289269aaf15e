"""What attributes and constants of operators may be, where shape inference does not ask: texts, ranges, sizes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from blockfuse.errors import ModelError, UnsupportedModelError
from blockfuse.graph import Graph, Op

_RESIZED = {
    "mode": ("nearest", "linear", "cubic"),
    "coordinate_transformation_mode": (
        "half_pixel",
        "half_pixel_symmetric",
        "pytorch_half_pixel",
        "align_corners",
        "asymmetric",
        "tf_half_pixel_for_nn",
        "tf_crop_and_resize",
    ),
    "nearest_mode": ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil"),
    "keep_aspect_ratio_policy": ("stretch", "not_larger", "not_smaller"),
}

TEXTS: dict[str, dict[str, tuple[str, ...]]] = {
    "DepthToSpace": {"mode": ("DCR", "CRD")},
    "Gelu": {"approximate": ("none", "tanh")},
    "Pad": {"mode": ("constant", "reflect", "edge", "wrap")},
    "Resize": _RESIZED,
    "Upsample": {"mode": ("nearest", "linear")},
}
"""What an attribute that is a text may be, by operator."""

_AXIS_KINDS = """
    ArgMax ArgMin Concat CumSum Flatten Gather GatherElements Hardmax LayerNormalization LogSoftmax LpNormalization
    RMSNormalization ScatterElements Softmax Split TopK
"""
AXES = {kind: kind == "Flatten" for kind in _AXIS_KINDS.split()}
"""Operators whose ``axis`` lies between -rank and rank - 1 of their first input, and whether it may be rank, too."""

LIMITS: dict[str, dict[str, tuple[float, float]]] = {
    "LpNormalization": {"p": (1, 2)},
    "LpPool": {"p": (1, 2**31)},
    "BatchNormalization": {"epsilon": (0, 1e30), "training_mode": (0, 0)},
    "InstanceNormalization": {"epsilon": (0, 1e30)},
    "LayerNormalization": {"epsilon": (0, 1e30)},
    "GroupNormalization": {"epsilon": (0, 1e30)},
}
"""Least and greatest value of an attribute that is a number, by operator."""


def check_allowed(graph: Graph, op: Op) -> None:
    """Refuse attributes and constants of an op that its operator does not allow.

    Raises:
        ModelError: One is not allowed.
        UnsupportedModelError: A batch normalization is in training mode.
    """
    for name, texts in TEXTS.get(op.kind, {}).items():
        if op.attrs.get(name, texts[0]) not in texts:
            raise ModelError(f"{op}: {name} {op.attrs[name]!r} is unknown; known are {', '.join(texts)}")
    if op.kind in AXES and "axis" in op.attrs:
        rank = len(graph.tensor(op.inputs[0]).shape)
        if not -rank <= op.attrs["axis"] < rank + AXES[op.kind]:
            raise ModelError(f"{op}: axis {op.attrs['axis']} lies outside the {rank} axes of its input")
    if op.attrs.get("training_mode"):
        raise UnsupportedModelError(f"{op} is in training mode; export the model for inference, as after model.eval()")
    for name, (least, most) in LIMITS.get(op.kind, {}).items():
        if not least <= op.attrs.get(name, least) <= most:
            raise ModelError(f"{op}: {name} {op.attrs[name]} does not lie between {least:g} and {most:g}")
    check = _CHECKS.get(op.kind) or (_check_axes if op.kind.startswith("Reduce") else None)
    if check is not None:
        check(graph, op)


def _check_axes(graph: Graph, op: Op) -> None:
    """Each axis that a reduction takes away exists, and is named once."""
    rank = len(graph.tensor(op.inputs[0]).shape)
    axes = _values(graph, op, "axes", 1)
    if axes is None:
        return
    if not all(-rank <= axis < rank for axis in axes):
        raise ModelError(f"{op}: axes {axes} do not lie within the {rank} axes of its input")
    if len({axis % rank for axis in axes}) < len(axes):
        raise ModelError(f"{op}: axes {axes} name one twice")


def _check_clip(graph: Graph, op: Op) -> None:
    for name in filter(None, op.inputs[1:]):
        if graph.tensor(name).shape not in {(), (1,)}:
            raise ModelError(f"{op}: the bound {name!r} has shape {_times(graph, name)}, and is no single number")


def _check_slope(graph: Graph, op: Op) -> None:
    image, slope = (graph.tensor(name).shape for name in op.inputs[:2])
    if not _spreads(slope, image):
        raise ModelError(f"{op}: a slope {_times(graph, op.inputs[1])} does not fit {_times(graph, op.inputs[0])}")


def _check_norm(graph: Graph, op: Op) -> None:
    shape = graph.tensor(op.inputs[0]).shape
    normalized = shape[op.attrs.get("axis", -1) :]
    for name in filter(None, op.inputs[1:]):
        if not _spreads(graph.tensor(name).shape, normalized):
            axes = "x".join(map(str, normalized))
            raise ModelError(f"{op}: {name!r} has shape {_times(graph, name)}, and {axes} elements are normalized")


def _check_quantization(graph: Graph, op: Op) -> None:
    """One scale in all, one per element of an axis, or one per block; none that is divided by is 0."""
    shape, scale = graph.tensor(op.inputs[0]).shape, graph.tensor(op.inputs[1]).shape
    axis, block = op.attrs.get("axis", 1), op.attrs.get("block_size", 0)
    if scale not in {(), (1,)} and not block:
        if not -len(shape) <= axis < len(shape):
            raise ModelError(f"{op}: axis {axis} lies outside the {len(shape)} axes of its input")
        if scale != (shape[axis],):
            found, of = _times(graph, op.inputs[1]), _times(graph, op.inputs[0])
            raise ModelError(f"{op}: a scale of shape {found} does not fit axis {axis} of {of}")
    if len(op.inputs) > 2 and op.inputs[2] and math.prod(graph.tensor(op.inputs[2]).shape) != math.prod(scale):
        raise ModelError(f"{op}: scale {_times(graph, op.inputs[1])} and zero point differ in shape")
    values = graph.constant(op.inputs[1])
    if op.kind == "QuantizeLinear" and values is not None and not np.all(np.isfinite(values) & (values != 0)):
        raise ModelError(f"{op}: a scale in {op.inputs[1]!r} is 0 or not a finite number")


def _check_scales(graph: Graph, op: Op) -> None:
    for name in filter(None, op.inputs[2:] or op.inputs[1:]):  # behind a region of interest where there is one
        if len(graph.tensor(name).shape) != 1:
            raise ModelError(f"{op}: {name!r} has shape {_times(graph, name)}, and must be a list")
    scales = _values(graph, op, "scales", 2 if len(op.inputs) > 2 else 1)
    if scales is not None and not all(0 < scale < float("inf") for scale in scales):
        raise ModelError(f"{op}: scales {scales} are not all finite and above 0")


def _check_pool(_: Graph, op: Op) -> None:
    """Padding lies within a window, or a window could see nothing else."""
    kernel = op.attrs["kernel_shape"]
    pads = op.attrs.get("pads", (0,) * 2 * len(kernel))
    dilations = op.attrs.get("dilations", (1,) * len(kernel))
    for axis, (taps, dilation) in enumerate(zip(kernel, dilations, strict=True)):
        if max(pads[axis :: len(kernel)]) > (taps - 1) * dilation:
            raise ModelError(f"{op}: pads {tuple(pads)} are not smaller than the window {tuple(kernel)}")


def _check_transposed(graph: Graph, op: Op) -> None:
    image, result = graph.tensor(op.inputs[0]).shape, graph.tensor(op.output).shape
    spatial = len(image) - 2
    ones = (1,) * spatial
    padding = op.attrs.get("output_padding", (0,) * spatial)
    strides, dilations = op.attrs.get("strides", ones), op.attrs.get("dilations", ones)
    for name in ("output_padding", "output_shape"):
        if len(op.attrs.get(name, ones)) != spatial:
            raise ModelError(f"{op}: {name} has {len(op.attrs[name])} entries and needs {spatial}")
    if len(result) != len(image):  # what shape inference makes of it
        raise ModelError(f"{op}: output_shape {tuple(op.attrs['output_shape'])} is smaller than the image")
    for more, stride, dilation in zip(padding, strides, dilations, strict=True):
        if not 0 <= more < max(stride, dilation):
            raise ModelError(f"{op}: output_padding {tuple(padding)} is not smaller than the strides {tuple(strides)}")


def check_padding(op: Op) -> None:
    """Refuse two ways of padding that contradict each other."""
    if op.attrs.get("auto_pad", "NOTSET") != "NOTSET" and any(op.attrs.get("pads", ())):
        raise ModelError(f"{op} has both auto_pad {op.attrs['auto_pad']} and pads {tuple(op.attrs['pads'])}")


def _values(graph: Graph, op: Op, name: str, index: int) -> list[Any] | None:
    """The numbers of an attribute, or of the constant that new operator sets have in its place."""
    if name in op.attrs:
        return list(op.attrs[name])
    value = graph.constant(op.inputs[index]) if index < len(op.inputs) and op.inputs[index] else None
    return None if value is None else np.ravel(value).tolist()


def _spreads(shape: tuple[int, ...], over: tuple[int, ...]) -> bool:
    """Whether a shape broadcasts over another one without making it larger."""
    return len(shape) <= len(over) and all(
        one in {1, other} for one, other in zip(reversed(shape), reversed(over), strict=False)
    )


def _times(graph: Graph, name: str) -> str:
    return "x".join(map(str, graph.tensor(name).shape)) or "()"


_CHECKS: dict[str, Callable[[Graph, Op], None]] = {
    "AveragePool": _check_pool,
    "Clip": _check_clip,
    "ConvTranspose": _check_transposed,
    "DequantizeLinear": _check_quantization,
    "LayerNormalization": _check_norm,
    "LpPool": _check_pool,
    "MaxPool": _check_pool,
    "PRelu": _check_slope,
    "QuantizeLinear": _check_quantization,
    "RMSNormalization": _check_norm,
    "Resize": _check_scales,
    "Upsample": _check_scales,
}
