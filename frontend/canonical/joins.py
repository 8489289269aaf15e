"""Concatenations and splits of channels in one form, and what is done to each element before it is concatenated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from blockfuse.channels import CHANNELS, channel_ranges, is_of_channels
from blockfuse.frontend.canonical.rewriting import (
    add_constant,
    fresh,
    fresh_op,
    rewrite,
    sole_producer,
    substitute,
)
from blockfuse.graph import Graph, Op
from blockfuse.pattern.canonical import TAKEN_IN


@rewrite("Split")
def slices_of_split(graph: Graph, op: Op) -> bool:
    """A Split of the channels of images is a Slice for every result that is read."""
    ranges = channel_ranges(graph, op)
    if not ranges:
        return False
    graph.remove_op(op)
    for name, first in ranges.items():
        numbers = (first, first + graph.tensor(name).shape[CHANNELS], CHANNELS)
        bounds = [add_constant(graph, f"{op.name}.bounds", np.array([number], np.int64)) for number in numbers]
        graph.add_op(Op("Slice", fresh_op(graph, op.name), (op.inputs[0], *bounds), (name,), {}, op.origin))
    return True


@rewrite("Concat")
def conv_of_parts(graph: Graph, op: Op) -> bool:
    """A ``Concat`` of a ``Conv`` of every equal share of an image is one in groups, if all are alike (MixConv)."""
    convs = [sole_producer(graph, name, "Conv") for name in op.inputs]
    if len(convs) < 2 or not is_of_channels(graph, op):
        return False
    slices = [graph.producer(conv.inputs[0]) for conv in convs if conv is not None]
    if len(slices) < len(op.inputs) or not _are_shares(graph, slices):
        return False
    alike = {(tuple(sorted(conv.attrs.items())), graph.tensor(conv.inputs[1]).shape) for conv in convs if conv}
    constants = [[graph.constant(name) for name in conv.inputs[1:]] for conv in convs if conv]
    if len(alike) > 1 or any(len(values) < 2 or any(value is None for value in values) for values in constants):
        return False
    first, source = convs[0], slices[0]
    if first is None or source is None:
        return False
    stacked = [np.concatenate(values) for values in zip(*constants, strict=True)]
    names = [add_constant(graph, f"{first.name}.groups", value) for value in stacked]
    attrs = {**first.attrs, "group": first.attrs.get("group", 1) * len(convs)}
    absorbed = [conv for conv in convs if conv]
    substitute(graph, op, absorbed, "Conv", (source.inputs[0], *names), attrs, first.name)
    return True


def _are_shares(graph: Graph, slices: Sequence[Op | None]) -> bool:
    """Whether these are all channels of one image, in order."""
    sources, end = set(), 0
    for op in slices:
        if op is None or op.kind != "Slice" or channel_ranges(graph, op).get(op.output) != end:
            return False
        sources.add(op.inputs[0])
        end += graph.tensor(op.output).shape[CHANNELS]
    return len(sources) == 1 and end == graph.tensor(sources.pop()).shape[CHANNELS]


@rewrite("Concat")
def partial_shortcut(graph: Graph, op: Op) -> bool:
    """``Concat(Slice(Conv(x)) + y, Slice(Conv(x)))`` is ``Concat(Conv(x) + y, Conv(x))`` of fewer filters (ReXNet)."""
    add = sole_producer(graph, op.inputs[0], "Add")
    if add is None or len(op.inputs) != 2 or not is_of_channels(graph, op):
        return False
    rest = sole_producer(graph, op.inputs[1], "Slice")
    for name in add.inputs:
        first = sole_producer(graph, name, "Slice")
        if first is not None and rest is not None and _are_shares(graph, (first, rest)):
            return _divide(graph, (first, rest))
    return False


def _divide(graph: Graph, slices: tuple[Op, Op]) -> bool:
    """Make the convolution that both slices read two."""
    conv = graph.producer(slices[0].inputs[0])
    if conv is None or conv.kind != "Conv" or conv.attrs.get("group", 1) != 1 or len(conv.inputs) < 3:
        return False
    weight, bias = (graph.constant(name) for name in conv.inputs[1:])
    if weight is None or bias is None or len(graph.consumers(conv.output)) > 2 or graph.is_output(conv.output):
        return False
    for each in slices:
        graph.remove_op(each)
    graph.remove_op(conv)
    start = 0
    for each in slices:
        end = start + graph.tensor(each.output).shape[CHANNELS]
        names = [add_constant(graph, f"{conv.name}.part", value[start:end]) for value in (weight, bias)]
        graph.add_op(
            Op("Conv", fresh_op(graph, conv.name), (conv.inputs[0], *names), each.outputs, conv.attrs, conv.origin)
        )
        start = end
    return True


@rewrite(*TAKEN_IN)
def finish_before_concat(graph: Graph, op: Op) -> bool:
    """``Relu(Concat(Conv(x), Conv(y)))`` is ``Concat(Relu(Conv(x)), Relu(Conv(y)))``; so for all it can take in."""
    concat = sole_producer(graph, op.inputs[0], "Concat")
    if concat is None or len(op.outputs) > 1 or not is_of_channels(graph, concat):
        return False
    if len(set(concat.inputs)) < len(concat.inputs) or not all(_is_conv(graph, name) for name in concat.inputs):
        return False
    constants = [graph.constant(name) for name in op.inputs[1:]]
    width = graph.tensor(op.output).shape[CHANNELS]
    if any(value is None or value.shape != (width,) for value in constants):
        return False
    _finish(graph, op, concat, [value for value in constants if value is not None])
    return True


def _is_conv(graph: Graph, name: str) -> bool:
    """Whether an image is a convolution that only the concatenation reads."""
    return sole_producer(graph, name, "Conv") is not None


def _finish(graph: Graph, op: Op, concat: Op, constants: list[np.ndarray]) -> None:
    """Put the operator between the parts of a concatenation and that, with each part's share of its constants."""
    ends = np.cumsum([0, *(graph.tensor(name).shape[CHANNELS] for name in concat.inputs)])
    graph.remove_op(op)
    graph.remove_op(concat)
    names = []
    for part, (low, high) in zip(concat.inputs, pairwise(ends), strict=True):
        shares = [add_constant(graph, f"{op.name}.part", value[low:high]) for value in constants]
        names.append(fresh(graph, f"{part}.{op.kind.lower()}"))
        graph.add_tensor(replace(graph.tensor(part), name=names[-1]))
        graph.add_op(Op(op.kind, fresh_op(graph, op.name), (part, *shares), (names[-1],), op.attrs, op.origin))
    graph.add_op(Op("Concat", concat.name, tuple(names), op.outputs, concat.attrs, concat.origin))
