"""Normalizations in Relax; means and deviations are computed in two passes, in float32."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tvm import relax

from blockfuse.build.emit_reductions import lp_norm
from blockfuse.build.operands import Emitter, Operands, Refusal, in_single

_MVN_EPSILON = 1e-9


def _batch_normalization(o: Operands) -> Any:
    """A factor and a summand per channel; computed parameters are as good as constants."""
    epsilon = o.op.attrs.get("epsilon", 1e-5)
    if any(value is not None for value in o.values[1:]):
        scale, shift, mean, variance = (o.along(position, 1) for position in range(1, 5))
        factor = relax.op.divide(scale, relax.op.sqrt(relax.op.add(variance, o.scalar(epsilon))))
        return relax.op.add(relax.op.multiply(relax.op.subtract(o.tensor(), mean), factor), shift)
    scale, shift, mean, variance = (np.asarray(o.data(position), np.float64) for position in range(1, 5))
    factor = scale / np.sqrt(variance + epsilon)
    dtype = o.described().dtype
    factors, summands = (o.vector(part.astype(dtype), 1) for part in (factor, shift - mean * factor))
    return relax.op.add(relax.op.multiply(o.tensor(), factors), summands)


def _instance_normalization(o: Operands) -> Any:
    epsilon = o.op.attrs.get("epsilon", 1e-5)
    value = in_single(o, lambda x: _normalized(x, o.spatial_axes(), epsilon)[0])
    return relax.op.add(relax.op.multiply(value, o.along(1, 1)), o.along(2, 1))


def _group_normalization(o: Operands) -> Any:
    """Groups of channels get an axis of their own; scale and shift are per channel."""
    groups, epsilon, shape = o.op.attrs["num_groups"], o.op.attrs.get("epsilon", 1e-5), o.described().shape
    if o.described(1).shape != shape[1:2]:
        raise Refusal("a scale per group")
    per_group = shape[1] // groups
    sizes = list(o.tensor().ty.shape)
    at = o.axis(1)
    split = [*sizes[:at], groups, per_group, *sizes[at + 1 :]]
    axes = [axis + (axis > at) for axis in o.spatial_axes()]

    def normalized(x: Any) -> Any:
        value = _normalized(relax.op.reshape(x, split), [*axes, at + 1], epsilon)[0]
        return relax.op.reshape(value, sizes)

    return relax.op.add(relax.op.multiply(in_single(o, normalized), o.along(1, 1)), o.along(2, 1))


def _layer_normalization(o: Operands) -> Any:
    """Over the channels of every pixel (``axes``), or over all axes from ``axis`` on; also mean and 1/deviation."""
    epsilon = o.op.attrs.get("epsilon", 1e-5)
    if "axes" in o.op.attrs:
        axes = [o.axis(axis) for axis in o.op.attrs["axes"]]
        scale, shift = o.along(1, 1), o.along(2, 1)
    else:
        axes = list(range(o.op.attrs.get("axis", -1) % o.rank, o.rank))
        scale, shift = o.tensor(1), o.tensor(2) if o.has(2) else None
    parts: list[Any] = []

    def normalized(x: Any) -> Any:
        parts[:] = _normalized(x, axes, epsilon)
        return parts[0]

    value = relax.op.multiply(in_single(o, normalized), scale)
    value = value if shift is None else relax.op.add(value, shift)
    return [value, *parts[1 : len(o.op.outputs)]]


def _rms_normalization(o: Operands) -> Any:
    axes = list(range(o.op.attrs.get("axis", -1) % o.rank, o.rank))
    epsilon = relax.const(float(o.op.attrs.get("epsilon", 1e-5)), "float32")

    def normalized(x: Any) -> Any:
        power = relax.op.mean(relax.op.multiply(x, x), axes, keepdims=True)
        return relax.op.divide(x, relax.op.sqrt(relax.op.add(power, epsilon)))

    return relax.op.multiply(in_single(o, normalized), o.tensor(1))


def _mean_variance_normalization(o: Operands) -> Any:
    axes = [o.axis(axis) for axis in o.op.attrs.get("axes", (0, 2, 3))]

    def normalized(x: Any) -> Any:
        centred, variance, _ = _moments(x, axes)
        return relax.op.divide(centred, relax.op.add(relax.op.sqrt(variance), relax.const(_MVN_EPSILON, "float32")))

    return in_single(o, normalized)


def _lp_normalization(o: Operands) -> Any:
    """``x`` over its norm, and 0 where that is 0."""
    axis, p = o.axis(o.op.attrs.get("axis", -1)), o.op.attrs.get("p", 2)

    def normalized(x: Any) -> Any:
        size = lp_norm(x, [axis], p)
        one = relax.const(1.0, "float32")
        return relax.op.divide(x, relax.op.where(relax.op.equal(size, relax.const(0.0, "float32")), one, size))

    return in_single(o, normalized)


def _local_response_normalization(o: Operands) -> Any:
    """``x / (bias + alpha / size * sum of x^2 over neighbouring channels)^beta``."""
    attrs, channels, at = o.op.attrs, o.described().shape[1], o.axis(1)
    size = attrs["size"]
    before, after = (size - 1) // 2, size // 2
    alpha, bias, beta = (attrs.get(key, value) for key, value in (("alpha", 1e-4), ("bias", 1.0), ("beta", 0.75)))

    def normalized(x: Any) -> Any:
        pads = [0] * (2 * o.rank)
        pads[2 * at : 2 * at + 2] = before, after
        squares = relax.op.nn.pad(relax.op.multiply(x, x), pads)
        total = None
        for offset in range(size):
            part = relax.op.strided_slice(squares, [at], [offset], [offset + channels])
            total = part if total is None else relax.op.add(total, part)
        factor = relax.op.multiply(total, relax.const(alpha / size, "float32"))
        base = relax.op.add(factor, relax.const(float(bias), "float32"))
        return relax.op.divide(x, relax.op.power(base, relax.const(float(beta), "float32")))

    return in_single(o, normalized)


def _moments(x: Any, axes: Sequence[int]) -> tuple[Any, Any, Any]:
    """The value less its mean, its variance and the mean, over axes that stay with size 1."""
    mean = relax.op.mean(x, list(axes), keepdims=True)
    centred = relax.op.subtract(x, mean)
    return centred, relax.op.mean(relax.op.multiply(centred, centred), list(axes), keepdims=True), mean


def _normalized(x: Any, axes: Sequence[int], epsilon: float) -> tuple[Any, Any, Any]:
    """The normalized value, the mean, and one over the deviation."""
    centred, variance, mean = _moments(x, axes)
    deviation = relax.op.sqrt(relax.op.add(variance, relax.const(float(epsilon), "float32")))
    return relax.op.divide(centred, deviation), mean, relax.op.divide(relax.const(1.0, "float32"), deviation)


NORMS: Mapping[str, Emitter] = {
    "BatchNormalization": _batch_normalization,
    "GroupNormalization": _group_normalization,
    "InstanceNormalization": _instance_normalization,
    "LRN": _local_response_normalization,
    "LayerNormalization": _layer_normalization,
    "LpNormalization": _lp_normalization,
    "MeanVarianceNormalization": _mean_variance_normalization,
    "RMSNormalization": _rms_normalization,
}
"""Emitters of normalizations."""
