"""Blocks around a depthwise convolution, after Howard et al., "MobileNets", and Sandler et al., "MobileNetV2"."""

from __future__ import annotations

from blockfuse.frontend.patterns.activations import activation
from blockfuse.pattern import Ops, Value, optional, pattern


@pattern
def inverted_residual(op: Ops, x: Value, w1: Value, b1: Value, w2: Value, b2: Value, w3: Value, b3: Value) -> Value:
    """MBConv: a 1x1 convolution to many channels, which may be missing, a depthwise one, a 1x1 one, and a shortcut."""
    y = optional(x, lambda x: activation(op, op.Conv(x, w1, b1, kernel_shape=(1, 1), group=1, name="expand")))
    y = activation(op, op.Conv(y, w2, b2, depthwise=True, name="depthwise"))
    y = op.Conv(y, w3, b3, kernel_shape=(1, 1), group=1, name="project")
    return optional(y, lambda y: op.Add(y, x, name="add"))


@pattern
def depthwise_separable(op: Ops, x: Value, w1: Value, b1: Value, w2: Value, b2: Value) -> Value:
    """A depthwise convolution and a 1x1 one, each with an activation, as in MobileNetV1; no shortcut."""
    y = activation(op, op.Conv(x, w1, b1, depthwise=True, name="depthwise"))
    return activation(op, op.Conv(y, w2, b2, kernel_shape=(1, 1), group=1, name="pointwise"))
