"""Convolutions: every attribute explicit, a bias always, and what follows or precedes linearly folded in."""

from __future__ import annotations

import numpy as np

from blockfuse.frontend.canonical.rewriting import (
    Array,
    add_constant,
    along,
    optional_input,
    rewrite,
    sole_producer,
    substitute,
)
from blockfuse.frontend.canonical.windows import window_of
from blockfuse.graph import Graph, Op


@rewrite("Conv")
def explicit_conv(graph: Graph, op: Op) -> bool:
    """Spell out the window, resolve ``auto_pad``, and give every convolution a bias."""
    image, weight = graph.tensor(op.inputs[0]), graph.tensor(op.inputs[1])
    window = window_of(op.attrs, weight.shape[2:], image.shape[2:])
    attrs = {**window.attrs, "group": op.attrs.get("group", 1)}
    bias = optional_input(op, 2)
    if bias and dict(op.attrs) == attrs:
        return False
    if not bias:
        bias = add_constant(graph, f"{op.name}.bias", np.zeros(weight.shape[0], weight.dtype))
    substitute(graph, op, (), "Conv", (*op.inputs[:2], bias), attrs)
    return True


@rewrite("BatchNormalization")
def fold_batch_normalization(graph: Graph, op: Op) -> bool:
    """``BatchNormalization(Conv(x))`` is a ``Conv`` with other weights."""
    conv = _constant_conv(graph, op.inputs[0])
    if conv is None or op.attrs.get("training_mode", 0):
        return False
    parameters = [graph.constant(name) for name in op.inputs[1:5]]
    if any(value is None for value in parameters):
        return False
    scale, shift, mean, variance = (np.asarray(value, np.float64) for value in parameters)
    factor = scale / np.sqrt(variance + op.attrs.get("epsilon", 1e-5))
    _fold_affine(graph, op, conv, factor, shift - mean * factor)
    return True


@rewrite("Mul", "Add")
def fold_channel_constant(graph: Graph, op: Op) -> bool:
    """``Conv(x) * c`` and ``Conv(x) + c`` with one constant per channel are a ``Conv``."""
    for image, other in (op.inputs, op.inputs[::-1]):
        conv = _constant_conv(graph, image)
        shape = graph.tensor(image).shape
        constant = along(graph.constant(other), shape, 1)
        if conv is None or constant is None or graph.tensor(op.output).shape != shape:
            continue
        if op.kind == "Mul":
            _fold_affine(graph, op, conv, constant, np.zeros_like(constant))
        else:
            _fold_affine(graph, op, conv, np.ones_like(constant), constant)
        return True
    return False


@rewrite("Conv")
def fold_pad(graph: Graph, op: Op) -> bool:
    """``Conv(Pad(x))`` with zeros around the image is a ``Conv`` with larger pads."""
    pad = graph.producer(op.inputs[0])
    if pad is None or pad.kind != "Pad" or "pads" not in op.attrs:
        return False
    added = image_pads(graph, pad)
    if added is None:
        return False
    pads = tuple(old + new for old, new in zip(op.attrs["pads"], added, strict=True))
    substitute(graph, op, (pad,), "Conv", (pad.inputs[0], *op.inputs[1:]), {**op.attrs, "pads": pads})
    return True


def _constant_conv(graph: Graph, name: str) -> Op | None:
    """The convolution with constant weights that alone is computed for one reader."""
    conv = sole_producer(graph, name, "Conv")
    if conv is None or len(conv.inputs) < 3 or any(graph.constant(part) is None for part in conv.inputs[1:]):
        return None
    return conv


def _fold_affine(graph: Graph, op: Op, conv: Op, factor: Array, shift: Array) -> None:
    """Make ``conv`` compute ``factor * conv(x) + shift`` per output channel, in place of ``op``."""
    weight, bias = (graph.tensor(name) for name in conv.inputs[1:])
    per_filter = factor.reshape(-1, *[1] * (len(weight.shape) - 1))
    new_weight = (np.asarray(weight.value, np.float64) * per_filter).astype(weight.dtype)
    new_bias = (np.asarray(bias.value, np.float64) * factor + shift).astype(bias.dtype)
    names = (add_constant(graph, f"{conv.name}.weight", new_weight), add_constant(graph, f"{conv.name}.bias", new_bias))
    substitute(graph, op, (conv,), "Conv", (conv.inputs[0], *names), conv.attrs, conv.name)


def image_pads(graph: Graph, pad: Op) -> list[int] | None:
    """Zeros that a Pad puts before and after the spatial axes; None if it does anything else."""
    fill = optional_input(pad, 2)
    fill_value = graph.constant(fill)
    if pad.attrs.get("mode", "constant") != "constant" or (fill and (fill_value is None or np.any(fill_value != 0))):
        return None
    return image_frame(graph, pad)


def image_frame(graph: Graph, pad: Op) -> list[int] | None:
    """Pixels that a Pad of any mode puts before and after the spatial axes; None if it does anything else."""
    pads, axes_name = graph.constant(optional_input(pad, 1)), optional_input(pad, 3)
    if pads is None:
        return None
    rank = len(graph.tensor(pad.inputs[0]).shape)
    axes = graph.constant(axes_name) if axes_name else np.arange(rank)
    if axes is None:
        return None
    amounts = np.zeros((2, rank), np.int64)
    amounts[:, np.asarray(axes) % rank] = pads.reshape(2, -1)
    if amounts.min() < 0 or amounts[:, :2].any():
        return None
    return [int(amount) for amount in amounts[:, 2:].reshape(-1)]
