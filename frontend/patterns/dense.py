"""Blocks that begin with normalization and activation, and blocks of DarkNet.

After Huang et al., "Densely Connected Convolutional Networks" (arXiv 1608.06993), He et al., "Identity Mappings in Deep
Residual Networks" (arXiv 1603.05027), and Redmon and Farhadi, "YOLOv3" (arXiv 1804.02767).
"""

from __future__ import annotations

from blockfuse.frontend.patterns.parts import activation, blurred, shortcut
from blockfuse.pattern import Ops, Value, either, pattern


@pattern
def dense_layer(
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
) -> Value:
    """Normalization and activation, a 1x1 convolution to few channels, a 3x3 one to fewer that are concatenated."""
    y = activation(op, op.BatchNormalization(x, scale, shift, mean, variance, name="norm"))
    y = activation(op, op.Conv(y, w1, b1, kernel_shape=(1, 1), group=1, name="reduce"))
    return op.Conv(y, w2, b2, kernel_shape=(3, 3), group=1, name="conv")


@pattern
def preactivation_basic_block(
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
    wb: Value,
    bb: Value,
    ws: Value,
    bs: Value,
    wc: Value,
    bc: Value,
) -> Value:
    """Two 3x3 convolutions behind normalization and activation, whose sum is left as it is: ResNet V2, Wide ResNet."""
    active = activation(op, op.BatchNormalization(x, scale, shift, mean, variance, name="norm"))
    y = activation(op, op.Conv(active, w1, b1, kernel_shape=(3, 3), group=1, name="conv1"))
    y = blurred(op, y, wb, bb)
    y = op.Conv(y, w2, b2, kernel_shape=(3, 3), group=1, name="conv2")
    return op.Add(y, either(x, op.MaxPool(x, name="maxima"), shortcut(op, active, ws, bs, wc, bc)), name="add")


@pattern
def darknet_block(op: Ops, x: Value, w1: Value, b1: Value, w2: Value, b2: Value) -> Value:
    """A 1x1 or 3x3 convolution and a 3x3 one, each with its activation, and the input: DarkNet, CSPNet, YOLO."""
    y = activation(op, op.Conv(x, w1, b1, kernel_shape=either((1, 1), (3, 3)), group=1, name="conv1"))
    y = activation(op, op.Conv(y, w2, b2, kernel_shape=(3, 3), group=1, name="conv2"))
    return op.Add(y, x, name="add")
