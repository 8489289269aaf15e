"""Inverted residuals with several windows, with 1x1 convolutions in groups, or with a shortcut for some channels.

After Tan and Le, "MixConv" (arXiv 1907.09595), and Han et al., "Rethinking Channel Dimensions for Efficient Model
Design" (ReXNet, arXiv 2007.00992).
"""

from __future__ import annotations

from blockfuse.frontend.patterns.parts import activation, several, squeeze_excite, weighed
from blockfuse.pattern import Ops, Value, either, optional, pattern


@pattern
def mixed_inverted_residual(
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
    wq: Value,
    bq: Value,
    we: Value,
    be: Value,
) -> Value:
    """MBConv with depthwise convolutions of two to five windows, each of some channels; or with 1x1 ones in groups."""
    wide = activation(op, op.Conv(x, w1, b1, kernel_shape=(1, 1), name="expand"))
    parameters = enumerate(((w2, b2), (w3, b3), (w4, b4), (w5, b5), (w6, b6)))
    shares = [op.Conv(op.Slice(wide), w, b, depthwise=True, name=f"depthwise{number}") for number, (w, b) in parameters]
    made = [activation(op, share) for share in shares]
    y = either(*[op.Concat(*made[:count]) for count in (2, 3, 4, 5)])
    y = op.Conv(squeeze_excite(op, y, wq, bq, we, be), w7, b7, kernel_shape=(1, 1), name="project")
    single = activation(op, op.Conv(wide, w2, b2, depthwise=True, name="depthwise"))
    single = squeeze_excite(op, single, wq, bq, we, be, "single_gate")
    y = either(y, op.Conv(single, w7, b7, kernel_shape=(1, 1), group=several, name="grouped_project"))
    return optional(y, lambda y: op.Add(y, x, name="add"))


@pattern
def rexnet_block(
    op: Ops,
    x: Value,
    w1: Value,
    b1: Value,
    w2: Value,
    b2: Value,
    wq: Value,
    bq: Value,
    we: Value,
    be: Value,
    w3: Value,
    b3: Value,
    w4: Value,
    b4: Value,
) -> Value:
    """MBConv whose gate comes before the last activation, and whose shortcut is for the first channels alone."""
    y = optional(x, lambda x: activation(op, op.Conv(x, w1, b1, kernel_shape=(1, 1), group=1, name="expand")))
    plain = op.Conv(y, w2, b2, depthwise=True, name="depthwise")
    gated = activation(op, weighed(op, plain, wq, bq, we, be))
    project = op.Conv(gated, w3, b3, kernel_shape=(1, 1), group=1, name="project")
    y = either(gated, activation(op, plain))
    first = op.Conv(y, w3, b3, kernel_shape=(1, 1), group=1, name="first")
    rest = op.Conv(y, w4, b4, kernel_shape=(1, 1), group=1, name="rest")
    return either(op.Concat(op.Add(first, x), rest, name="concat"), op.Add(project, x, name="add"), project)


@pattern
def pool_mixer(op: Ops, x: Value, y: Value, scale: Value) -> Value:
    """How the mean around a pixel differs from it, and a shortcut: PoolFormer (arXiv 2111.11418)."""
    difference = op.Sub(op.AveragePool(y, name="means"), y)
    return op.Add(optional(difference, lambda value: op.Mul(value, scale, name="scale")), x, name="add")


@pattern
def mlp_block(
    op: Ops,
    x: Value,
    y: Value,
    scale: Value,
    shift: Value,
    mean: Value,
    variance: Value,
    w1: Value,
    b1: Value,
    w2: Value,
    b2: Value,
) -> Value:
    """A 1x1 convolution to many channels and one back, of an image normalized as a whole, and what that was."""
    y = optional(y, lambda y: op.BatchNormalization(y, scale, shift, mean, variance, name="norm"))
    hidden = activation(op, op.Conv(y, w1, b1, kernel_shape=(1, 1), group=1, name="expand"))
    return op.Add(op.Conv(hidden, w2, b2, kernel_shape=(1, 1), group=1, name="project"), x, name="add")
