"""Blocks inside which channels lie side by side, as canonical graphs, with sizes that divide nothing."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from blockfuse.graph import Graph, Tensor
from tests.concat_networks import concat
from tests.small_graphs import Net


def share(net: Net, x: str, first: int, channels: int) -> str:
    """Some channels of an image."""
    n, _, h, w = net.shape(x)
    names = []
    for number in (first, first + channels, 1):
        names.append(f"bound{len(net.tensors)}")
        net.tensors[names[-1]] = Tensor(names[-1], (1,), "int64", np.array([number]))
    return net.op("Slice", (x, *names), (n, channels, h, w))


def shares(net: Net, x: str, *channels: int) -> list[str]:
    """All channels of an image, in shares."""
    firsts = np.cumsum([0, *channels])
    return [share(net, x, int(first), count) for first, count in zip(firsts, channels, strict=False)]


def ghost_module(net: Net, x: str, channels: int, *, active: bool) -> str:
    """Half a 1x1 convolution, half a depthwise one of that."""
    primary = net.conv(x, channels // 2, 1)
    primary = net.relu(primary) if active else primary
    cheap = net.depthwise(primary)
    return concat(net, primary, net.relu(cheap) if active else cheap)


def ghost(stride: int = 1, *, gated: bool = False, batch: int = 2) -> Graph:
    """A Ghost bottleneck (arXiv 1911.11907)."""
    net = Net((batch, 10, 9, 7))
    y = ghost_module(net, "x", 26, active=True)
    y = net.depthwise(y, 5, stride) if stride > 1 else y
    y = net.squeeze_excite(y, "HardSigmoid") if gated else y
    y = ghost_module(net, y, 14 if stride > 1 else 10, active=False)
    shortcut = net.conv(net.depthwise("x", 5, stride), 14, 1) if stride > 1 else "x"
    return net.graph(net.add(y, shortcut))


def fire(shape: tuple[int, int, int, int] = (2, 11, 7, 9), channels: tuple[int, int] = (5, 9)) -> Graph:
    """The fire module (arXiv 1602.07360)."""
    net = Net(shape)
    y = net.relu(net.conv("x", channels[0], 1))
    return net.graph(concat(net, net.relu(net.conv(y, channels[1] + 4, 1)), net.relu(net.conv(y, channels[1], 3))))


def res2net(scales: int = 4, stride: int = 1, *, gated: bool = False, batch: int = 2) -> Graph:
    """A bottleneck of several scales (arXiv 1904.01169)."""
    width = 5
    net = Net((batch, 12, 9, 8))
    parts = shares(net, net.relu(net.conv("x", width * scales, 1)), *[width] * scales)
    made: list[str] = []
    for part in parts[:-1]:
        source = net.add(made[-1], part) if made and stride == 1 else part
        made.append(net.relu(net.conv(source, width, 3, stride)))
    last = net.depthwise(parts[-1], 3, stride) if stride > 1 else parts[-1]
    y = net.conv(concat(net, *made, last), 12 if stride == 1 else 20, 1)
    y = net.squeeze_excite(y) if gated else y
    shortcut = net.conv("x", 20, 1, stride) if stride > 1 else "x"
    return net.graph(net.relu(net.add(y, shortcut)))


def mixed(kernels: int = 3, stride: int = 1, *, gated: bool = True, batch: int = 2) -> Graph:
    """An inverted residual with depthwise convolutions of several windows (arXiv 1907.09595)."""
    widths = (9, 6, 7, 5, 3)[:kernels]
    net = Net((batch, 10, 11, 8))
    wide = net.unary("Swish", net.conv("x", sum(widths), 1))
    parts = shares(net, wide, *widths)
    made = [net.unary("Swish", net.depthwise(part, 3 + 2 * i, stride)) for i, part in enumerate(parts)]
    y = concat(net, *made)
    y = net.conv(net.squeeze_excite(y) if gated else y, 10, 1)
    return net.graph(net.add(y, "x") if stride == 1 else y)


def rexnet(*, gated: bool = True, batch: int = 2) -> Graph:
    """An inverted residual whose shortcut is for the first channels alone (arXiv 2007.00992)."""
    net = Net((batch, 9, 7, 8))
    y = net.depthwise(net.unary("Swish", net.conv("x", 20, 1)))
    y = net.clip(net.squeeze_excite(y) if gated else y)
    return net.graph(concat(net, net.add(net.conv(y, 9, 1), "x"), net.conv(y, 6, 1)))


def inception_next(batch: int = 2) -> Graph:
    """Depthwise convolutions of shares of the channels before two 1x1 ones (arXiv 2303.16900)."""
    net = Net((batch, 17, 8, 9))
    first, *parts = shares(net, "x", 7, 3, 3, 4)
    y = concat(net, first, *[net.depthwise(part, size) for part, size in zip(parts, (3, 5, 1), strict=True)])
    y = net.conv(net.unary("Gelu", net.conv(y, 30, 1), approximate="none"), 17, 1)
    return net.graph(net.add(y, "x"))


def mixer(batch: int = 2) -> Graph:
    """The difference from the mean around a pixel, weighed, and a shortcut (arXiv 2111.11418)."""
    net = Net((batch, 7, 9, 8))
    y = net.relu("x")
    n, c, h, w = net.shape(y)
    window = {"kernel_shape": (3, 3), "strides": (1, 1), "pads": (1, 1, 1, 1), "dilations": (1, 1)}
    means = net.op("AveragePool", (y,), (n, c, h, w), ceil_mode=0, count_include_pad=0, **window)
    difference = net.op("Sub", (means, y), (n, c, h, w))
    return net.graph(net.add("x", net.scale(difference)))


def mlp(*, normalized: bool = False, batch: int = 2) -> Graph:
    """Two 1x1 convolutions of an image normalized as a whole, and a shortcut (arXiv 2111.11418)."""
    net = Net((batch, 7, 9, 8))
    parts = [net.constant(f"g{i}", net.rng.standard_normal(7)) for i in range(2)]
    y = net.op("GroupNormalization", ("x", *parts), net.shape("x"), num_groups=1, epsilon=1e-5)
    if normalized:
        parts = [net.constant(f"n{i}", abs(net.rng.standard_normal(7)) + 0.5) for i in range(4)]
        y = net.op("BatchNormalization", (y, *parts), net.shape(y), epsilon=1e-3)
    y = net.conv(net.unary("Gelu", net.conv(y, 21, 1), approximate="none"), 7, 1)
    return net.graph(net.add("x", y))


CASES: dict[str, tuple[str, Callable[[], Graph]]] = {
    "ghost": ("ghost_bottleneck", ghost),
    "ghost, gated": ("ghost_bottleneck", lambda: ghost(gated=True)),
    "ghost, stride 2": ("ghost_bottleneck", lambda: ghost(2)),
    "ghost, stride 2, gated": ("ghost_bottleneck", lambda: ghost(2, gated=True, batch=1)),
    "fire": ("fire_module", fire),
    "res2net": ("res2net_bottleneck", res2net),
    "res2net, gated": ("res2net_bottleneck", lambda: res2net(gated=True, batch=3)),
    "res2net, stride 2": ("res2net_bottleneck", lambda: res2net(4, 2)),
    "res2net, two scales": ("res2net_bottleneck", lambda: res2net(2)),
    "res2net, eight scales": ("res2net_bottleneck", lambda: res2net(8, batch=1)),
    "mixed": ("mixed_inverted_residual", mixed),
    "mixed, two windows, stride 2": ("mixed_inverted_residual", lambda: mixed(2, 2, gated=False)),
    "mixed, five windows": ("mixed_inverted_residual", lambda: mixed(5, batch=1)),
    "rexnet": ("rexnet_block", rexnet),
    "rexnet, not gated": ("rexnet_block", lambda: rexnet(gated=False)),
    "inception next": ("inception_next_block", inception_next),
}
"""By name, the pattern that finds a graph whole, and what makes it."""
