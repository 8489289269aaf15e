"""Concatenations and splits of channels in one form, and what is done to each element before it is concatenated."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np

from blockfuse.channels import CHANNELS, channel_ranges, is_of_channels
from blockfuse.frontend.canonical.channels_last import UNARY
from blockfuse.frontend.canonical.rewriting import add_constant, fresh, fresh_op, rewrite, sole_producer
from blockfuse.graph import Graph, Op


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


@rewrite("BatchNormalization", *UNARY)
def finish_before_concat(graph: Graph, op: Op) -> bool:
    """Normalization or activation of concatenated convolutions is that of every one, which takes it in."""
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
