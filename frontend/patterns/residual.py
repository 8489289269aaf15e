"""Blocks of dense convolutions around a shortcut, after He et al., "Deep Residual Learning for Image Recognition"."""

from __future__ import annotations

from blockfuse.frontend.patterns.activations import activation
from blockfuse.pattern import Ops, Value, either, optional, pattern


@pattern
def basic_block(op: Ops, x: Value, w1: Value, b1: Value, w2: Value, b2: Value, ws: Value, bs: Value) -> Value:
    """Two 3x3 convolutions and a shortcut: the identity, or a 1x1 projection."""
    y = activation(op, op.Conv(x, w1, b1, kernel_shape=(3, 3), group=1, name="conv1"))
    y = op.Conv(y, w2, b2, kernel_shape=(3, 3), group=1, name="conv2")
    shortcut = either(x, op.Conv(x, ws, bs, kernel_shape=(1, 1), group=1, name="projection"))
    return optional(op.Add(y, shortcut, name="add"), lambda y: activation(op, y))


@pattern
def bottleneck(
    op: Ops, x: Value, w1: Value, b1: Value, w2: Value, b2: Value, w3: Value, b3: Value, ws: Value, bs: Value
) -> Value:
    """A 1x1 convolution to few channels, a 3x3 one, a 1x1 one back, and a shortcut: the identity or a projection."""
    y = activation(op, op.Conv(x, w1, b1, kernel_shape=(1, 1), group=1, name="reduce"))
    y = activation(op, op.Conv(y, w2, b2, kernel_shape=(3, 3), depthwise=False, name="conv"))
    y = op.Conv(y, w3, b3, kernel_shape=(1, 1), group=1, name="expand")
    shortcut = either(x, op.Conv(x, ws, bs, kernel_shape=(1, 1), group=1, name="projection"))
    return optional(op.Add(y, shortcut, name="add"), lambda y: activation(op, y))
