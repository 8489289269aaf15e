"""Blocks inside which channels lie side by side: Ghost modules, the fire module, Res2Net, InceptionNeXt.

After Han et al., "GhostNet" (arXiv 1911.11907), Tang et al., "GhostNetV2" (arXiv 2211.12905), Iandola et al.,
"SqueezeNet" (arXiv 1602.07360), Gao et al., "Res2Net" (arXiv 1904.01169), and Yu et al., "InceptionNeXt"
(arXiv 2303.16900).
"""

from __future__ import annotations

from collections.abc import Sequence

from blockfuse.frontend.patterns.parts import activation, ghost_module, shortcut, squeeze_excite
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


def _res2net_shares(
    op: Ops, y: Value, parameters: Sequence[tuple[Value, Value]], last: tuple[Value, Value]
) -> list[Value]:
    """Two, four, six or eight shares side by side, each but the last one through a 3x3 convolution."""
    shares = [op.Slice(y, name=f"share{number}") for number in range(8)]
    made: list[Value] = []
    for number, (w, b) in enumerate(parameters):
        source = either(op.Add(made[-1], shares[number]), shares[number]) if made else shares[number]
        made.append(activation(op, op.Conv(source, w, b, kernel_shape=(3, 3), name=f"conv{number}")))
    joined = []
    for count in (2, 4, 6, 8):
        share = shares[count - 1]
        rest = either(share, op.Conv(share, *last, depthwise=True), op.AveragePool(share))
        joined.append(op.Concat(*made[: count - 1], rest))
    return joined


@pattern
def res2net_bottleneck(
    op: Ops,
    x: Value,
    w1: Value,
    b1: Value,
    w2: Value,
    b2: Value,
    w3: Value,
    b3: Value,
    w4: Value,
    b4: Value,
    w5: Value,
    b5: Value,
    w6: Value,
    b6: Value,
    w7: Value,
    b7: Value,
    w8: Value,
    b8: Value,
    wp: Value,
    bp: Value,
    w9: Value,
    b9: Value,
    wq: Value,
    bq: Value,
    we: Value,
    be: Value,
    wb: Value,
    bb: Value,
    ws: Value,
    bs: Value,
) -> Value:
    """A bottleneck whose 3x3 convolution is several, each of a share of the channels and the result before it.

    There are two, four, six or eight shares, and the last one is passed on as it is, or pooled where the size changes.
    """
    y = activation(op, op.Conv(x, w1, b1, kernel_shape=(1, 1), group=1, name="reduce"))
    parameters = ((w2, b2), (w3, b3), (w4, b4), (w5, b5), (w6, b6), (w7, b7), (w8, b8))
    y = either(*_res2net_shares(op, y, parameters, (wp, bp)))
    y = op.Conv(y, w9, b9, kernel_shape=(1, 1), group=1, name="expand")
    y = squeeze_excite(op, y, wq, bq, we, be)
    return activation(op, op.Add(y, shortcut(op, x, ws, bs, wb, bb), name="add"))


@pattern
def inception_next_block(
    op: Ops,
    x: Value,
    w1: Value,
    b1: Value,
    w2: Value,
    b2: Value,
    w3: Value,
    b3: Value,
    scale: Value,
    shift: Value,
    mean: Value,
    variance: Value,
    w4: Value,
    b4: Value,
    w5: Value,
    b5: Value,
) -> Value:
    """Three depthwise convolutions of different windows, each of some channels, and two 1x1 ones; and the input."""
    parameters = enumerate(((w1, b1), (w2, b2), (w3, b3)))
    shares = [op.Conv(op.Slice(x), w, b, depthwise=True, name=f"depthwise{number}") for number, (w, b) in parameters]
    y = op.Concat(op.Slice(x), *shares, name="concat")
    y = optional(y, lambda y: op.BatchNormalization(y, scale, shift, mean, variance, name="norm"))
    y = activation(op, op.Conv(y, w4, b4, kernel_shape=(1, 1), group=1, name="expand"))
    y = op.Conv(y, w5, b5, kernel_shape=(1, 1), group=1, name="project")
    return op.Add(y, x, name="add")
