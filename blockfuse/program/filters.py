"""The numbers that a slice of a filter stands for."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from blockfuse.machine import WeightSlice
from blockfuse.stages import Array


def filter_slice(weights: WeightSlice, data: Array, env: Mapping[str, int]) -> Array:
    """A slice as [taps, inputs, outputs]; channels that the filter does not have, and those of other groups, are zero.

    Args:
        weights: Which part.
        data: The filter [outputs, inputs of a group, R, S].
        env: The loop variables.
    """
    taps, inputs, outputs = (part.at(env) for part in (weights.taps, weights.inputs, weights.outputs))
    flat = np.asarray(data).reshape(data.shape[0], data.shape[1], -1).transpose(2, 1, 0)[taps.start : taps.stop]
    out = np.zeros((len(taps), len(inputs), len(outputs)), flat.dtype)
    width, per_group = data.shape[1], data.shape[0] // weights.groups
    for group in range(weights.groups):
        rows = _overlap(inputs, range(group * width, (group + 1) * width))
        columns = _overlap(outputs, range(group * per_group, (group + 1) * per_group))
        part = flat[:, rows.start - group * width : rows.stop - group * width, columns.start : columns.stop]
        low, left = rows.start - inputs.start, columns.start - outputs.start
        out[: len(flat), low : low + len(rows), left : left + len(columns)] = part
    return out


def _overlap(a: range, b: range) -> range:
    """What two ranges have in common; empty, at the start of the first, where that is nothing."""
    low, high = max(a.start, b.start), min(a.stop, b.stop)
    return range(low, high) if low < high else range(a.start, a.start)
