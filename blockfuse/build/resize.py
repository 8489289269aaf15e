"""Resize along one axis as a table: which elements every output element is made of, and with which weights.

Coordinates and filters are those of ONNX's Resize, whose two-dimensional filters are products of these.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Axis:
    """How one axis is resized.

    Attributes:
        size: Elements before.
        result: Elements after.
        scale: ``result / size`` before rounding.
        region: First and last coordinate as fractions of the axis, for ``tf_crop_and_resize``.
    """

    size: int
    result: int
    scale: float
    region: tuple[float, float] = (0.0, 1.0)


@dataclass(frozen=True)
class Filter:
    """How elements are mixed, in the words of ONNX's attributes."""

    mode: str = "nearest"
    coordinates: str = "half_pixel"
    nearest: str = "round_prefer_floor"
    cubic: float = -0.75
    antialias: bool = False
    exclude_outside: bool = False


@dataclass(frozen=True)
class Taps:
    """The table of an axis.

    Attributes:
        indices: [result, taps] elements read, all inside the axis.
        weights: [result, taps] what they are multiplied by; they add up to 1, or to 0 where ``outside``.
        outside: [result] whether an element lies outside and gets the extrapolation value.
    """

    indices: Array
    weights: Array
    outside: Array


def taps(axis: Axis, how: Filter) -> Taps:
    """The table of one axis."""
    x = _coordinates(axis, how.coordinates)
    outside = (x < 0) | (x > axis.size - 1) if how.coordinates == "tf_crop_and_resize" else np.zeros(x.shape, bool)
    if how.mode == "nearest":
        chosen = _nearest(x, axis.scale, how.nearest)
        indices, weights = chosen[:, None], np.ones((x.size, 1))
    else:
        indices, weights = _weighted(x, axis.scale, how)
    if how.exclude_outside:
        weights = np.where((indices < 0) | (indices >= axis.size), 0.0, weights)
        weights = weights / weights.sum(1, keepdims=True)
    weights = np.where(outside[:, None], 0.0, weights)
    return Taps(np.clip(indices, 0, axis.size - 1).astype(np.int32), weights, outside)


def _coordinates(axis: Axis, mode: str) -> Array:
    """Where the output elements lie on the axis before."""
    x, size = np.arange(axis.result, dtype=np.float64), axis.size
    length = axis.scale * size
    length = round(length) if math.isclose(length, round(length), rel_tol=1e-6) else length
    match mode:
        case "asymmetric":
            return np.asarray(x * size / length)
        case "align_corners":
            return np.zeros_like(x) if length == 1 else np.asarray(x * (size - 1) / (length - 1))
        case "pytorch_half_pixel":
            return np.full_like(x, -0.5) if axis.result == 1 else np.asarray((x + 0.5) * size / length - 0.5)
        case "half_pixel_symmetric":
            offset = size / 2 * (1 - axis.result / length)
            return np.asarray(offset + (x + 0.5) * size / length - 0.5)
        case "tf_crop_and_resize":
            first, last = axis.region
            if axis.result == 1:
                return np.full_like(x, 0.5 * (first + last) * (size - 1))
            return np.asarray(first * (size - 1) + x * (last - first) * (size - 1) / (axis.result - 1))
    return np.asarray((x + 0.5) * size / length - 0.5)


def _nearest(x: Array, scale: float, mode: str) -> Array:
    match mode:
        case "floor":
            return np.floor(x)
        case "ceil":
            return np.ceil(x)
        case "round_prefer_ceil":
            return np.floor(x + 0.5)
        case "simple":  # before opset 11
            return np.ceil(x) if scale < 1 else np.floor(x)
    return np.ceil(x - 0.5)


def _weighted(x: Array, scale: float, how: Filter) -> tuple[Array, Array]:
    """Neighbours, which may lie outside, and their weights."""
    reach = 1 if how.mode == "linear" else 2
    stretch = min(scale, 1.0) if how.antialias else 1.0
    start = math.floor(-reach / stretch) + 1
    offsets = np.arange(start, 2 - start)
    below = np.floor(x)
    distance = np.abs(offsets - (x - below)[:, None]) * stretch
    weights = np.clip(1 - distance, 0, 1) if how.mode == "linear" else _cubic(distance, how.cubic)
    return below[:, None] + offsets, weights / weights.sum(1, keepdims=True)


def _cubic(distance: Array, a: float) -> Array:
    """Keys' filter (IEEE Trans. ASSP 29, 1981)."""
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))
