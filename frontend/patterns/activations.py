"""The activations that may stand between the convolutions of a block."""

from __future__ import annotations

from blockfuse.pattern import Ops, Value, either


def activation(op: Ops, y: Value) -> Value:
    """Any activation of one input."""
    return either(op.Relu(y), op.Clip(y), op.Swish(y), op.HardSwish(y))
