"""Ops with a sliding window in Relax, over one to three axes: poolings, and convolutions without a kernel."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import relax

from blockfuse.build.operands import Array, Emitter, Operands, Refusal

_MAX_POOLS = {3: relax.op.nn.max_pool1d, 4: relax.op.nn.max_pool2d, 5: relax.op.nn.max_pool3d}
_MEAN_POOLS = {3: relax.op.nn.avg_pool1d, 4: relax.op.nn.avg_pool2d, 5: relax.op.nn.avg_pool3d}
_CONVOLUTIONS = {3: relax.op.nn.conv1d, 4: relax.op.nn.conv2d, 5: relax.op.nn.conv3d}
_TRANSPOSED = {3: relax.op.nn.conv1d_transpose, 4: relax.op.nn.conv2d_transpose, 5: relax.op.nn.conv3d_transpose}


@dataclass(frozen=True)
class _Window:
    """The window of a pool per spatial axis; ``ends`` reach to the last element of the last window."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    begins: tuple[int, ...]
    ends: tuple[int, ...]
    declared_ends: tuple[int, ...]
    dilations: tuple[int, ...]

    @property
    def pads(self) -> list[int]:
        """As Relax takes them."""
        return [*self.begins, *self.ends]


def _window(o: Operands) -> _Window:
    if o.rank not in _MAX_POOLS or o.op.attrs.get("auto_pad", "NOTSET") != "NOTSET":
        raise Refusal("a pool over another number of axes than one, two or three")
    attrs, image, result = o.op.attrs, o.described().shape[2:], o.shape[2:]
    axes = len(image)
    kernel = tuple(attrs["kernel_shape"])
    strides, dilations = (tuple(attrs.get(key, (1,) * axes)) for key in ("strides", "dilations"))
    pads = tuple(attrs.get("pads", (0,) * 2 * axes))
    begins, declared = pads[:axes], pads[axes:]
    reach = [(result[i] - 1) * strides[i] + (kernel[i] - 1) * dilations[i] + 1 for i in range(axes)]
    ends = tuple(max(declared[i], reach[i] - image[i] - begins[i]) for i in range(axes))
    return _Window(kernel, strides, begins, ends, declared, dilations)


def _max_pool(o: Operands) -> Any:
    if len(o.op.outputs) > 1:
        raise Refusal("the positions of the maxima")
    window = _window(o)
    return _MAX_POOLS[o.rank](
        o.tensor(), window.kernel, window.strides, window.pads, window.dilations, layout=o.image_layout
    )


def _mean(o: Operands, window: _Window, value: Any) -> Any:
    """The sum of every window over its size, padding included."""
    return _MEAN_POOLS[o.rank](
        value,
        window.kernel,
        window.strides,
        window.pads,
        window.dilations,
        count_include_pad=True,
        layout=o.image_layout,
    )


def _average_pool(o: Operands) -> Any:
    window = _window(o)
    mean = _mean(o, window, o.tensor())
    count = _counted(o, window, with_pads=bool(o.op.attrs.get("count_include_pad", 0)))
    area = math.prod(window.kernel)
    if (count == area).all():
        return mean
    factor = (area / count).astype(np.float32)[None, None]
    factor = np.moveaxis(factor, 1, -1) if o.is_last else factor
    constant = o.writer.constant(np.ascontiguousarray(factor))
    return relax.op.astype(relax.op.multiply(relax.op.astype(mean, "float32"), constant), o.result.dtype)


def _counted(o: Operands, window: _Window, *, with_pads: bool) -> Array:
    """How many elements each window averages over, by spatial axes."""
    count: Array = np.ones(())
    for i, size in enumerate(o.described().shape[2:]):
        low = -window.begins[i] if with_pads else 0
        high = size + (window.declared_ends[i] if with_pads else 0)
        starts = np.arange(o.shape[2 + i]) * window.strides[i] - window.begins[i]
        taps = starts[:, None] + np.arange(window.kernel[i]) * window.dilations[i]
        count = count[..., None] * ((taps >= low) & (taps < high)).sum(1)
    return count


def _lp_pool(o: Operands) -> Any:
    """``(sum of |x|^p)^(1/p)`` of every window."""
    window, p, dtype = _window(o), float(o.op.attrs.get("p", 2)), o.result.dtype
    powers = relax.op.power(relax.op.abs(o.tensor()), relax.const(p, dtype))
    total = relax.op.multiply(_mean(o, window, powers), relax.const(float(math.prod(window.kernel)), dtype))
    return relax.op.power(total, relax.const(1 / p, dtype))


def _convolution(o: Operands) -> Any:
    """One over other than two axes, or with a filter that is computed; TVM's own, which is slow."""
    if o.rank not in _CONVOLUTIONS:
        raise Refusal("a convolution over more than three axes")
    attrs = o.op.attrs
    result = _CONVOLUTIONS[o.rank](
        o.tensor(),
        o.tensor(1),
        strides=attrs["strides"],
        padding=attrs["pads"],
        dilation=attrs["dilations"],
        groups=attrs["group"],
        data_layout=o.image_layout,
        kernel_layout={3: "OIW", 4: "OIHW", 5: "OIDHW"}[o.rank],
    )
    return _with_bias(o, result)


def _transposed_convolution(o: Operands) -> Any:
    """One that no convolution could take the place of; TVM's own, which is slow."""
    attrs = o.op.attrs
    if o.rank not in _TRANSPOSED or any(step != 1 for step in attrs["dilations"]):
        raise Refusal("a transposed convolution with dilation")
    result = _TRANSPOSED[o.rank](
        o.tensor(),
        o.tensor(1),
        strides=attrs["strides"],
        padding=[0] * (2 * (o.rank - 2)),
        output_padding=[0] * (o.rank - 2),
        groups=attrs["group"],
        data_layout=o.image_layout,
        kernel_layout={3: "IOW", 4: "IOHW", 5: "IODHW"}[o.rank],
    )
    return _with_bias(o, _cropped(o, o.writer.builder.emit(result), attrs["pads"]))


def _cropped(o: Operands, value: Any, pads: Sequence[int]) -> Any:
    """The full result less its pads, or with zeros behind it where output padding reaches further."""
    axes = range(2, o.rank)
    full = [int(value.ty.shape[axis]) for axis in axes]
    behind = [max(0, pads[i] + o.shape[2 + i] - full[i]) for i in range(len(full))]
    if any(behind):
        value = relax.op.nn.pad(value, [0, 0, 0, 0, *(part for size in behind for part in (0, size))])
    begins = [pads[i] for i in range(len(full))]
    ends = [pads[i] + o.shape[2 + i] for i in range(len(full))]
    return relax.op.strided_slice(value, list(axes), begins, ends)


def _with_bias(o: Operands, value: Any) -> Any:
    return relax.op.add(value, o.along(2, 1)) if o.has(2) else value


WINDOWS: Mapping[str, Emitter] = {
    "AveragePool": _average_pool,
    "Conv": _convolution,
    "ConvTranspose": _transposed_convolution,
    "LpPool": _lp_pool,
    "MaxPool": _max_pool,
}
"""Emitters of ops with a window."""
