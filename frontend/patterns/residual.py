"""Blocks of dense and grouped convolutions around a shortcut, with or without squeeze-excite.

After He et al., "Deep Residual Learning for Image Recognition", Xie et al. (ResNeXt), Radosavovic et al. (RegNet).
"""

from __future__ import annotations

from blockfuse.frontend.patterns.parts import activation, blurred, several, shortcut, squeeze_excite
from blockfuse.pattern import Ops, Value, either, optional, pattern


@pattern
def basic_block(
    op: Ops,
    x: Value,
    w1: Value,
    b1: Value,
    w2: Value,
    b2: Value,
    wb: Value,
    bb: Value,
    ws: Value,
    bs: Value,
    wc: Value,
    bc: Value,
    wq: Value,
    bq: Value,
    we: Value,
    be: Value,
) -> Value:
    """Two 3x3 convolutions and a shortcut: the identity, or a 1x1 projection."""
    y = activation(op, op.Conv(x, w1, b1, kernel_shape=(3, 3), depthwise=False, name="conv1"))
    y = blurred(op, y, wb, bb)
    y = op.Conv(y, w2, b2, kernel_shape=(3, 3), depthwise=False, name="conv2")
    y = squeeze_excite(op, y, wq, bq, we, be)
    return optional(op.Add(y, shortcut(op, x, ws, bs, wc, bc), name="add"), lambda y: activation(op, y))


@pattern
def bottleneck(
    op: Ops,
    x: Value,
    w1: Value,
    b1: Value,
    w2: Value,
    b2: Value,
    w3: Value,
    b3: Value,
    wb: Value,
    bb: Value,
    ws: Value,
    bs: Value,
    wc: Value,
    bc: Value,
    wq: Value,
    bq: Value,
    we: Value,
    be: Value,
) -> Value:
    """A 1x1 convolution to few channels, a 3x3 one, a 1x1 one back, and a shortcut: the identity or a projection."""
    y = activation(op, op.Conv(x, w1, b1, kernel_shape=(1, 1), group=1, name="reduce"))
    y = activation(op, op.Conv(y, w2, b2, kernel_shape=(3, 3), group=1, name="conv"))
    y = blurred(op, y, wb, bb)
    y = op.Conv(y, w3, b3, kernel_shape=(1, 1), group=1, name="expand")
    y = squeeze_excite(op, y, wq, bq, we, be)
    return optional(op.Add(y, shortcut(op, x, ws, bs, wc, bc), name="add"), lambda y: activation(op, y))


@pattern
def grouped_bottleneck(
    op: Ops,
    x: Value,
    w1: Value,
    b1: Value,
    w2: Value,
    b2: Value,
    w3: Value,
    b3: Value,
    wb: Value,
    bb: Value,
    ws: Value,
    bs: Value,
    wc: Value,
    bc: Value,
    wq: Value,
    bq: Value,
    we: Value,
    be: Value,
) -> Value:
    """A bottleneck whose 3x3 convolution works in groups, and an activation at its end: ResNeXt, RegNet.

    RegNet weighs the channels inside, ResNeXt those at its end.
    """
    y = activation(op, op.Conv(x, w1, b1, kernel_shape=(1, 1), group=1, name="reduce"))
    y = activation(op, op.Conv(y, w2, b2, kernel_shape=(3, 3), group=several, depthwise=False, name="conv"))
    y = blurred(op, y, wb, bb)
    y = squeeze_excite(op, y, wq, bq, we, be, "inner_gate")
    y = op.Conv(y, w3, b3, kernel_shape=(1, 1), group=1, name="expand")
    y = squeeze_excite(op, y, wq, bq, we, be)
    return activation(op, op.Add(y, shortcut(op, x, ws, bs, wc, bc), name="add"))


@pattern
def preactivation_bottleneck(
    op: Ops,
    x: Value,
    scale: Value,
    shift: Value,
    mean: Value,
    variance: Value,
    w1: Value,
    b1: Value,
    w2: Value,
    b2: Value,
    w3: Value,
    b3: Value,
    wb: Value,
    bb: Value,
    ws: Value,
    bs: Value,
    wc: Value,
    bc: Value,
) -> Value:
    """A bottleneck behind normalization and activation, whose sum is left as it is: ResNet V2 (arXiv 1603.05027)."""
    active = activation(op, op.BatchNormalization(x, scale, shift, mean, variance, name="norm"))
    y = activation(op, op.Conv(active, w1, b1, kernel_shape=(1, 1), group=1, name="reduce"))
    y = activation(op, op.Conv(y, w2, b2, kernel_shape=(3, 3), group=1, name="conv"))
    y = blurred(op, y, wb, bb)
    y = op.Conv(y, w3, b3, kernel_shape=(1, 1), group=1, name="expand")
    return op.Add(y, either(x, op.MaxPool(x, name="maxima"), shortcut(op, active, ws, bs, wc, bc)), name="add")


@pattern
def normalizer_free_bottleneck(
    op: Ops,
    x: Value,
    beta: Value,
    w1: Value,
    b1: Value,
    w2: Value,
    b2: Value,
    w3: Value,
    b3: Value,
    gain: Value,
    ws: Value,
    bs: Value,
    wc: Value,
    bc: Value,
    wq: Value,
    bq: Value,
    we: Value,
    be: Value,
) -> Value:
    """A bottleneck behind an activation and a factor, with no normalization: NFNet (Brock et al., arXiv 2102.06171).

    Its gate, which may be scaled, comes before the last activation.
    """
    active = op.Mul(activation(op, x), beta, name="factor")
    y = activation(op, op.Conv(active, w1, b1, kernel_shape=(1, 1), group=1, name="reduce"))
    y = squeeze_excite(op, op.Conv(y, w2, b2, kernel_shape=(3, 3), depthwise=False, name="conv"), wq, bq, we, be)
    y = activation(op, optional(y, lambda y: op.Mul(y, gain, name="gain")))
    y = op.Conv(y, w3, b3, kernel_shape=(1, 1), group=1, name="expand")
    return op.Add(y, either(x, shortcut(op, active, ws, bs, wc, bc)), name="add")
