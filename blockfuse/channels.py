"""Operators that only say where channels of images are: concatenation, split and slice along them."""

from __future__ import annotations

from itertools import accumulate

from blockfuse.graph import Graph, Op

IMAGE_RANK = 4
CHANNELS = 1
"""Axis of N, C, H, W."""


def is_of_channels(graph: Graph, op: Op) -> bool:
    """Whether an operator with an axis works on the channels of images."""
    rank = len(graph.tensor(op.outputs[0]).shape)
    return rank == IMAGE_RANK and int(op.attrs.get("axis", 0)) % rank == CHANNELS


def channel_ranges(graph: Graph, op: Op) -> dict[str, int]:
    """First channel of every result of a split or slice of channels; nothing for other operators."""
    if op.kind == "Split" and is_of_channels(graph, op):
        names = [name for name in op.outputs if name]
        if len(names) < len(op.outputs):
            return {}
        firsts = [0, *accumulate(graph.tensor(name).shape[CHANNELS] for name in names)]
        return dict(zip(names, firsts, strict=False))
    if op.kind == "Slice" and len(graph.tensor(op.output).shape) == IMAGE_RANK:
        return _sliced(graph, op)
    return {}


def _sliced(graph: Graph, op: Op) -> dict[str, int]:
    """First channel of a slice of channels with constant bounds, in order."""
    names = dict(zip(("starts", "ends", "axes", "steps"), op.inputs[1:], strict=False))
    bounds = {key: graph.tensor(name).value for key, name in names.items() if name}
    constants = {key: value.reshape(-1).tolist() for key, value in bounds.items() if value is not None}
    axes, steps = constants.get("axes"), constants.get("steps", [1])
    if len(constants) < len(bounds) or axes not in ([CHANNELS], [CHANNELS - IMAGE_RANK]) or steps != [1]:
        return {}
    (start,), size = constants["starts"], graph.tensor(op.inputs[0]).shape[CHANNELS]
    return {op.output: max(start + size, 0) if start < 0 else min(start, size)}
