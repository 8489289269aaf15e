"""Blocks that begin with their spatial convolution, and are wide only between two pointwise ones.

After Liu et al., "A ConvNet for the 2020s" (arXiv 2201.03545), and Lavin, arXiv 2404.03617.
"""

from __future__ import annotations

from blockfuse.frontend.patterns.parts import activation, global_response
from blockfuse.pattern import Ops, Value, either, optional, pattern


@pattern
def convnext_block(
    op: Ops,
    x: Value,
    w1: Value,
    b1: Value,
    scale: Value,
    shift: Value,
    w2: Value,
    b2: Value,
    w3: Value,
    b3: Value,
    gamma: Value,
    one: Value,
    beta: Value,
) -> Value:
    """A depthwise convolution, each pixel normalized, a 1x1 one to many channels, a 1x1 one back, and the input.

    ConvNeXt V2 (arXiv 2301.00808) weighs the many channels by their lengths.
    """
    y = op.Conv(x, w1, b1, depthwise=True, name="depthwise")
    y = op.LayerNormalization(y, scale, shift, axes=(1,), name="norm")
    y = activation(op, op.Conv(y, w2, b2, kernel_shape=(1, 1), group=1, name="expand"))
    y = global_response(op, y, gamma, one, beta)
    y = op.Conv(y, w3, b3, kernel_shape=(1, 1), group=1, name="project")
    return op.Add(y, x, name="add")


@pattern
def convfirst_block(op: Ops, x: Value, w1: Value, b1: Value, w2: Value, b2: Value, w3: Value, b3: Value) -> Value:
    """A kxk convolution without an activation, a 1x1 one to many channels, a 1x1 one back, and the input."""
    y = op.Conv(x, w1, b1, kernel_shape=either((3, 3), (5, 5), (7, 7)), name="conv")
    y = activation(op, op.Conv(y, w2, b2, kernel_shape=(1, 1), group=1, name="expand"))
    y = op.Conv(y, w3, b3, kernel_shape=(1, 1), group=1, name="project")
    return optional(y, lambda y: op.Add(y, x, name="add"))
