"""Which layout every image has between steps, and where it must change.

Kernels read and write images with their channels last. Single ops run in whichever layout their inputs already have if
they can, otherwise as ONNX defines them. An image wanted in both layouts is converted once.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from blockfuse.build.network import Call, Network, Step, describe
from blockfuse.graph import Op
from blockfuse.runtime.library import Layout

TO_NHWC = (0, 2, 3, 1)
"""Where the axes of an N, H, W, C image lie in N, C, H, W."""

FROM_NHWC = (0, 3, 1, 2)
"""Where the axes of an N, C, H, W image lie in N, H, W, C."""

_ON_ELEMENTS = """
    Abs Add And Cast CastLike Ceil Celu Clip DequantizeLinear Div Elu Equal Erf Exp Floor Gelu Greater GreaterOrEqual
    HardSigmoid HardSwish Identity LeakyRelu Less LessOrEqual Log Max Mean Min Mish Mul Neg Not Or PRelu Pow
    QuantizeLinear Reciprocal Relu Round Selu Sigmoid Sign Softplus Softsign Sqrt Sub Swish Tanh ThresholdedRelu Where
    Xor
"""
_WITH_AXES = """
    ArgMax ArgMin AveragePool BatchNormalization Concat DepthToSpace Gather GlobalAveragePool GlobalLpPool GlobalMaxPool
    GroupNormalization InstanceNormalization LRN LayerNormalization LogSoftmax LpNormalization LpPool MaxPool
    MeanVarianceNormalization Pad ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin
    ReduceProd ReduceSum ReduceSumSquare Resize Slice Softmax SpaceToDepth Split
"""

CHANNELS_LAST = frozenset((*_ON_ELEMENTS.split(), *_WITH_AXES.split()))
"""Kinds of ops that can run on images with their channels last."""


@dataclass(frozen=True)
class Change:
    """A transposition.

    Attributes:
        value: The image.
        layout: What it is converted to.
        reader: The step that needs it first, or "the caller".
    """

    value: str
    layout: Layout
    reader: str


@dataclass(frozen=True)
class Layouts:
    """Where every image is in which layout.

    Attributes:
        steps: Per step, the layout it reads and writes; kernels may differ per input, see :func:`wanted`.
        values: The layout in which each image is made.
        changes: All transpositions of one run.
    """

    steps: tuple[Layout, ...]
    values: Mapping[str, Layout]
    changes: tuple[Change, ...]

    def of_output(self, network: Network, name: str) -> Layout:
        """The layout in which the code returns a value."""
        return self.values[name] if network.is_image(name) else Layout.PLAIN


def assign(network: Network, as_onnx: Collection[str] = ()) -> Layouts:
    """Decide the layout of every image, converting it at most once.

    Args:
        network: Its steps.
        as_onnx: Names of ops that only run as ONNX defines them.
    """
    values = {port.name: Layout.PLAIN for port in network.inputs if network.is_image(port.name)}
    available = set(values.items())
    steps: list[Layout] = []
    changes: list[Change] = []
    for step in network.steps:
        layout = Layout.NHWC if isinstance(step, Call) else _op_layout(network, step, values, as_onnx)
        steps.append(layout)
        for position, value in enumerate(step.inputs):
            want = wanted(step, layout, position)
            if network.is_image(value) and (value, want) not in available:
                available.add((value, want))
                changes.append(Change(value, want, describe(step)))
        outputs = (step.output,) if isinstance(step, Call) else step.outputs
        for value in filter(network.is_image, outputs):
            values[value] = layout
            available.add((value, layout))
    changes.extend(
        Change(port.name, Layout.PLAIN, "the caller")
        for port in network.outputs
        if network.is_image(port.name) and values[port.name] is Layout.NHWC
    )
    moved = tuple(change for change in changes if changes_order(network.tensors[change.value].shape))
    return Layouts(tuple(steps), MappingProxyType(values), moved)


def changes_order(shape: Sequence[int]) -> bool:
    """Whether an N, C, H, W image of that shape has another order of bytes as N, H, W, C."""
    _, channels, height, width = shape
    return channels > 1 and height * width > 1


def wanted(step: Step, layout: Layout, position: int) -> Layout:
    """The layout in which a step of that layout reads the image at one of its inputs."""
    if isinstance(step, Call):
        return Layout.PLAIN if position in step.nchw_inputs else Layout.NHWC
    return layout


def _op_layout(network: Network, op: Op, values: Mapping[str, Layout], as_onnx: Collection[str]) -> Layout:
    computed = [name for name in op.inputs if name and not network.is_constant(name)]
    if op.name in network.placement.free:
        return Layout.NHWC
    images = all(map(network.is_image, filter(None, (*computed, *op.outputs))))
    can = op.kind in CHANNELS_LAST and op.name not in as_onnx and images
    if can and _keeps_axes(network, op) and any(values[name] is Layout.NHWC for name in computed):
        return Layout.NHWC
    return Layout.PLAIN


def _keeps_axes(network: Network, op: Op) -> bool:
    """Whether the result has the axes of an image; a normalization of ONNX's own form needs its last axes last."""
    if op.kind == "Gather":
        return network.is_constant(op.inputs[1]) and len(network.tensors[op.inputs[1]].shape) == 1
    if op.kind == "LayerNormalization":
        return "axes" in op.attrs
    return not op.kind.startswith(("Arg", "Reduce")) or bool(op.attrs.get("keepdims", 1))
