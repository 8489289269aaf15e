"""Old spellings of operators become those of opset 20, so that an op means the same whatever opset it came from."""

from __future__ import annotations

import math

import numpy as np

from blockfuse.frontend.canonical.rewriting import add_constant, optional_input, rewrite, substitute
from blockfuse.graph import Graph, Op

_REDUCTIONS = (
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSum",
    "ReduceSumSquare",
)


@rewrite(*_REDUCTIONS)
def axes_as_input(graph: Graph, op: Op) -> bool:
    """``Reduce*(x, axes=[..])`` is ``Reduce*(x, axes)``; before opset 18 the axes are an attribute."""
    if "noop_with_empty_axes" in op.attrs:
        return False
    attrs = {"keepdims": op.attrs.get("keepdims", 1), "noop_with_empty_axes": 0}
    inputs = [op.inputs[0]]
    if "axes" in op.attrs:
        inputs.append(add_constant(graph, f"{op.name}.axes", np.array(op.attrs["axes"], np.int64)))
    substitute(graph, op, (), op.kind, inputs, attrs)
    return True


@rewrite("Pad")
def pads_as_input(graph: Graph, op: Op) -> bool:
    """``Pad(x, pads=[..], value=v)`` is ``Pad(x, pads, v)``; before opset 11 they are attributes."""
    if "pads" not in op.attrs:
        return False
    pads = add_constant(graph, f"{op.name}.pads", np.array(op.attrs["pads"], np.int64))
    fill = np.array(op.attrs.get("value", 0.0), graph.tensor(op.output).dtype)
    inputs = (op.inputs[0], pads, add_constant(graph, f"{op.name}.value", fill))
    substitute(graph, op, (), "Pad", inputs, {"mode": op.attrs.get("mode", "constant")})
    return True


@rewrite("Slice")
def bounds_as_input(graph: Graph, op: Op) -> bool:
    """``Slice(x, starts=[..], ends=[..], axes=[..])`` takes them as inputs; before opset 10 they are attributes."""
    if "starts" not in op.attrs:
        return False
    axes = op.attrs.get("axes", tuple(range(len(op.attrs["starts"]))))
    bounds = {"starts": op.attrs["starts"], "ends": op.attrs["ends"], "axes": axes}
    names = [add_constant(graph, f"{op.name}.{key}", np.array(value, np.int64)) for key, value in bounds.items()]
    substitute(graph, op, (), "Slice", (op.inputs[0], *names))
    return True


@rewrite("BatchNormalization")
def plain_batch_normalization(graph: Graph, op: Op) -> bool:
    """Only ``epsilon`` matters at inference; what old opsets and training add goes."""
    if set(op.attrs) == {"epsilon"} or op.attrs.get("training_mode", 0):
        return False
    if any(name and (graph.consumers(name) or graph.is_output(name)) for name in op.outputs[1:]):
        return False
    substitute(graph, op, (), op.kind, op.inputs, {"epsilon": op.attrs.get("epsilon", 1e-5)})
    return True


@rewrite("Upsample", "Resize")
def plain_resize(graph: Graph, op: Op) -> bool:
    """Before opset 11 pixels lie at whole coordinates and the one below counts, or above when the image shrinks."""
    if op.kind == "Resize" and len(op.inputs) != 2:
        return False
    if "scales" in op.attrs:
        scales = np.array(op.attrs["scales"], np.float32)
    else:
        known = graph.constant(op.inputs[1])
        if known is None:
            return False
        scales = known
    attrs = {"mode": op.attrs.get("mode", "nearest"), "coordinate_transformation_mode": "asymmetric"}
    if attrs["mode"] == "nearest":
        attrs["nearest_mode"] = "ceil" if (scales < 1).any() else "floor"
    name = add_constant(graph, f"{op.name}.scales", scales)
    substitute(graph, op, (), "Resize", (op.inputs[0], "", name), attrs)
    return True


@rewrite("Resize")
def sizes_of_scales(graph: Graph, op: Op) -> bool:
    """Scales that give whole sizes are written as sizes, which no change of type rounds."""
    scales = graph.constant(optional_input(op, 2))
    if scales is None or not scales.size or op.attrs.get("coordinate_transformation_mode") == "tf_crop_and_resize":
        return False
    before, after = graph.tensor(op.inputs[0]).shape, graph.tensor(op.output).shape
    axes = [axis % len(before) for axis in op.attrs.get("axes", range(len(before)))]
    if len(axes) != scales.size:
        return False
    exact = {axis: before[axis] * float(scale) for axis, scale in zip(axes, scales, strict=True)}
    moved = tuple(axis for axis in axes if before[axis] != after[axis])
    if not moved or not all(math.isclose(exact[axis], after[axis], rel_tol=1e-6) for axis in axes):
        return False
    sizes = add_constant(graph, f"{op.name}.sizes", np.array([after[axis] for axis in moved], np.int64))
    substitute(graph, op, (), "Resize", (op.inputs[0], "", "", sizes), {**op.attrs, "axes": moved})
    return True


@rewrite("GroupNormalization")
def plain_group_normalization(graph: Graph, op: Op) -> bool:
    """Scale and shift are per channel; before opset 21 they are per group."""
    channels, groups = graph.tensor(op.inputs[0]).shape[1], op.attrs["num_groups"]
    values = [graph.constant(name) for name in op.inputs[1:3]]
    attrs = {"num_groups": groups, "epsilon": op.attrs.get("epsilon", 1e-5)}
    if dict(op.attrs) == attrs and all(graph.tensor(name).shape == (channels,) for name in op.inputs[1:3]):
        return False
    names = list(op.inputs[1:3])
    for index, (key, value) in enumerate(zip(("scale", "shift"), values, strict=True)):
        if graph.tensor(names[index]).shape == (channels,):
            continue
        if value is None or value.shape != (groups,):
            return False
        names[index] = add_constant(graph, f"{op.name}.{key}", np.repeat(value, channels // groups))
    substitute(graph, op, (), op.kind, (op.inputs[0], *names), attrs)
    return True
