"""Chains of convolutions without a shortcut: RepVGG once its branches are one, and the branches of Inception.

After Ding et al., "RepVGG" (arXiv 2101.03697), whose parallel convolutions are one each in canonical form, and Szegedy
et al., "Going Deeper with Convolutions" (arXiv 1409.4842). What joins branches is no part of them: images that are
concatenated lie side by side already.
"""

from __future__ import annotations

from blockfuse.frontend.patterns.parts import activation
from blockfuse.pattern import Ops, Value, either, optional, pattern

_LONG = either((3, 3), (5, 5), (1, 3), (3, 1), (1, 5), (5, 1), (1, 7), (7, 1))


@pattern
def repvgg_chain(
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
) -> Value:
    """Two to four 3x3 convolutions with their activations: RepVGG, deployed or as trained, and VGG with its pools."""
    y = optional(x, lambda x: activation(op, op.Conv(x, w1, b1, kernel_shape=(3, 3), depthwise=False, name="first")))
    y = optional(y, lambda y: activation(op, op.Conv(y, w2, b2, kernel_shape=(3, 3), depthwise=False, name="second")))
    y = activation(op, op.Conv(y, w3, b3, kernel_shape=(3, 3), depthwise=False, name="third"))
    y = activation(op, op.Conv(y, w4, b4, kernel_shape=(3, 3), depthwise=False, name="fourth"))
    return optional(y, lambda y: op.MaxPool(y, name="pool"))


@pattern
def inception_branch(
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
) -> Value:
    """A 1x1 convolution and one to four wider ones, each with its activation; or a pool and a 1x1 convolution.

    The result is concatenated with that of other branches.
    """
    y = activation(op, op.Conv(x, w1, b1, kernel_shape=(1, 1), group=1, name="reduce"))
    y = optional(y, lambda y: activation(op, op.Conv(y, w2, b2, kernel_shape=_LONG, group=1, name="first")))
    y = optional(y, lambda y: activation(op, op.Conv(y, w3, b3, kernel_shape=_LONG, group=1, name="second")))
    y = optional(y, lambda y: activation(op, op.Conv(y, w4, b4, kernel_shape=_LONG, group=1, name="third")))
    pooled = either(op.MaxPool(x, name="maxima"), op.AveragePool(x, name="means"))
    return either(
        activation(op, op.Conv(y, w5, b5, kernel_shape=_LONG, group=1, name="last"), concatenated=True),
        activation(op, op.Conv(pooled, w1, b1, kernel_shape=(1, 1), group=1, name="project"), concatenated=True),
    )
