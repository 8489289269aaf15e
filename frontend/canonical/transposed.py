"""Transposed convolutions become convolutions: every residue of the output position has a filter of its own.

With stride s, the output pixels p, p + s, p + 2 s, .. of one residue are a convolution of the image with every s-th tap
of the filter. All residues together are one convolution with s x s times the channels, a DepthToSpace, and a Slice of
what the pads cut off.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from blockfuse.frontend.canonical.rewriting import (
    Array,
    Steps,
    add_constant,
    along,
    optional_input,
    rewrite,
    sole_producer,
    substitute,
)
from blockfuse.graph import Graph, Op

_ATTRS = {"dilations", "group", "kernel_shape", "pads", "strides"}


@rewrite("ConvTranspose")
def explicit_transposed(graph: Graph, op: Op) -> bool:
    """Spell out the window with pads that give the shape of the result, and a bias; zeros fill a dilated filter."""
    weight = graph.tensor(op.inputs[1])
    if set(op.attrs) == _ATTRS and optional_input(op, 2):
        return False
    image, result = graph.tensor(op.inputs[0]).shape[2:], graph.tensor(op.output).shape[2:]
    axes = len(image)
    strides, dilations = (tuple(op.attrs.get(key, (1,) * axes)) for key in ("strides", "dilations"))
    name = op.inputs[1]
    if any(step != 1 for step in dilations) and weight.value is not None:
        name = add_constant(graph, f"{name}.filled", _filled(weight.value, dilations))
        dilations = (1,) * axes
    kernel = graph.tensor(name).shape[2:]
    extent = [(size - 1) * step + 1 for size, step in zip(kernel, dilations, strict=True)]
    total = [(image[i] - 1) * strides[i] + extent[i] - result[i] for i in range(axes)]
    begins = _begins(op, total)
    pads = (*begins, *(total[i] - begins[i] for i in range(axes)))
    bias = optional_input(op, 2)
    if not bias:
        channels = graph.tensor(op.output).shape[1]
        bias = add_constant(graph, f"{op.name}.bias", np.zeros(channels, graph.tensor(op.output).dtype))
    attrs = {
        "kernel_shape": kernel,
        "strides": strides,
        "pads": pads,
        "dilations": dilations,
        "group": op.attrs.get("group", 1),
    }
    substitute(graph, op, (), "ConvTranspose", (op.inputs[0], name, bias), attrs)
    return True


@rewrite("BatchNormalization", "Mul", "Add")
def fold_into_transposed(graph: Graph, op: Op) -> bool:
    """What follows per channel is part of the filters and the bias."""
    for image, other in (op.inputs[:2], op.inputs[1::-1]):
        layer = sole_producer(graph, image, "ConvTranspose")
        if layer is None or set(layer.attrs) != _ATTRS:
            continue
        affine = _affine(graph, op, other)
        weight, bias = (graph.constant(name) for name in layer.inputs[1:])
        if (
            affine is None
            or weight is None
            or bias is None
            or graph.tensor(op.output).shape != graph.tensor(image).shape
        ):
            continue
        factor, shift = affine
        group = layer.attrs["group"]
        scaled = _outputs_first(weight, group) * factor.reshape(-1, *[1] * (weight.ndim - 1))
        parts = {
            "weight": _outputs_first(scaled, group).astype(weight.dtype),
            "bias": (bias.astype(np.float64) * factor + shift).astype(bias.dtype),
        }
        names = [add_constant(graph, f"{layer.name}.{key}", part) for key, part in parts.items()]
        substitute(graph, op, (layer,), "ConvTranspose", (layer.inputs[0], *names), layer.attrs, layer.name)
        return True
    return False


@rewrite("ConvTranspose")
def conv_of_transposed(graph: Graph, op: Op) -> bool:
    """One over images with constant filters and equal strides is a Conv, a DepthToSpace and a Slice."""
    weight, bias = graph.constant(op.inputs[1]), graph.constant(optional_input(op, 2))
    if weight is None or bias is None or weight.ndim != 4 or set(op.attrs) != _ATTRS:
        return False
    strides = op.attrs["strides"]
    if strides[0] != strides[1] or any(step != 1 for step in op.attrs["dilations"]):
        return False
    phases = _phases(weight, op.attrs["group"], strides[0])
    _replace(graph, op, phases, np.repeat(bias, strides[0] ** 2))
    return True


@dataclass(frozen=True)
class _Phases:
    """A filter [K * s * s, C / g, R, S] for all residues, the residue varying fastest, and its pads.

    Attributes:
        filters: The filters.
        pad: Zeros on every side of the image, per axis, so that every input pixel meets every tap.
        stride: Residues per axis.
        group: Of the convolution.
    """

    filters: Array
    pad: tuple[int, int]
    stride: int
    group: int


def _phases(weight: Array, group: int, stride: int) -> _Phases:
    filters = _outputs_first(weight, group)
    outputs, inputs = filters.shape[:2]
    taps = [-(-size // stride) for size in filters.shape[2:]]
    full = np.zeros((outputs, inputs, taps[0] * stride, taps[1] * stride), filters.dtype)
    full[:, :, : filters.shape[2], : filters.shape[3]] = filters
    parts = full.reshape(outputs, inputs, taps[0], stride, taps[1], stride)
    parts = parts[:, :, ::-1, :, ::-1].transpose(0, 3, 5, 1, 2, 4)
    stacked = np.ascontiguousarray(parts.reshape(outputs * stride**2, inputs, *taps))
    return _Phases(stacked.astype(weight.dtype), (taps[0] - 1, taps[1] - 1), stride, group)


def _replace(graph: Graph, op: Op, phases: _Phases, bias: Array) -> None:
    """The Conv; a DepthToSpace if there are several residues; a Slice, or a Pad where the result reaches further."""
    source, result = graph.tensor(op.inputs[0]), graph.tensor(op.output)
    names = (add_constant(graph, f"{op.name}.filters", phases.filters), add_constant(graph, f"{op.name}.bias", bias))
    pads, stride = op.attrs["pads"], phases.stride
    # How far the result, in front of its pads, reaches beyond the full product of all taps; output_padding does that.
    taps = phases.filters.shape[2:]
    full = [(source.shape[2 + i] + taps[i] - 1) * stride for i in range(2)]
    beyond = [max(0, -(-(pads[i] + result.shape[2 + i] - full[i]) // stride)) for i in range(2)]
    window = {
        "kernel_shape": taps,
        "strides": (1, 1),
        "pads": (*phases.pad, *(pad + more for pad, more in zip(phases.pad, beyond, strict=True))),
        "dilations": (1, 1),
        "group": phases.group,
    }
    sizes = [full[i] // stride + beyond[i] for i in range(2)]
    batch, channels = result.shape[:2]
    steps = Steps(graph, op)
    value = steps.add("Conv", (op.inputs[0], *names), (batch, phases.filters.shape[0], *sizes), window)
    shape = (batch, channels, *(size * stride for size in sizes))
    if stride > 1:
        value = steps.add("DepthToSpace", (value,), shape, {"blocksize": stride, "mode": "CRD"})
    if shape != result.shape or any(pads[:2]):
        ends = [pads[i] + result.shape[2 + i] for i in range(2)]
        bounds = {"starts": pads[:2], "ends": ends, "axes": (2, 3)}
        parts = [steps.constant(key, np.array(part, np.int64)) for key, part in bounds.items()]
        steps.add("Slice", (value, *parts), result.shape)
    steps.finish()


def _outputs_first(weight: Array, group: int) -> Array:
    """Filters [C, K / g, ..] as [K, C / g, ..], or back: in every group, both axes change places."""
    rows, columns = weight.shape[:2]
    swapped = weight.reshape(group, rows // group, columns, *weight.shape[2:]).swapaxes(1, 2)
    return np.ascontiguousarray(swapped.reshape(group * columns, rows // group, *weight.shape[2:]))


def _filled(weight: Array, dilations: tuple[int, ...]) -> Array:
    """A dilated filter with its gaps filled with zeros."""
    sizes = [(size - 1) * step + 1 for size, step in zip(weight.shape[2:], dilations, strict=True)]
    full = np.zeros((*weight.shape[:2], *sizes), weight.dtype)
    steps: tuple[slice, ...] = tuple(slice(None, None, step) for step in dilations)
    full[(slice(None), slice(None), *steps)] = weight
    return full


def _begins(op: Op, total: list[int]) -> list[int]:
    """What is cut off before each axis; explicit pads hold unless the op gives the shape of its result."""
    mode = op.attrs.get("auto_pad", "NOTSET")
    if mode == "NOTSET" and ("pads" in op.attrs or not op.attrs.get("output_shape")):
        return list(op.attrs.get("pads", (0,) * 2 * len(total)))[: len(total)]
    if mode == "VALID":
        return [0] * len(total)
    extra = op.attrs.get("output_padding", (0,) * len(total))
    amounts = [max(0, amount + more) for amount, more in zip(total, extra, strict=True)]
    # As ONNX has it: all modes but SAME_UPPER put the larger half first.
    return [amount // 2 if mode == "SAME_UPPER" else amount - amount // 2 for amount in amounts]


def _affine(graph: Graph, op: Op, other: str) -> tuple[Array, Array] | None:
    """Factor and summand per channel that an op applies to its image."""
    shape = graph.tensor(op.output).shape
    if op.kind != "BatchNormalization":
        constant = along(graph.constant(other), shape, 1)
        if constant is None:
            return None
        is_product = op.kind == "Mul"
        return (constant, np.zeros_like(constant)) if is_product else (np.ones_like(constant), constant)
    parameters = [graph.constant(name) for name in op.inputs[1:5]]
    if any(value is None for value in parameters) or op.attrs.get("training_mode", 0):
        return None
    scale, shift, mean, variance = (np.asarray(value, np.float64) for value in parameters)
    factor = scale / np.sqrt(variance + op.attrs.get("epsilon", 1e-5))
    return factor, shift - mean * factor
