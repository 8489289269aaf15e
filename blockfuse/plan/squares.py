"""Squares of pixels of an input as the channels of one pixel: what the kernel at a GPU network's border can write.

That kernel converts the input and puts its channels last anyway, so a SpaceToDepth of it, and the zeros of a Pad before
that, are a matter of where it writes what. Such operators are no steps of a plan.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from blockfuse.dtypes import COMPUTED, HALF
from blockfuse.graph import Graph, Op

MOST_CHANNELS = 8192
"""Channels that the result may have, so that one of its pixels fits into shared memory."""


@dataclass(frozen=True)
class Squares:
    """An image that is made of the squares of pixels of another.

    Pixel y, x of its channel (i * size + j) * C + c is pixel y * size + i - top, x * size + j - left of channel c of
    the other, which has C, or zero where there is no such pixel.

    Attributes:
        source: Name of the other image, which is an input, or its conversion from half precision.
        result: Its own name.
        size: Of a square, in pixels along each side.
        top: Rows of zeros above the other image.
        left: Columns of zeros before it.
        ops: Names of the operators that this is the work of.
    """

    source: str
    result: str
    size: int
    top: int
    left: int
    ops: tuple[str, ...]

    def __str__(self) -> str:
        return f"squares of {self.size}x{self.size} pixels of {self.source!r} as channels"


def is_entering(graph: Graph, name: str) -> bool:
    """Whether a value is an image that a kernel at the border makes of an input, and that one operator alone reads."""
    tensor, producer = graph.tensor(name), graph.producer(name)
    if tensor.dtype != COMPUTED or len(tensor.shape) != 4 or not _is_for_one(graph, name):
        return False
    if producer is None:
        return name in graph.inputs
    source = producer.inputs[0]
    return producer.kind == "Cast" and source in graph.inputs and graph.tensor(source).dtype in HALF


def squares_of(graph: Graph) -> tuple[Squares, ...]:
    """What the kernels at the border of a graph's inputs can make; it must be canonical."""
    found = (_squares(graph, op) for op in graph.ops() if op.kind == "SpaceToDepth")
    return tuple(squares for squares in found if squares is not None)


def _squares(graph: Graph, op: Op) -> Squares | None:
    if graph.tensor(op.output).shape[1] > MOST_CHANNELS:
        return None
    pad = graph.producer(op.inputs[0])
    if pad is None or pad.kind != "Pad" or not _is_for_one(graph, pad.output):
        return _entering(graph, op, op.inputs[0], (0, 0), (op.name,))
    front = _zeros_in_front(graph, pad)
    return None if front is None else _entering(graph, op, pad.inputs[0], front, (pad.name, op.name))


def _entering(graph: Graph, op: Op, source: str, front: tuple[int, int], ops: tuple[str, ...]) -> Squares | None:
    return Squares(source, op.output, op.attrs["blocksize"], *front, ops) if is_entering(graph, source) else None


def _zeros_in_front(graph: Graph, pad: Op) -> tuple[int, int] | None:
    """Rows and columns of zeros that a Pad puts before an image; None if it does anything else but at its end."""
    _, pads, fill, axes = (*pad.inputs, "", "")[:4]
    amounts, value = graph.constant(pads), graph.constant(fill)
    if pad.attrs.get("mode", "constant") != "constant" or axes or amounts is None:
        return None
    if fill and (value is None or np.any(value != 0)):
        return None
    before, behind = amounts.reshape(2, 4).tolist()
    if any((*before[:2], *behind[:2])) or min(before) < 0:
        return None
    return before[2], before[3]


def _is_for_one(graph: Graph, name: str) -> bool:
    return len(graph.consumers(name)) == 1 and not graph.is_output(name)
