"""From operators to stages: the one place that knows which operators a kernel can hold.

A new operator kind is one function here and one entry in :data:`STAGES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import isfinite, prod

import numpy as np

from blockfuse.frontend.canonical.rewriting import along
from blockfuse.graph import Graph, Op, Tensor
from blockfuse.stages import (
    Activation,
    Add,
    Array,
    Conv,
    Depthwise,
    Function,
    Grouped,
    ImageShape,
    Multiply,
    Norm,
    Pool,
    Scale,
    Stage,
    Window,
)


@dataclass(frozen=True)
class StageDraft:
    """A stage that does not yet know the numbers of the values it reads.

    Attributes:
        stage: With no inputs.
        reads: Names of the computed tensors it reads, in the order of its inputs.
        parameters: Its constants.
    """

    stage: Stage
    reads: tuple[str, ...]
    parameters: Mapping[str, Array] = field(default_factory=dict)


@dataclass(frozen=True)
class NoStage:
    """Why an operator cannot be part of a kernel; false as a condition."""

    reason: str

    def __bool__(self) -> bool:
        return False

    def __str__(self) -> str:
        return self.reason


StageMaker = Callable[[Graph, Op], StageDraft | NoStage]


def stage_of(graph: Graph, op: Op) -> StageDraft | NoStage:
    """The stage an operator of a canonical graph becomes, or why there is none."""
    maker = STAGES.get(op.kind)
    if maker is None:
        return NoStage(f"{op.kind} has no stage: runs by itself")
    if any(op.outputs[1:]):
        return NoStage(f"{op.kind} with more than one result has no stage")
    for name in (*op.inputs[:1], op.output):
        if image_shape(graph.tensor(name)) is None:
            return NoStage(f"{op.kind} works on {name!r} of shape {list(graph.tensor(name).shape)}, which is no image")
    draft = maker(graph, op)
    return _checked(graph, op, draft) if isinstance(draft, StageDraft) else draft


def is_view(graph: Graph, op: Op) -> bool:
    """Whether an operator only writes an image of one pixel as a vector, or back: a block holds it as no stage."""
    if op.kind not in {"Flatten", "Reshape"}:
        return False
    before, after = graph.tensor(op.inputs[0]), graph.tensor(op.output)
    shape = image_shape(before)
    return shape is not None and shape.pixels == 1 and shape == image_shape(after) and before.shape[0] == after.shape[0]


def image_shape(tensor: Tensor) -> ImageShape | None:
    """Size of one image of an N, C, H, W or N, C tensor of floats; None for other tensors."""
    if not tensor.dtype.startswith(("float", "bfloat")) or 0 in tensor.shape:
        return None
    if len(tensor.shape) == 4:
        return ImageShape(tensor.shape[2], tensor.shape[3], tensor.shape[1])
    return ImageShape(1, 1, tensor.shape[1]) if len(tensor.shape) == 2 else None


def _checked(graph: Graph, op: Op, draft: StageDraft) -> StageDraft | NoStage:
    """The draft, unless it reads a constant as an image or its result has another shape than the model says."""
    shapes = [image_shape(graph.tensor(name)) for name in draft.reads]
    images = [shape for shape in shapes if shape is not None]
    if len(images) < len(shapes) or any(graph.tensor(name).is_constant for name in draft.reads):
        return NoStage(f"{op.kind} reads a value that is no image")
    made, wanted = draft.stage.output_shape(images), image_shape(graph.tensor(op.output))
    if made != wanted:
        return NoStage(f"{op.kind} makes {wanted} in the model, and {made} as a stage")
    return draft


# ---- one function per operator kind ----------------------------------------------------------------------------------
def _conv(graph: Graph, op: Op) -> StageDraft | NoStage:
    weight = graph.constant(op.inputs[1])
    if weight is None:
        return NoStage("Conv with a weight that is computed has no stage")
    if weight.ndim != 4:
        return NoStage(f"Conv over {weight.ndim - 2} dimensions has no stage")
    outputs, per_group = weight.shape[:2]
    parameters = _with_bias(graph, op, weight)
    if isinstance(parameters, NoStage):
        return parameters
    window, group = _window(op), op.attrs.get("group", 1)
    if group == 1:
        return StageDraft(Conv(op.name, (), outputs, window), op.inputs[:1], parameters)
    if group == outputs and per_group == 1:
        return StageDraft(Depthwise(op.name, (), window), op.inputs[:1], parameters)
    return StageDraft(Grouped(op.name, (), outputs, group, window), op.inputs[:1], parameters)


def _gemm(graph: Graph, op: Op) -> StageDraft | NoStage:
    """A fully connected layer is a pointwise convolution of an image of one pixel."""
    weight = graph.constant(op.inputs[1])
    if weight is None:
        return NoStage("Gemm of two computed values has no stage")
    if len(graph.tensor(op.inputs[0]).shape) != 2:
        return NoStage("Gemm of an image has no stage")
    outputs, inputs = weight.shape
    parameters = _with_bias(graph, op, weight.reshape(outputs, inputs, 1, 1))
    if isinstance(parameters, NoStage):
        return parameters
    return StageDraft(Conv(op.name, (), outputs, Window()), op.inputs[:1], parameters)


def _layer_normalization(graph: Graph, op: Op) -> StageDraft | NoStage:
    if op.attrs.get("axes") != (1,):
        return NoStage("LayerNormalization over other axes than the channels has no stage")
    parameters = _parameters(graph, op, "scale", "shift")
    if parameters is None:
        return NoStage("LayerNormalization by computed values has no stage")
    return StageDraft(Norm(op.name, (), float(op.attrs["epsilon"])), op.inputs[:1], parameters)


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


def _max_pool(graph: Graph, op: Op) -> StageDraft | NoStage:
    return _pool(graph, op, Pool(op.name, (), "max", _window(op)))


def _average_pool(graph: Graph, op: Op) -> StageDraft | NoStage:
    window = _window(op)
    if op.attrs.get("count_include_pad", 0) and window.has_padding:
        return NoStage("AveragePool that counts the padding has no stage")
    return _pool(graph, op, Pool(op.name, (), "mean", window))


def _global_average_pool(graph: Graph, op: Op) -> StageDraft | NoStage:
    height, width = graph.tensor(op.inputs[0]).shape[2:]
    return _pool(graph, op, Pool(op.name, (), "mean", Window(height, width)))


STAGES: dict[str, StageMaker] = {
    "Add": _add,
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_normalization,
    "Clip": _clip,
    "Conv": _conv,
    "Gelu": _gelu,
    "Gemm": _gemm,
    "GlobalAveragePool": _global_average_pool,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _simple("hard_swish"),
    "LayerNormalization": _layer_normalization,
    "LeakyRelu": _leaky_relu,
    "MaxPool": _max_pool,
    "Mul": _mul,
    "Relu": _simple("relu"),
    "Sigmoid": _simple("sigmoid"),
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


def _pool(graph: Graph, op: Op, pool: Pool) -> StageDraft | NoStage:
    """A pool whose windows all begin inside the padded image, and hold a pixel of it."""
    shape, window = image_shape(graph.tensor(op.inputs[0])), pool.window
    if shape is None or len(graph.tensor(op.inputs[0]).shape) != 4:
        return NoStage(f"{op.kind} of a value that is no image has no stage")
    if op.attrs.get("ceil_mode", 0) and pool.output_shape([shape]) != image_shape(graph.tensor(op.output)):
        return NoStage(f"{op.kind} with ceil_mode whose last windows reach over the edge has no stage")
    if (
        max(window.pad_top, window.pad_bottom) >= window.extent_h
        or max(window.pad_left, window.pad_right) >= window.extent_w
    ):
        return NoStage(f"{op.kind} with windows of padding alone has no stage")
    return StageDraft(pool, op.inputs[:1])


def _with_bias(graph: Graph, op: Op, weight: Array) -> dict[str, Array] | NoStage:
    name = op.inputs[2] if len(op.inputs) > 2 else ""
    bias = graph.constant(name) if name else np.zeros(weight.shape[0], weight.dtype)
    if bias is None:
        return NoStage(f"{op.kind} with a bias that is computed has no stage")
    if bias.shape != weight.shape[:1]:
        return NoStage(f"{op.kind} with a bias of shape {list(bias.shape)} has no stage")
    return {"weight": weight, "bias": bias}


def _window(op: Op) -> Window:
    r, s = op.attrs["kernel_shape"]
    stride_h, stride_w = op.attrs.get("strides", (1, 1))
    dilation_h, dilation_w = op.attrs.get("dilations", (1, 1))
    top, left, bottom, right = op.attrs.get("pads", (0, 0, 0, 0))
    return Window(r, s, stride_h, stride_w, dilation_h, dilation_w, top, left, bottom, right)
