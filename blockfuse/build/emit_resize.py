"""Resize in one pass: each output element is a weighted sum of few elements; axes that mix many are products before."""

from __future__ import annotations

import functools
import itertools
import math
import operator
from collections.abc import Mapping
from typing import Any

import numpy as np
from tvm import relax, te

from blockfuse.build.operands import Operands, Refusal
from blockfuse.build.resize import Axis, Filter, Taps, taps
from blockfuse.dtypes import numpy_type

_MAX_TAPS = 4
"""Above, an axis is resized by a product with a matrix."""


def emit_resize(o: Operands) -> Any:
    """All modes of ONNX's Resize; sizes, scales and region are constants."""
    attrs, value = o.op.attrs, o.tensor()
    how = Filter(
        attrs.get("mode", "nearest"),
        attrs.get("coordinate_transformation_mode", "half_pixel"),
        attrs.get("nearest_mode", "round_prefer_floor"),
        attrs.get("cubic_coeff_a", -0.75),
        bool(attrs.get("antialias", 0)),
        bool(attrs.get("exclude_outside", 0)),
    )
    dtype = o.described().dtype
    if how.mode != "nearest" and "float" not in dtype:
        raise Refusal(f"interpolation of {dtype}")
    changed = {
        number: taps(axis, how)
        for number, axis in _axes(o).items()
        if axis.result != axis.size or axis.scale != 1 or axis.region != (0.0, 1.0)
    }
    few = {number: table for number, table in changed.items() if table.indices.shape[1] <= _MAX_TAPS}
    for number in changed.keys() - few.keys():
        value = o.writer.builder.emit(_product(o, value, number, changed[number]))
    if few:
        value = _mixed(o, value, few, how)
    for number, table in changed.items():
        if table.outside.any():
            value = _extrapolated(o, value, number, table)
    return value


def _axes(o: Operands) -> dict[int, Axis]:
    """What happens to every axis, by its number."""
    attrs, shape = o.op.attrs, o.described().shape
    axes = [axis % o.rank for axis in attrs.get("axes", range(o.rank))]
    scales, sizes, region = o.data(2), o.data(3), o.data(1)
    crops = attrs.get("coordinate_transformation_mode") == "tf_crop_and_resize"
    if scales is not None and scales.size:
        factors = [float(scale) for scale in scales]
    elif sizes is not None and sizes.size:
        factors = [int(size) / shape[axis] for size, axis in zip(sizes, axes, strict=True)]
        policy = attrs.get("keep_aspect_ratio_policy", "stretch")
        if policy != "stretch":
            factors = [min(factors) if policy == "not_larger" else max(factors)] * len(axes)
    else:
        raise Refusal("neither scales nor sizes")
    found = {}
    for index, axis in enumerate(axes):
        bounds = (0.0, 1.0)
        if crops and region is not None:
            bounds = float(region[index]), float(region[index + len(axes)])
        found[axis] = Axis(shape[axis], o.shape[axis], factors[index], bounds)
    return found


def _mixed(o: Operands, value: Any, tables: Mapping[int, Taps], how: Filter) -> Any:
    """All axes that mix few elements at once: no image of theirs but the result goes through memory."""
    axes = [o.axis(number) for number in tables]
    taps = [range(table.indices.shape[1]) for table in tables.values()]
    indices = [o.writer.constant(np.asarray(table.indices, np.int32)) for table in tables.values()]
    weights = [o.writer.constant(table.weights.astype(np.float32)) for table in tables.values()]
    extents = [len(table.outside) for table in tables.values()]

    def resize(source: Any, *constants: Any) -> Any:
        rows, factors = constants[: len(axes)], constants[len(axes) :]
        shape = list(source.shape)
        for axis, extent in zip(axes, extents, strict=True):
            shape[axis] = extent

        def element(*at: Any) -> Any:
            parts = []
            for chosen in itertools.product(*taps):
                place = list(at)
                for axis, row, tap in zip(axes, rows, chosen, strict=True):
                    place[axis] = row[at[axis], tap]
                part = source(*place)
                if factors:
                    part = part.astype("float32")
                for axis, factor, tap in zip(axes, factors, chosen, strict=False):
                    part = part * factor[at[axis], tap]
                parts.append(part)
            return functools.reduce(operator.add, parts).astype(source.dtype)

        return te.compute(shape, element, name="resize")

    constants = indices if how.mode == "nearest" else [*indices, *weights]
    return o.writer.builder.call_te(resize, value, *constants, primfunc_name_hint="resize")


def _product(o: Operands, value: Any, axis: int, table: Taps) -> Any:
    """The axis as rows of a matrix times the table as a matrix."""
    size = o.described().shape[axis]
    matrix = np.zeros((size, len(table.outside)))
    for row, (indices, weights) in enumerate(zip(table.indices, table.weights, strict=True)):
        np.add.at(matrix[:, row], indices, weights)
    at = o.axis(axis)
    order = [*(index for index in range(o.rank) if index != at), at]
    back = [order.index(index) for index in range(o.rank)]
    rows = relax.op.permute_dims(value, order)
    product = relax.op.matmul(rows, o.writer.constant(matrix.astype(numpy_type(o.described().dtype))))
    return relax.op.permute_dims(product, back)


def _extrapolated(o: Operands, value: Any, axis: int, table: Taps) -> Any:
    """The extrapolation value where a coordinate lies outside."""
    fill = np.float32(o.op.attrs.get("extrapolation_value", 0.0))
    if not math.isfinite(fill):
        raise Refusal(f"the extrapolation value {fill}")
    dtype = o.described().dtype
    inside = o.vector((~table.outside).astype(numpy_type(dtype)), axis)
    return relax.op.add(
        relax.op.multiply(value, inside), o.vector((table.outside * fill).astype(numpy_type(dtype)), axis)
    )
