"""A stage before it is part of a block, and what tensors are to stages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from blockfuse.graph import Graph, Op, Tensor
from blockfuse.stages import Array, ImageShape, Stage


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


def is_view(graph: Graph, op: Op) -> bool:
    """Whether an operator only writes an image of one pixel as a vector, or back: a block holds it as no stage."""
    if op.kind not in {"Flatten", "Reshape"}:
        return False
    before, after = graph.tensor(op.inputs[0]), graph.tensor(op.output)
    shape = image_shape(before)
    return shape is not None and shape == image_shape(after) and before.shape[0] == after.shape[0]


def image_shape(tensor: Tensor) -> ImageShape | None:
    """Size of one image of an N, C, H, W or N, C tensor of floats; None for other tensors."""
    if not tensor.dtype.startswith(("float", "bfloat")) or 0 in tensor.shape:
        return None
    if len(tensor.shape) == 4:
        return ImageShape(tensor.shape[2], tensor.shape[3], tensor.shape[1])
    return ImageShape(1, 1, tensor.shape[1]) if len(tensor.shape) == 2 else None
