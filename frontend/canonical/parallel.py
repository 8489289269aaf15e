"""Convolutions of one image that are added become one, as in RepVGG (arXiv 2101.03697) and MobileOne (2206.04040).

Those networks are trained with branches - a 3x3 and a 1x1 convolution, and the image itself, normalized - that together
are a single 3x3 convolution. Files exported without that step have them still.
"""

from __future__ import annotations

import numpy as np

from blockfuse.frontend.canonical.rewriting import Array, add_constant, along, rewrite, sole_producer, substitute
from blockfuse.graph import Graph, Op

_PARAMETERS = 5  # inputs of a normalization, with the image


@rewrite("Add")
def merge_parallel_convs(graph: Graph, op: Op) -> bool:
    """``Conv(x) + Conv(x)`` is a ``Conv`` if the windows of one lie centred in those of the other."""
    first, second = (_conv(graph, name) for name in op.inputs)
    if first is None or second is None or first is second or first.inputs[0] != second.inputs[0]:
        return False
    large, small = sorted((first, second), key=lambda conv: -np.prod(conv.attrs["kernel_shape"]))
    margins = _margins(large, small)
    if margins is None or graph.tensor(large.output).shape != graph.tensor(small.output).shape:
        return False
    weight = _data(graph, large, 1)
    rows, cols = margins
    r, s = small.attrs["kernel_shape"]
    weight[:, :, rows : rows + r, cols : cols + s] += _data(graph, small, 1)
    _become(graph, op, (small, large), weight, _data(graph, large, 2) + _data(graph, small, 2))
    return True


@rewrite("Add")
def merge_normalized_image(graph: Graph, op: Op) -> bool:
    """``Conv(x) + BatchNormalization(x)`` is a ``Conv`` if its windows are centred on the pixel they make."""
    for name, other in (op.inputs, op.inputs[::-1]):
        conv, norm = _conv(graph, name), sole_producer(graph, other, "BatchNormalization")
        if conv is None or norm is None or norm.inputs[0] != conv.inputs[0]:
            continue
        affine = _affine(graph, norm)
        if affine is None or not _is_centred(conv) or graph.tensor(name).shape != graph.tensor(conv.inputs[0]).shape:
            continue
        factor, shift = affine
        weight = _data(graph, conv, 1)
        outputs = np.arange(len(weight))
        middle = (size // 2 for size in conv.attrs["kernel_shape"])
        weight[(outputs, outputs % weight.shape[1], *middle)] += factor
        _become(graph, op, (norm, conv), weight, _data(graph, conv, 2) + shift)
        return True
    return False


def _conv(graph: Graph, name: str) -> Op | None:
    """The canonical convolution of an image with constant weights that alone is computed for one reader."""
    conv = sole_producer(graph, name, "Conv")
    if conv is None or len(conv.attrs.get("kernel_shape", ())) != 2 or "pads" not in conv.attrs or len(conv.inputs) < 3:
        return None
    return conv if all(graph.constant(part) is not None for part in conv.inputs[1:]) else None


def _data(graph: Graph, conv: Op, position: int) -> Array:
    value = graph.constant(conv.inputs[position])
    assert value is not None  # noqa: S101 - _conv saw it
    return np.array(value, np.float64)


def _margins(large: Op, small: Op) -> tuple[int, int] | None:
    """Rows and columns of the larger filter before the smaller one; None if their windows do not move together."""
    if any(large.attrs[key] != small.attrs[key] for key in ("strides", "group")):
        return None
    apart = [r - s for r, s in zip(large.attrs["kernel_shape"], small.attrs["kernel_shape"], strict=True)]
    steps = large.attrs["dilations"]
    if min(apart) < 0 or (small.attrs["dilations"] != steps and max(small.attrs["kernel_shape"]) > 1):
        return None
    before = [large.attrs["pads"][axis] - small.attrs["pads"][axis] for axis in range(2)]
    margins = [number // step for number, step in zip(before, steps, strict=True)]
    exact = all(number % step == 0 for number, step in zip(before, steps, strict=True))
    inside = all(0 <= margin <= room for margin, room in zip(margins, apart, strict=True))
    return (margins[0], margins[1]) if exact and inside else None


def _is_centred(conv: Op) -> bool:
    """Whether output pixel (p, q) has input pixel (p, q) in the middle of its window."""
    sizes, steps, pads = (conv.attrs[key] for key in ("kernel_shape", "dilations", "pads"))
    reach = [size // 2 * step for size, step in zip(sizes, steps, strict=True)]
    return tuple(conv.attrs["strides"]) == (1, 1) and all(size % 2 for size in sizes) and list(pads[:2]) == reach


def _affine(graph: Graph, norm: Op) -> tuple[Array, Array] | None:
    """Factor and shift per channel of a normalization with constant parameters."""
    shape = graph.tensor(norm.inputs[0]).shape
    found = [along(graph.constant(name), (1, shape[1]), 1) for name in norm.inputs[1:_PARAMETERS]]
    if len(found) < _PARAMETERS - 1 or any(value is None for value in found):
        return None
    scale, shift, mean, variance = (np.asarray(value) for value in found)
    factor = scale / np.sqrt(variance + norm.attrs.get("epsilon", 1e-5))
    return factor, shift - mean * factor


def _become(graph: Graph, op: Op, absorbed: tuple[Op, Op], weight: Array, bias: Array) -> None:
    """Put one convolution, with the attributes of the last absorbed one, in the place of the sum."""
    conv = absorbed[-1]
    dtype = graph.tensor(conv.inputs[1]).dtype
    names = (
        add_constant(graph, f"{conv.name}.weight", weight.astype(dtype)),
        add_constant(graph, f"{conv.name}.bias", bias.astype(dtype)),
    )
    substitute(graph, op, absorbed, "Conv", (conv.inputs[0], *names), conv.attrs, conv.name)
