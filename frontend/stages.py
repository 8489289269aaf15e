"""From operators to stages: the one place that knows which operators a kernel can hold.

A new operator kind is one function and one entry in :data:`STAGES`, or in ``elementwise.py`` if it works on each
element by itself.
"""

from __future__ import annotations

import numpy as np

from blockfuse.channels import CHANNELS, channel_ranges, is_of_channels
from blockfuse.frontend.canonical.conv import image_frame
from blockfuse.frontend.drafts import NoStage, StageDraft, StageMaker, image_shape
from blockfuse.frontend.elementwise import ELEMENTWISE
from blockfuse.graph import Graph, Op
from blockfuse.stages import Array, Border, Concat, Conv, Depthwise, Frame, Grouped, Pool, Slice, Window


def stage_of(graph: Graph, op: Op) -> StageDraft | NoStage:
    """The stage an operator of a canonical graph becomes, or why there is none."""
    maker = STAGES.get(op.kind)
    if maker is None:
        return NoStage(f"{op.kind} has no stage: runs by itself{_REMARKS.get(op.kind, '')}")
    if any(op.outputs[1:]):
        return NoStage(f"{op.kind} with more than one result has no stage")
    computed = [name for name in op.inputs if name and not graph.tensor(name).is_constant]
    for name in (*computed[:1], op.output):
        if image_shape(graph.tensor(name)) is None:
            return NoStage(f"{op.kind} works on {name!r} of shape {list(graph.tensor(name).shape)}, which is no image")
    draft = maker(graph, op)
    return _checked(graph, op, draft) if isinstance(draft, StageDraft) else draft


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


def _max_pool(graph: Graph, op: Op) -> StageDraft | NoStage:
    return _pool(graph, op, Pool(op.name, (), "max", _window(op)))


def _average_pool(graph: Graph, op: Op) -> StageDraft | NoStage:
    window = _window(op)
    if op.attrs.get("count_include_pad", 0) and window.has_padding:
        return NoStage("AveragePool that counts the padding has no stage")
    return _pool(graph, op, Pool(op.name, (), "mean", window))


def _global_average_pool(graph: Graph, op: Op) -> StageDraft | NoStage:
    shape = graph.tensor(op.inputs[0]).shape
    if len(shape) != 4:
        return NoStage(f"GlobalAveragePool over {len(shape) - 2} dimensions has no stage")
    return _pool(graph, op, Pool(op.name, (), "mean", Window(*shape[2:])))


def _global_lp_pool(graph: Graph, op: Op) -> StageDraft | NoStage:
    shape, p = graph.tensor(op.inputs[0]).shape, op.attrs.get("p", 2)
    if len(shape) != 4 or p != 2:
        return NoStage(f"GlobalLpPool with p={p} over {len(shape) - 2} dimensions has no stage")
    return _pool(graph, op, Pool(op.name, (), "l2", Window(*shape[2:])))


def _pad(graph: Graph, op: Op) -> StageDraft | NoStage:
    """Reflected or repeated pixels around images; what is outside a framed image is never read."""
    mode, widths, shape = op.attrs.get("mode", "constant"), image_frame(graph, op), graph.tensor(op.inputs[0]).shape
    if mode not in {"reflect", "edge"}:
        return NoStage(f"Pad with mode {mode} that no window takes in has no stage")
    if widths is None or len(shape) != 4:
        return NoStage("Pad of other axes than rows and columns, or that cuts something off, has no stage")
    if mode == "reflect" and any(width >= size for width, size in zip(widths, shape[2:] * 2, strict=True)):
        return NoStage("Pad that reflects more than the image has no stage")
    return StageDraft(Border(op.name, (), Frame(mode, *widths)), op.inputs[:1])


def _concat(graph: Graph, op: Op) -> StageDraft | NoStage:
    if not is_of_channels(graph, op):
        return NoStage("Concat of anything but the channels of images has no stage")
    return StageDraft(Concat(op.name, ()), op.inputs)


def _slice(graph: Graph, op: Op) -> StageDraft | NoStage:
    """Neighbouring channels."""
    first = channel_ranges(graph, op).get(op.output)
    if first is None:
        return NoStage("Slice of anything but neighbouring channels of images has no stage")
    return StageDraft(Slice(op.name, (), first, graph.tensor(op.output).shape[CHANNELS]), op.inputs[:1])


STAGES: dict[str, StageMaker] = {
    **ELEMENTWISE,
    "AveragePool": _average_pool,
    "Concat": _concat,
    "Conv": _conv,
    "Gemm": _gemm,
    "GlobalAveragePool": _global_average_pool,
    "GlobalLpPool": _global_lp_pool,
    "MaxPool": _max_pool,
    "Pad": _pad,
    "Slice": _slice,
}


_REMARKS = dict.fromkeys(
    ("DequantizeLinear", "QuantizeLinear"), "; what is quantized is computed with dequantized numbers, in float32"
)
"""What is said of operators without a stage, beyond that."""


# ---- shared ----------------------------------------------------------------------------------------------------------
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
