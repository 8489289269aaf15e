"""Steps of random models: on elements."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tests.fuzz.whole_graphs import Net, axes, image, since


# ---- elementwise ----------------------------------------------------------------------------------------------------
def unary_step(kind: str, first: int = 1, **attrs) -> Callable[[Net, str, Sequence[str]], str]:
    def step(net: Net, x: str, _: Sequence[str]) -> str:
        since(net, first)
        drawn = {key: net.pick(*value) for key, value in attrs.items()}
        return net.op(kind, [x], **drawn)

    return step


def clip_step(net: Net, x: str, _: Sequence[str]) -> str:
    low, high = net.pick((0.0, 6.0), (-0.5, 0.5), (None, 1.0), (0.0, None), (-1.0, None), (None, None))
    if net.opset < 11:
        return net.op("Clip", [x], min=low, max=high)
    bounds = ["" if bound is None else net.constant(np.float32(bound)) for bound in (low, high)]
    return net.op("Clip", [x, *bounds][: 2 if net.chance(0.2) else 3])


def prelu_step(net: Net, x: str, _: Sequence[str]) -> str:
    shape = net.shapes[x]
    slope = net.pick((shape[1], *[1] * (len(shape) - 2)) if len(shape) > 1 else (1,), (1,), (shape[-1],))
    return net.op("PRelu", [x, net.constant(net.normal(*slope, scale=0.3))])


def silu_step(net: Net, x: str, _: Sequence[str]) -> str:
    gate = net.op("Sigmoid", [x])
    return net.op("Mul", [x, gate] if net.chance(0.5) else [gate, x])


def hard_swish_step(net: Net, x: str, _: Sequence[str]) -> str:
    if net.opset >= 14 and net.chance(0.4):
        return net.op("HardSwish", [x])
    gate = net.op("Add", [x, net.constant(np.float32(3))])
    gate = (
        net.op("Clip", [gate, *(net.constant(np.float32(v)) for v in (0, 6))])
        if net.opset >= 11
        else net.op("Clip", [gate], min=0.0, max=6.0)
    )
    if net.chance(0.5):
        return net.op("Div", [net.op("Mul", [x, gate]), net.constant(np.float32(6))])
    return net.op("Mul", [x, net.op("Div", [gate, net.constant(np.float32(6))])])


def gelu_step(net: Net, x: str, _: Sequence[str]) -> str:
    if net.opset >= 20 and net.chance(0.4):
        return net.op("Gelu", [x], approximate=net.pick("none", "tanh"))
    half, one = net.constant(np.float32(0.5)), net.constant(np.float32(1))
    if net.opset < 9 or net.chance(0.3):
        cube = net.op("Mul", [net.op("Mul", [x, x]), x])
        inner = net.op("Add", [x, net.op("Mul", [cube, net.constant(np.float32(0.044715))])])
        gate = net.op("Tanh", [net.op("Mul", [inner, net.constant(np.float32((2 / np.pi) ** 0.5))])])
    else:
        gate = net.op("Erf", [net.op("Div", [x, net.constant(np.float32(2**0.5))])])
    gate = net.op("Add", [gate, one])
    if net.chance(0.5):
        return net.op("Mul", [net.op("Mul", [x, half]), gate])
    return net.op("Mul", [net.op("Mul", [x, gate]), half])


def mish_step(net: Net, x: str, _: Sequence[str]) -> str:
    if net.opset >= 18 and net.chance(0.5):
        return net.op("Mish", [x])
    return net.op("Mul", [x, net.op("Tanh", [net.op("Softplus", [x])])])


def root_step(net: Net, x: str, _: Sequence[str]) -> str:
    y = net.op("Add", [net.op("Abs", [x]), net.constant(np.float32(0.1))])
    return net.op(net.pick("Sqrt", "Log", "Reciprocal"), [y])


def exp_step(net: Net, x: str, _: Sequence[str]) -> str:
    return net.op("Exp", [net.op("Tanh", [x])])


def pow_step(net: Net, x: str, _: Sequence[str]) -> str:
    exponent, base = net.pick((2.0, x), (3.0, x), (0.5, None), (1.0, x))
    base = base or net.op("Sigmoid", [x])
    return net.op("Pow", [base, net.constant(np.float32(exponent))])


def _partner(net: Net, x: str, values: Sequence[str]) -> str:
    """Another value that broadcasts with this one, or a constant that does."""
    shape = net.shapes[x]
    others = [name for name in values if net.shapes[name] == shape]
    if others and net.chance(0.6):
        return str(net.pick(*others))
    if net.chance(0.2) and len(shape) == 4:
        return net.op("GlobalAveragePool", [x])
    small = tuple(dim if net.chance(0.5) else 1 for dim in shape)
    drop = net.between(0, len(small))
    return net.constant(net.normal(*net.pick(small, small[drop:], (1, shape[1], 1, 1) if len(shape) == 4 else ())))


def binary_step(net: Net, x: str, values: Sequence[str]) -> str:
    other = _partner(net, x, values)
    kind = net.pick("Add", "Add", "Add", "Mul", "Mul", "Sub", "Div")
    if kind == "Div":
        other = net.op("Add", [net.op("Abs", [other]), net.constant(np.float32(0.5))])
        return net.op("Div", [x, other])
    return net.op(kind, [x, other] if net.chance(0.6) else [other, x])


def many_step(net: Net, x: str, values: Sequence[str]) -> str:
    since(net, 8)  # before, ONNX Runtime does not broadcast
    others = [_partner(net, x, values) for _ in range(net.between(0, 2))]
    return net.op(net.pick("Sum", "Max", "Min"), [x, *others])


def residual_step(net: Net, x: str, _: Sequence[str]) -> str:
    """Convolutions that keep the shape, and the value added."""
    c = image(net, x)[1]
    y = x
    for _ in range(net.between(1, 3)):
        size, groups = net.pick(1, 3), net.pick(1, 1, c)
        weight = net.constant(net.normal(c, c // groups, size, size, scale=(1 / (c // groups * size * size)) ** 0.5))
        y = net.op("Conv", [y, weight], kernel_shape=[size] * 2, pads=[size // 2] * 4, group=groups)
        y = net.op("Relu", [y]) if net.chance(0.6) else y
    return net.op("Add", [y, x] if net.chance(0.5) else [x, y])


def gate_step(net: Net, x: str, _: Sequence[str]) -> str:
    """Squeeze-excite in one of its spellings."""
    c = image(net, x)[1]
    inner = max(1, c // 2)
    if net.chance(0.5):
        y = net.op("GlobalAveragePool", [x])
    else:
        given, attrs = axes(net, net.pick((2, 3), (-1, -2)), 17)
        y = net.op("ReduceMean", [x, *given], keepdims=1, **attrs)
    y = net.op("Relu", [net.op("Conv", [y, net.constant(net.normal(inner, c, 1, 1, scale=c**-0.5))])])
    y = net.op("Conv", [y, net.constant(net.normal(c, inner, 1, 1))])
    y = net.op(net.pick("Sigmoid", "HardSigmoid"), [y])
    return net.op("Mul", [x, y] if net.chance(0.5) else [y, x])
