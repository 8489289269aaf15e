"""Blocks that are wide inside: MobileNet V1 to V3, MnasNet and EfficientNet (arXiv 1704.04861, 1801.04381, 2104.00298).

Squeeze-excite weighs the wide channels, before they are projected.
"""

from __future__ import annotations

from blockfuse.frontend.patterns.parts import activation, several, shortcut, squeeze_excite
from blockfuse.pattern import Ops, Value, either, optional, pattern


@pattern
def inverted_residual(
    op: Ops,
    x: Value,
    w0: Value,
    b0: Value,
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
    wq: Value,
    bq: Value,
    we: Value,
    be: Value,
    ws: Value,
    bs: Value,
    wc: Value,
    bc: Value,
) -> Value:
    """MBConv: a 1x1 convolution to many channels, which may be missing, a depthwise one, a 1x1 one, and a shortcut.

    MobileNetV4 (arXiv 2404.10518) puts another depthwise convolution before the first, RepGhost (arXiv 2211.06088) one
    behind the last, and where the size halves one in the middle and one in the shortcut.
    """
    start = optional(x, lambda x: op.Conv(x, w0, b0, depthwise=True, name="start"))
    y = optional(x, lambda _: activation(op, op.Conv(start, w1, b1, kernel_shape=(1, 1), group=1, name="expand")))
    y = activation(op, op.Conv(y, w2, b2, group=several, name="depthwise"))
    y = optional(y, lambda y: op.Conv(y, w4, b4, depthwise=True, name="shrink"))
    y = squeeze_excite(op, y, wq, bq, we, be)
    y = op.Conv(y, w3, b3, kernel_shape=(1, 1), group=1, name="project")
    y = optional(y, lambda y: op.Conv(y, w5, b5, depthwise=True, name="end"))
    return optional(y, lambda y: op.Add(y, shortcut(op, x, ws, bs, wc, bc), name="add"))


@pattern
def fused_inverted_residual(
    op: Ops, x: Value, w1: Value, b1: Value, w2: Value, b2: Value, wq: Value, bq: Value, we: Value, be: Value
) -> Value:
    """FusedMBConv: a 3x3 convolution to many channels, a 1x1 one, and a shortcut; without expansion, one 3x3 alone."""
    y = activation(op, op.Conv(x, w1, b1, kernel_shape=(3, 3), group=1, name="expand"))
    wide = squeeze_excite(op, y, wq, bq, we, be)
    projected = op.Conv(wide, w2, b2, kernel_shape=(1, 1), group=1, name="project")
    return either(op.Add(either(projected, y), x, name="add"), projected)


@pattern
def shuffle_unit(op: Ops, x: Value, w1: Value, b1: Value, w2: Value, b2: Value, w3: Value, b3: Value) -> Value:
    """A 1x1 convolution, which may be missing, a depthwise one alone, a 1x1 one: ShuffleNet V2 (arXiv 1807.11164)."""
    y = optional(x, lambda x: activation(op, op.Conv(x, w1, b1, kernel_shape=(1, 1), group=1, name="first")))
    y = op.Conv(y, w2, b2, depthwise=True, name="depthwise")
    return activation(op, op.Conv(y, w3, b3, kernel_shape=(1, 1), group=1, name="last"))


@pattern
def depthwise_separable(op: Ops, x: Value, w1: Value, b1: Value, w2: Value, b2: Value) -> Value:
    """A depthwise convolution and a 1x1 one, each with an activation, as in MobileNetV1; no shortcut."""
    y = activation(op, op.Conv(x, w1, b1, depthwise=True, name="depthwise"))
    return activation(op, op.Conv(y, w2, b2, kernel_shape=(1, 1), group=1, name="pointwise"))
