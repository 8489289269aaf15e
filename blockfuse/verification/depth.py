"""How many terms are added up on the way to a tensor: what rounding errors, and so tolerances, depend on."""

from __future__ import annotations

import math
from collections.abc import Callable

from blockfuse.graph import Graph, Op


def path_depths(graph: Graph) -> dict[str, tuple[int, int]]:
    """For every computed tensor the terms added up along the deepest path to it, and the ops of the longest one."""
    depths = dict.fromkeys(graph.inputs, (0, 0))
    for op in graph.ops():
        reads = [depths[name] for name in op.inputs if name in depths]
        terms = max((terms for terms, _ in reads), default=0) + _terms(graph, op)
        ops = max((ops for _, ops in reads), default=0) + 1
        depths.update(dict.fromkeys(filter(None, op.outputs), (terms, ops)))
    return depths


def _terms(graph: Graph, op: Op) -> int:
    """Number of terms that an op adds up for one element of its result."""
    shapes = [graph.tensor(name).shape if name else () for name in op.inputs]
    image = graph.tensor(op.output).shape
    if op.kind.startswith("Reduce"):
        return max(1, math.prod(shapes[0]) // max(1, math.prod(image)))
    per_kind: dict[str, Callable[[], int]] = {
        "Conv": lambda: math.prod(shapes[1][1:]),
        "ConvTranspose": lambda: shapes[0][1] // op.attrs.get("group", 1) * math.prod(shapes[1][2:]),
        "Gemm": lambda: shapes[1][1],
        "MatMul": lambda: shapes[0][-1],
        "AveragePool": lambda: math.prod(op.attrs.get("kernel_shape", ())),
        "GlobalAveragePool": lambda: math.prod(shapes[0][2:]),
        "GroupNormalization": lambda: math.prod(shapes[0][1:]),
        "InstanceNormalization": lambda: math.prod(shapes[0][2:]),
        "LayerNormalization": lambda: math.prod(shapes[0][1:]) if "axes" not in op.attrs else shapes[0][1],
        "LogSoftmax": lambda: shapes[0][op.attrs.get("axis", -1)],
        "Resize": lambda: _resize_terms(image, str(op.attrs.get("mode", "nearest"))),
        "Softmax": lambda: shapes[0][op.attrs.get("axis", -1)],
    }
    count = per_kind.get(op.kind)
    return max(1, count()) if count else 1


def _resize_terms(image: tuple[int, ...], mode: str) -> int:
    """As many terms as make an error like that of a weight.

    A coordinate is a float32 number up to the image's size L, and off by some eps * L, and so is the weight it gives. A
    sum of n terms may be off by five times eps * sqrt(n / 12): the same for n = 2 L^2, allowing twice as much.
    """
    return 1 if mode == "nearest" else 2 * max(image[2:], default=1) ** 2
