"""Steps of random models: convolutions, products, normalizations."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tests.fuzz.op_moves import flatten_step, window
from tests.fuzz.whole_graphs import Impossible, Net, axes, image


# ---- convolutions and products --------------------------------------------------------------------------------------
def conv_step(net: Net, x: str, _: Sequence[str]) -> str:
    _, c, h, w = image(net, x)
    groups = net.pick(*(g for g in (1, 1, 1, 2, 3, 4, c) if c % g == 0))
    outputs = groups * (1 if groups == c and net.chance(0.7) else net.between(1, 6))
    attrs = window(net, (h, w), (1, 1, 2, 3, 3, 5))
    shape = (outputs, c // groups, *attrs["kernel_shape"])
    scale = (1.0 / np.prod(shape[1:])) ** 0.5
    if net.chance(0.3):
        attrs["kernel_shape"] = None
    inputs = [x, net.constant(net.normal(*shape, scale=scale))]
    if net.chance(0.6):
        inputs.append(net.constant(net.normal(outputs, scale=0.2)))
    return net.op("Conv", inputs, group=groups if groups > 1 or net.chance(0.5) else None, **attrs)


def conv_transpose_step(net: Net, x: str, _: Sequence[str]) -> str:
    c = image(net, x)[1]
    groups = net.pick(1, 1, c)
    size = [net.pick(1, 2, 3, 4), net.pick(2, 3)]
    strides = [net.pick(1, 2), net.pick(1, 2, 3)]
    weight = net.normal(c, net.between(1, 3), *size, scale=(1 / (c * 4)) ** 0.5)
    more = {"output_padding": [net.between(0, strides[0] - 1), 0]} if net.chance(0.3) else {}
    if net.chance(0.2):
        more["auto_pad"] = net.pick("SAME_UPPER", "SAME_LOWER")
    elif net.chance(0.5):
        more["pads"] = [net.between(0, k - 1) for k in (*size, *size)]
    inputs = [x, net.constant(weight)] + (
        [net.constant(net.normal(weight.shape[1] * groups))] if net.chance(0.5) else []
    )
    return net.op("ConvTranspose", inputs, group=groups, strides=strides, **more)


def gemm_step(net: Net, x: str, values: Sequence[str]) -> str:
    shape = net.shapes[x]
    if len(shape) != 2:
        x = flatten_step(net, x, values)
        shape = net.shapes[x]
    transposed, outputs = net.pick(0, 1), net.between(1, 9)
    weight = net.normal(shape[1], outputs, scale=(1 / shape[1]) ** 0.5)
    inputs = [x, net.constant(np.ascontiguousarray(weight.T) if transposed else weight)]
    if net.opset < 11 or net.chance(0.7):
        inputs.append(net.constant(net.normal(*net.pick((outputs,), (1, outputs), (shape[0], 1), ()))))
    attrs = {"alpha": net.pick(None, 0.5), "beta": net.pick(None, 2.0), "transB": transposed or None}
    return net.op("Gemm", inputs, **attrs)


def matmul_step(net: Net, x: str, _: Sequence[str]) -> str:
    depth = net.shapes[x][-1]
    weight = net.constant(net.normal(depth, net.between(1, 8), scale=(1 / depth) ** 0.5))
    y = net.op("MatMul", [x, weight])
    return net.op("Add", [y, net.constant(net.normal(net.shapes[y][-1]))]) if net.chance(0.5) else y


def pixel_matmul_step(net: Net, x: str, _: Sequence[str]) -> str:
    """A MatMul over channels between two Transposes."""
    c = image(net, x)[1]
    y = net.op("Transpose", [x], perm=[0, 2, 3, 1])
    y = net.op("MatMul", [y, net.constant(net.normal(c, net.between(1, 9), scale=c**-0.5))])
    return net.op("Transpose", [y], perm=[0, 3, 1, 2]) if net.chance(0.8) else y


# ---- normalizations -------------------------------------------------------------------------------------------------
def batch_norm_step(net: Net, x: str, _: Sequence[str]) -> str:
    c = net.shapes[x][1] if len(net.shapes[x]) > 1 else 1
    numbers = [
        net.normal(c, offset=1, scale=0.2),
        net.normal(c),
        net.normal(c),
        np.abs(net.normal(c)) + np.float32(0.5),
    ]
    return net.op("BatchNormalization", [x, *map(net.constant, numbers)], epsilon=net.pick(None, 1e-3))


def layer_norm_step(net: Net, x: str, _: Sequence[str]) -> str:
    """Over the last axis as one operator, or channels last between Transposes, or decomposed."""
    around = len(net.shapes[x]) == 4 and net.chance(0.6)
    y = net.op("Transpose", [x], perm=[0, 2, 3, 1]) if around else x
    depth = net.shapes[y][-1]
    if depth < 2:
        raise Impossible("one number has no deviation")
    scale, shift = net.constant(net.normal(depth, offset=1, scale=0.1)), net.constant(net.normal(depth, scale=0.1))
    if net.opset >= 17 and net.chance(0.7):
        y = net.op("LayerNormalization", [y, scale, *([shift] if net.chance(0.8) else [])], axis=-1, epsilon=1e-3)
    else:
        given, attrs = axes(net, (-1,), 17)
        mean = net.op("ReduceMean", [y, *given], keepdims=1, **attrs)
        apart = net.op("Sub", [y, mean])
        given, attrs = axes(net, (-1,), 17)
        square = net.op("Pow", [apart, net.constant(np.float32(2))]) if net.chance(0.5) else net.op("Mul", [apart] * 2)
        spread = net.op(
            "Add", [net.op("ReduceMean", [square, *given], keepdims=1, **attrs), net.constant(np.float32(1e-3))]
        )
        y = net.op("Add", [net.op("Mul", [net.op("Div", [apart, net.op("Sqrt", [spread])]), scale]), shift])
    return net.op("Transpose", [y], perm=[0, 3, 1, 2]) if around else y


def group_norm_step(net: Net, x: str, _: Sequence[str]) -> str:
    n, c, h, w = image(net, x)
    if h * w * c < 4:
        raise Impossible("few numbers have no deviation")
    if net.chance(0.4):
        return net.op(
            "InstanceNormalization", [x, net.constant(net.normal(c)), net.constant(net.normal(c))], epsilon=1e-2
        )
    groups = net.pick(*(g for g in (1, 2, 3, 4) if c % g == 0))
    if net.opset >= 21:
        return net.op(
            "GroupNormalization", [x, *(net.constant(net.normal(c)) for _ in "ab")], num_groups=groups, epsilon=1e-2
        )
    y = net.op("Reshape", [x, net.ints(n, groups, -1)])
    y = net.op("InstanceNormalization", [y, *(net.constant(net.normal(groups)) for _ in "ab")], epsilon=1e-2)
    return net.op("Reshape", [y, net.ints(n, c, h, w)])


def lrn_step(net: Net, x: str, _: Sequence[str]) -> str:
    image(net, x)
    return net.op("LRN", [x], size=net.pick(1, 3, 5), alpha=net.pick(None, 0.1), bias=net.pick(None, 2.0))


def l2_norm_step(net: Net, x: str, _: Sequence[str]) -> str:
    if len(net.shapes[x]) < 2:
        raise Impossible("no channels")
    given, attrs = axes(net, net.pick((1,), (-1,)), 17)
    length = net.op(net.pick("ReduceL2", "ReduceL1"), [x, *given], keepdims=1, **attrs)
    return net.op("Div", [x, net.op("Add", [length, net.constant(np.float32(0.5))])])


def softmax_step(net: Net, x: str, _: Sequence[str]) -> str:
    rank = len(net.shapes[x])
    axis = rank - 1 if net.opset < 13 else net.pick(None, -1, *range(rank))
    return net.op(net.pick("Softmax", "Softmax", "LogSoftmax"), [x], axis=axis)
