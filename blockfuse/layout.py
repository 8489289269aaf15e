"""Which layout every image has between steps, and where it must change.

Kernels read and write images with their channels last. Single ops run in whichever layout their inputs already have if
they can, otherwise as ONNX defines them. An image wanted in both layouts is converted once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from blockfuse.graph import Op
from blockfuse.library import Layout
from blockfuse.network import Call, Network, Step, describe

ELEMENTWISE = frozenset(
    "Abs Add Ceil Clip Div Elu Erf Exp Floor HardSigmoid HardSwish Identity LeakyRelu Log Max Min Mul Neg Pow "
    "Reciprocal Relu Sigmoid Softplus Sqrt Sub Tanh".split()
)
"""Ops that treat every element alike, with broadcasting."""

CHANNELS_LAST = ELEMENTWISE | frozenset(
    "AveragePool Concat GlobalAveragePool GlobalMaxPool MaxPool ReduceMax ReduceMean ReduceSum Softmax".split()
)
"""Ops that can run on images with their channels last."""


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


def assign(network: Network) -> Layouts:
    """Decide the layout of every image, without converting more often than each reader needs."""
    values = {port.name: Layout.PLAIN for port in network.inputs if network.is_image(port.name)}
    available = {(name, layout) for name, layout in values.items()}
    steps: list[Layout] = []
    changes: list[Change] = []
    for step in network.steps:
        layout = Layout.NHWC if isinstance(step, Call) else _op_layout(network, step, values)
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
    for port in network.outputs:
        if network.is_image(port.name) and values[port.name] is Layout.NHWC:
            changes.append(Change(port.name, Layout.PLAIN, "the caller"))
    return Layouts(tuple(steps), MappingProxyType(values), tuple(changes))


def wanted(step: Step, layout: Layout, position: int) -> Layout:
    """The layout in which a step of that layout reads the image at one of its inputs."""
    if isinstance(step, Call):
        return Layout.PLAIN if position in step.nchw_inputs else Layout.NHWC
    return layout


def _op_layout(network: Network, op: Op, values: Mapping[str, Layout]) -> Layout:
    computed = [name for name in op.inputs if name and not network.is_constant(name)]
    runs_channels_last = op.kind in CHANNELS_LAST and all(network.is_image(name) for name in computed)
    reduces_to_other_rank = op.kind.startswith("Reduce") and not op.attrs.get("keepdims", 1)
    if runs_channels_last and not reduces_to_other_rank and any(values[name] is Layout.NHWC for name in computed):
        return Layout.NHWC
    return Layout.PLAIN
