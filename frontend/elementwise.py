"""Stages that work on each element or pixel by itself: activations, sums, products, scales, normalizations."""

from __future__ import annotations

from math import isfinite, prod

import numpy as np

from blockfuse.frontend.canonical.rewriting import along
from blockfuse.frontend.drafts import NoStage, StageDraft, StageMaker
from blockfuse.graph import Graph, Op
from blockfuse.stages import Activation, Add, Array, Function, Multiply, Norm, Scale, Slope


def _layer_normalization(graph: Graph, op: Op) -> StageDraft | NoStage:
    if op.attrs.get("axes") != (1,):
        return NoStage("LayerNormalization over other axes than the channels has no stage")
    parameters = _parameters(graph, op, "scale", "shift")
    if parameters is None:
        return NoStage("LayerNormalization by computed values has no stage")
    return StageDraft(Norm(op.name, (), float(op.attrs["epsilon"])), op.inputs[:1], parameters)


def _mean_normalization(graph: Graph, op: Op) -> StageDraft | NoStage:
    """One that canonical graphs alone have, of lengths of channels."""
    parameters = _parameters(graph, op, "scale", "shift")
    if parameters is None:
        return NoStage("MeanNormalization by computed values has no stage")
    return StageDraft(Norm(op.name, (), float(op.attrs["epsilon"]), "mean"), op.inputs[:1], parameters)


def _batch_normalization(graph: Graph, op: Op) -> StageDraft | NoStage:
    """One no convolution could take in, such as those before the convolutions of a pre-activation network."""
    parameters = _parameters(graph, op, "scale", "shift", "mean", "variance")
    if parameters is None:
        return NoStage("BatchNormalization by computed values has no stage")
    scale, shift, mean, variance = (np.asarray(value, np.float64) for value in parameters.values())
    factor = scale / np.sqrt(variance + op.attrs.get("epsilon", 1e-5))
    return _scale(graph, op, op.inputs[0], factor, shift - mean * factor)


def _simple(kind: str) -> StageMaker:
    """The maker of an activation without constants."""
    return lambda _, op: _activation(op, Function(kind))


def _hard_sigmoid(_: Graph, op: Op) -> StageDraft | NoStage:
    return _activation(op, Function("hard_sigmoid", slope=op.attrs["alpha"], offset=op.attrs["beta"]))


def _leaky_relu(_: Graph, op: Op) -> StageDraft | NoStage:
    return _activation(op, Function("leaky_relu", slope=op.attrs.get("alpha", 0.01)))


def _elu(_: Graph, op: Op) -> StageDraft | NoStage:
    alpha = float(op.attrs.get("alpha", 1.0))
    gain = float(op.attrs["gamma"]) if op.kind == "Selu" else 1.0
    rate = 1 / alpha if op.kind == "Celu" else 1.0
    return _activation(op, Function("elu", slope=gain * alpha, gain=gain, rate=rate))


def _prelu(graph: Graph, op: Op) -> StageDraft | NoStage:
    constant = graph.constant(op.inputs[1])
    if constant is None:
        return NoStage("PRelu with a slope that is computed has no stage")
    slope = along(constant, graph.tensor(op.inputs[0]).shape, 1)
    if slope is None:
        return NoStage("PRelu with a slope that differs between pixels has no stage")
    if np.all(slope == slope[0]):
        return _activation(op, Function("leaky_relu", slope=float(slope[0])))
    return StageDraft(Slope(op.name, ()), op.inputs[:1], {"slope": slope.astype(constant.dtype)})


def _gelu(_: Graph, op: Op) -> StageDraft | NoStage:
    return _activation(op, Function("gelu_tanh" if op.attrs.get("approximate") == "tanh" else "gelu"))


def _clip(_: Graph, op: Op) -> StageDraft | NoStage:
    low, high = float(op.attrs.get("min", -np.inf)), float(op.attrs.get("max", np.inf))
    if (low, high) == (0.0, np.inf):
        return _activation(op, Function("relu"))
    if not (isfinite(low) and isfinite(high)):
        return NoStage(f"Clip to {low:g} ... {high:g} has no stage: both bounds must be finite")
    return _activation(op, Function("clip", low, high))


def _add(graph: Graph, op: Op) -> StageDraft | NoStage:
    for image, other in (op.inputs, op.inputs[::-1]):
        shift = along(graph.constant(other), graph.tensor(image).shape, 1)
        if shift is not None:
            return _scale(graph, op, image, np.ones_like(shift), shift)
    shapes = [list(graph.tensor(name).shape) for name in op.inputs]
    if any(graph.tensor(name).is_constant for name in op.inputs):
        return NoStage("Add of a constant that differs between pixels has no stage")
    if shapes[0] != shapes[1]:
        return NoStage(f"Add that broadcasts {shapes[0]} and {shapes[1]} has no stage")
    return StageDraft(Add(op.name, ()), op.inputs)


def _mul(graph: Graph, op: Op) -> StageDraft | NoStage:
    for image, other in (op.inputs, op.inputs[::-1]):
        factor = along(graph.constant(other), graph.tensor(image).shape, 1)
        if factor is not None:
            return _scale(graph, op, image, factor, np.zeros_like(factor))
    if any(graph.tensor(name).is_constant for name in op.inputs):
        return NoStage("Mul by a constant that differs between pixels has no stage")
    image, gate = sorted(op.inputs, key=lambda name: -prod(graph.tensor(name).shape))
    shape, gate_shape = graph.tensor(image).shape, graph.tensor(gate).shape
    if gate_shape not in {shape, (*shape[:2], *[1] * (len(shape) - 2))}:
        return NoStage(f"Mul that broadcasts {list(shape)} and {list(gate_shape)} has no stage")
    return StageDraft(Multiply(op.name, ()), (image, gate))


ELEMENTWISE: dict[str, StageMaker] = {
    "Abs": _simple("abs"),
    "Add": _add,
    "BatchNormalization": _batch_normalization,
    "Celu": _elu,
    "Clip": _clip,
    "Elu": _elu,
    "Gelu": _gelu,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _simple("hard_swish"),
    "LayerNormalization": _layer_normalization,
    "LeakyRelu": _leaky_relu,
    "MeanNormalization": _mean_normalization,
    "Mish": _simple("mish"),
    "Mul": _mul,
    "PRelu": _prelu,
    "Relu": _simple("relu"),
    "Selu": _elu,
    "Sigmoid": _simple("sigmoid"),
    "Softplus": _simple("softplus"),
    "Softsign": _simple("softsign"),
    "Swish": _simple("silu"),
    "Tanh": _simple("tanh"),
}


# ---- shared ----------------------------------------------------------------------------------------------------------
def _activation(op: Op, function: Function) -> StageDraft:
    return StageDraft(Activation(op.name, (), function), op.inputs[:1])


def _scale(graph: Graph, op: Op, image: str, scale: Array, shift: Array) -> StageDraft:
    """A factor and a summand per channel, rounded to the type of the image."""
    dtype = graph.tensor(image).dtype
    return StageDraft(Scale(op.name, ()), (image,), {"scale": scale.astype(dtype), "shift": shift.astype(dtype)})


def _parameters(graph: Graph, op: Op, *names: str) -> dict[str, Array] | None:
    """An operator's constants after its image, if each has one number per channel."""
    values = {name: graph.constant(part) for name, part in zip(names, op.inputs[1:], strict=False)}
    channels = graph.tensor(op.inputs[0]).shape[1:2]
    known = {name: value for name, value in values.items() if value is not None and value.shape == channels}
    return known if len(known) == len(names) else None
