"""Poolings: explicit windows, and all spellings of the mean over the image as GlobalAveragePool."""

from __future__ import annotations

import math

import numpy as np

from blockfuse.frontend.canonical.conv import image_pads
from blockfuse.frontend.canonical.rewriting import (
    add_constant,
    fresh,
    fresh_op,
    optional_input,
    rewrite,
    sole_producer,
    substitute,
)
from blockfuse.frontend.canonical.windows import Window, window_of
from blockfuse.graph import Graph, Op, Tensor


@rewrite("MaxPool", "AveragePool")
def explicit_pool(graph: Graph, op: Op) -> bool:
    """Spell out the window, resolve ``auto_pad``, and round up by padding where that means the same."""
    if any(name and (graph.consumers(name) or graph.is_output(name)) for name in op.outputs[1:]):
        return False
    image, result = graph.tensor(op.inputs[0]).shape[2:], graph.tensor(op.output).shape[2:]
    window = window_of(op.attrs, op.attrs["kernel_shape"], image)
    attrs = {"ceil_mode": op.attrs.get("ceil_mode", 0)}
    if op.kind == "AveragePool":
        attrs["count_include_pad"] = op.attrs.get("count_include_pad", 0) if any(window.pads) else 0
    if attrs["ceil_mode"]:
        rounded = _rounded_up(window, image, result)
        if rounded == window or (rounded.is_inside and not attrs.get("count_include_pad", 0)):
            window, attrs["ceil_mode"] = rounded, 0
    attrs = {**window.attrs, **attrs}
    if dict(op.attrs) == attrs and len(op.outputs) == 1:
        return False
    substitute(graph, op, (), op.kind, op.inputs, attrs)
    return True


@rewrite("AveragePool")
def global_average_pool(graph: Graph, op: Op) -> bool:
    """An ``AveragePool`` whose one window is the whole image is a ``GlobalAveragePool``."""
    window = window_of(op.attrs, op.attrs["kernel_shape"], graph.tensor(op.inputs[0]).shape[2:])
    if window.kernel_shape != graph.tensor(op.inputs[0]).shape[2:] or any(window.pads):
        return False
    if any(step != 1 for step in window.dilations):
        return False
    substitute(graph, op, (), "GlobalAveragePool", op.inputs)
    return True


@rewrite("MaxPool", "AveragePool")
def fold_pad_into_pool(graph: Graph, op: Op) -> bool:
    """A pool of an image with zeros around it has pads: a mean counts them, a maximum of positive numbers ignores them.

    Pads stay smaller than the window, as ONNX wants them.
    """
    pad = sole_producer(graph, op.inputs[0], "Pad")
    added = image_pads(graph, pad) if pad is not None else None
    if pad is None or added is None or op.attrs.get("ceil_mode", 1) or "pads" not in op.attrs:
        return False
    if op.kind == "AveragePool" and any(op.attrs["pads"]) and not op.attrs["count_include_pad"]:
        return False
    if op.kind == "MaxPool" and not _is_never_negative(graph, pad.inputs[0]):
        return False
    pads = tuple(old + new for old, new in zip(op.attrs["pads"], added, strict=True))
    attrs = {**op.attrs, "pads": pads, **({"count_include_pad": 1} if op.kind == "AveragePool" else {})}
    if not Window(op.attrs["kernel_shape"], (), pads, ()).is_inside:
        return False
    substitute(graph, op, (pad,), op.kind, (pad.inputs[0],), attrs)
    return True


@rewrite("AveragePool")
def conv_of_padded_mean(graph: Graph, op: Op) -> bool:
    """A mean over images that counts the zeros around them is a depthwise Conv with equal weights."""
    image, attrs = graph.tensor(op.inputs[0]), op.attrs
    if len(image.shape) != 4 or not attrs.get("count_include_pad") or attrs.get("ceil_mode", 1):
        return False
    channels, window = image.shape[1], attrs["kernel_shape"]
    weight = np.full((channels, 1, *window), 1 / math.prod(window), image.dtype)
    parts = {"weight": weight, "bias": np.zeros(channels, image.dtype)}
    names = [add_constant(graph, f"{op.name}.{key}", part) for key, part in parts.items()]
    kept = {key: attrs[key] for key in ("kernel_shape", "strides", "pads", "dilations")}
    substitute(graph, op, (), "Conv", (op.inputs[0], *names), {**kept, "group": channels})
    return True


def _is_never_negative(graph: Graph, name: str) -> bool:
    """Whether the op that computes a tensor gives nothing below 0."""
    op = graph.producer(name)
    if op is None:
        return False
    return op.kind in {"Relu", "Sigmoid", "HardSigmoid"} or (op.kind == "Clip" and op.attrs.get("min", -1) >= 0)


@rewrite("ReduceMean")
def mean_over_image(graph: Graph, op: Op) -> bool:
    """``ReduceMean`` over all spatial axes is a ``GlobalAveragePool``, and a ``Flatten`` where they vanish."""
    image = graph.tensor(op.inputs[0])
    rank = len(image.shape)
    axes = graph.constant(optional_input(op, 1))
    if axes is None or rank < 3 or sorted(np.asarray(axes) % rank) != list(range(2, rank)):
        return False
    if op.attrs.get("keepdims", 1):
        substitute(graph, op, (), "GlobalAveragePool", op.inputs[:1])
        return True
    pooled = fresh(graph, f"{op.output}.pooled")
    graph.add_tensor(Tensor(pooled, (*image.shape[:2], *[1] * (rank - 2)), image.dtype))
    graph.remove_op(op)
    graph.add_op(Op("GlobalAveragePool", op.name, op.inputs[:1], (pooled,), {}, op.origin))
    graph.add_op(Op("Flatten", fresh_op(graph, f"{op.name}.flatten"), (pooled,), op.outputs, {"axis": 1}, op.origin))
    return True


def _rounded_up(window: Window, image: tuple[int, ...], result: tuple[int, ...]) -> Window:
    """The window padded at its end so that rounding down gives the result."""
    rank = len(image)
    ends = [
        max(window.pads[rank + i], (result[i] - 1) * window.strides[i] + window.extent[i] - image[i] - window.pads[i])
        for i in range(rank)
    ]
    return Window(window.kernel_shape, window.strides, (*window.pads[:rank], *ends), window.dilations)
