"""Blocks inside which channels lie side by side: Ghost modules, the fire module, Res2Net, mixed kernels, ReXNet.

After Han et al., "GhostNet" (arXiv 1911.11907), Tang et al., "GhostNetV2" (arXiv 2211.12905), Iandola et al.,
"SqueezeNet" (arXiv 1602.07360), Gao et al., "Res2Net" (arXiv 1904.01169), Tan and Le, "MixConv" (arXiv 1907.09595), and
Han et al., "ReXNet" (arXiv 2007.00992).
"""

from __future__ import annotations

from blockfuse.frontend.patterns.parts import activation, ghost_module, squeeze_excite
from blockfuse.pattern import Ops, Value, either, optional, pattern


@pattern
def ghost_bottleneck(
    op: Ops,
    x: Value,
    w1: Value,
    b1: Value,
    w2: Value,
    b2: Value,
    attention: Value,
    wd: Value,
    bd: Value,
    wq: Value,
    bq: Value,
    we: Value,
    be: Value,
    w3: Value,
    b3: Value,
    w4: Value,
    b4: Value,
    ws: Value,
    bs: Value,
    wc: Value,
    bc: Value,
) -> Value:
    """Two Ghost modules, each half a 1x1 convolution and half a depthwise one of that, and a shortcut.

    Where the size halves a depthwise convolution stands in the middle and one in the shortcut. The attention of
    GhostNetV2 comes from outside.
    """
    y = ghost_module(op, x, (w1, b1, w2, b2), "first")
    y = optional(y, lambda y: op.Mul(y, attention, name="attention"))
    y = optional(y, lambda y: op.Conv(y, wd, bd, depthwise=True, name="depthwise"))
    y = squeeze_excite(op, y, wq, bq, we, be)
    y = ghost_module(op, y, (w3, b3, w4, b4), "second")
    small = op.Conv(op.Conv(x, ws, bs, depthwise=True, name="shrink"), wc, bc, kernel_shape=(1, 1), name="projection")
    return op.Add(y, either(x, small), name="add")


@pattern
def fire_module(op: Ops, x: Value, w1: Value, b1: Value, w2: Value, b2: Value, w3: Value, b3: Value) -> Value:
    """A 1x1 convolution to few channels; a 1x1 and a 3x3 one of these, side by side: SqueezeNet."""
    y = activation(op, op.Conv(x, w1, b1, kernel_shape=(1, 1), group=1, name="squeeze"))
    narrow = activation(op, op.Conv(y, w2, b2, kernel_shape=(1, 1), group=1, name="expand1x1"))
    wide = activation(op, op.Conv(y, w3, b3, kernel_shape=(3, 3), group=1, name="expand3x3"))
    return op.Concat(narrow, wide, name="concat")
