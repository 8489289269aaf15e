"""What blocks of several families are made of."""

from __future__ import annotations

from collections.abc import Mapping

from blockfuse.pattern import Ops, Value, either, optional

_ACTIVATIONS = (
    *("Relu", "Clip", "Swish", "HardSwish", "Gelu", "LeakyRelu", "PRelu", "Elu", "Celu", "Selu", "Mish"),
    *("Softplus", "Softsign", "Tanh", "Sigmoid", "HardSigmoid"),
)


def activation(op: Ops, y: Value, **conditions: object) -> Value:
    """Any activation of one input, PReLU with any slopes included."""
    return either(*[_applied(op, kind, y, conditions) for kind in _ACTIVATIONS])


def squeeze_excite(op: Ops, y: Value, w1: Value, b1: Value, w2: Value, b2: Value, name: str = "gate") -> Value:
    """The channels weighed by a gate made of their means; may be missing."""
    return optional(y, lambda y: weighed(op, y, w1, b1, w2, b2, name))


def weighed(op: Ops, y: Value, w1: Value, b1: Value, w2: Value, b2: Value, name: str = "gate") -> Value:
    """The channels weighed by a gate made of their means (Hu et al., arXiv 1709.01507)."""
    return op.Mul(y, _gate(op, y, w1, b1, w2, b2, name))


def global_response(op: Ops, y: Value, scale: Value, shift: Value, beta: Value) -> Value:
    """The channels weighed by their lengths (Woo et al., arXiv 2301.00808); may be missing."""
    return optional(y, lambda y: _responding(op, y, scale, shift, beta))


def blurred(op: Ops, y: Value, w: Value, b: Value, name: str = "blur") -> Value:
    """The image made smaller by a filter or by means (Zhang, arXiv 1904.11486), or as it is."""
    framed = optional(y, lambda y: op.Pad(y, mode=either("reflect", "edge"), name=f"{name}_border"))
    return either(op.Conv(framed, w, b, depthwise=True, name=name), op.AveragePool(y, name=f"{name}_means"), y)


def shortcut(op: Ops, x: Value, w: Value, b: Value, wb: Value, bb: Value) -> Value:
    """The block's input, blurred, its means or maxima where the size halves, or a 1x1 convolution of these."""
    small = either(op.MaxPool(x, name="shortcut_maxima"), blurred(op, x, wb, bb, "shortcut_blur"))
    return either(small, op.Conv(small, w, b, kernel_shape=(1, 1), group=1, name="projection"))


def ghost_module(op: Ops, x: Value, parameters: tuple[Value, Value, Value, Value], name: str) -> Value:
    """A 1x1 convolution and, next to its result, a depthwise one of that (Han et al., arXiv 1911.11907)."""
    w1, b1, w2, b2 = parameters
    primary = op.Conv(x, w1, b1, kernel_shape=(1, 1), group=1, name=f"{name}_primary")
    primary = optional(primary, lambda y: activation(op, y))
    cheap = op.Conv(primary, w2, b2, depthwise=True, name=f"{name}_cheap")
    return op.Concat(primary, optional(cheap, lambda y: activation(op, y)), name=f"{name}_concat")


def several(group: int) -> bool:
    """Whether a convolution divides its channels into groups."""
    return group > 1


def _gate(op: Ops, y: Value, w1: Value, b1: Value, w2: Value, b2: Value, name: str) -> Value:
    means = op.GlobalAveragePool(y, name=f"{name}_pool")
    few = activation(op, op.Conv(means, w1, b1, kernel_shape=(1, 1), group=1, name=f"{name}_reduce"))
    gate = op.Conv(few, w2, b2, kernel_shape=(1, 1), group=1, name=f"{name}_expand")
    return either(op.Sigmoid(gate), op.HardSigmoid(gate))


def _responding(op: Ops, y: Value, scale: Value, shift: Value, beta: Value) -> Value:
    gate = op.MeanNormalization(op.GlobalLpPool(y, name="lengths"), scale, shift, name="response")
    return optional(op.Mul(y, gate), lambda y: op.Add(y, beta, name="beta"))


def _applied(op: Ops, kind: str, y: Value, conditions: Mapping[str, object]) -> Value:
    applied: Value = getattr(op, kind)(y, **conditions)
    return applied
