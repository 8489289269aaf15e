"""Residual blocks of separable convolutions that are as wide inside as outside: Xception and ConvMixer.

After Chollet, "Xception" (arXiv 1610.02357), and Trockman and Kolter, "Patches Are All You Need?" (arXiv 2201.09792).
"""

from __future__ import annotations

from blockfuse.frontend.patterns.parts import activation, shortcut
from blockfuse.pattern import Ops, Value, optional, pattern


@pattern
def xception_block(
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
    ws: Value,
    bs: Value,
    wc: Value,
    bc: Value,
) -> Value:
    """Three depthwise convolutions, each with a 1x1 one, activations where there are some, and a shortcut."""
    y = x
    for number, (wd, bd, wp, bp) in enumerate(((w1, b1, w2, b2), (w3, b3, w4, b4), (w5, b5, w6, b6)), 1):
        y = optional(y, lambda y: activation(op, y))
        y = optional(op.Conv(y, wd, bd, depthwise=True, name=f"depthwise{number}"), lambda y: activation(op, y))
        y = op.Conv(y, wp, bp, kernel_shape=(1, 1), group=1, name=f"pointwise{number}")
    return op.Add(optional(y, lambda y: activation(op, y)), shortcut(op, x, ws, bs, wc, bc), name="add")


@pattern
def convmixer_block(
    op: Ops,
    x: Value,
    w1: Value,
    b1: Value,
    scale1: Value,
    shift1: Value,
    mean1: Value,
    variance1: Value,
    w2: Value,
    b2: Value,
    scale2: Value,
    shift2: Value,
    mean2: Value,
    variance2: Value,
) -> Value:
    """A depthwise convolution and the input, then a 1x1 convolution; each convolution activated, then normalized."""
    y = activation(op, op.Conv(x, w1, b1, depthwise=True, name="depthwise"))
    y = op.Add(op.BatchNormalization(y, scale1, shift1, mean1, variance1, name="norm1"), x, name="add")
    y = activation(op, op.Conv(y, w2, b2, kernel_shape=(1, 1), group=1, name="pointwise"))
    return op.BatchNormalization(y, scale2, shift2, mean2, variance2, name="norm2")
