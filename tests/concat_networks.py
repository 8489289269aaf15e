"""Networks whose images are concatenated and split by channels, from seeded generators."""

from __future__ import annotations

import numpy as np

from blockfuse.graph import Graph, Op, Tensor
from tests.small_graphs import Net


def concat(net: Net, *parts: str) -> str:
    n, _, h, w = net.shape(parts[0])
    return net.op("Concat", parts, (n, sum(net.shape(part)[1] for part in parts), h, w), axis=1)


def split(net: Net, x: str, first: int) -> tuple[str, str]:
    """The first channels of an image and the rest."""
    n, channels, h, w = net.shape(x)
    name = f"split{len(net.ops)}"
    net.tensors[f"{name}_sizes"] = Tensor(f"{name}_sizes", (2,), "int64", np.array([first, channels - first]))
    outputs = (f"{name}_a", f"{name}_b")
    for output, size in zip(outputs, (first, channels - first), strict=True):
        net.tensors[output] = Tensor(output, (n, size, h, w), "float32")
    net.ops.append(Op("Split", name, (x, f"{name}_sizes"), outputs, {"axis": 1}, (name,)))
    return outputs


def dense_block(seed: int, *, nested: bool, step: int = 1) -> Graph:
    """Every layer reads the results of all before it, as in DenseNet; channel counts are multiples of ``step``."""
    rng = np.random.default_rng(seed)
    net = Net((int(rng.integers(1, 4)), 3, *rng.integers(5, 10, 2).tolist()), seed)
    parts = [net.relu(net.conv("x", step * int(rng.integers(1, 20)), 3))]
    joined = parts[0]
    for _ in range(4):
        layer = net.conv(net.relu(net.conv(joined, step * int(rng.integers(1, 20)), 1)), step * int(rng.integers(1, 9)))
        parts.append(layer)
        joined = concat(net, joined, layer) if nested else concat(net, *parts)
    return net.graph(net.conv(joined, step, 1))


def c2f(seed: int, step: int = 1) -> Graph:
    """Both halves of an image and what is made of the second one, one after the other, side by side, as in YOLOv8."""
    rng = np.random.default_rng(seed)
    net = Net((int(rng.integers(1, 4)), 3, *rng.integers(5, 10, 2).tolist()), seed)
    first, second = (step * int(rng.integers(1, 20)) for _ in range(2))
    parts = [*split(net, net.unary("Swish", net.conv("x", first + second, 1)), first)]
    for _ in range(2):
        y = net.unary("Swish", net.conv(net.unary("Swish", net.conv(parts[-1], second)), second))
        parts.append(net.add(parts[-1], y))
    return net.graph(net.conv(concat(net, *parts), step, 1))


def random_graph(seed: int, step: int = 1) -> Graph:
    """Convolutions, concatenations, splits, and readers that are no kernels, in any order; one to three outputs."""
    rng = np.random.default_rng(seed)
    net = Net((int(rng.choice((1, 3))), 4, *rng.integers(4, 9, 2).tolist()), seed)
    values = [net.conv("x", step * int(rng.integers(1, 20))) for _ in range(2)]
    for _ in range(int(rng.integers(6, 14))):
        x = str(rng.choice(values[-5:]))
        wide = net.shape(x)[1]
        kind = rng.choice(["conv", "pointwise", "concat", "split", "softplus", "lrn", "relu"], p=_CHANCES)
        if kind == "concat":
            names = rng.choice(values, min(len(values), int(rng.integers(2, 5))), replace=False)
            values.append(concat(net, *map(str, names)))
        elif kind == "split" and wide > step:
            values += split(net, x, step * int(rng.integers(1, -(-wide // step))))
        elif kind == "softplus":
            values.append(net.unary("Softplus", x))
        elif kind == "lrn":
            values.append(net.unary("LRN", x, size=3))
        elif kind == "relu":
            values.append(net.relu(x))
        else:
            values.append(net.conv(x, step * int(rng.integers(1, 20)), 3 if kind == "conv" else 1))
    extra = rng.choice(values, int(rng.integers(0, 3)), replace=False).tolist()
    return net.graph(*dict.fromkeys([values[-1], *extra]))


_CHANCES = (0.3, 0.2, 0.25, 0.12, 0.04, 0.03, 0.06)
