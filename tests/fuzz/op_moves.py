"""Steps of random models: pools, reductions, and moving elements."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import numpy_helper

from tests.fuzz.whole_graphs import Impossible, Net, axes, image, since


# ---- pools and reductions -------------------------------------------------------------------------------------------
def window(net: Net, size: Sequence[int], sizes: Sequence[int], *, dilated: bool = True) -> dict:
    """Attributes of a sliding window, with explicit pads or auto_pad, some of them left to their defaults."""
    r = [min(net.pick(*sizes), max(1, dim)) for dim in size]
    attrs = {"kernel_shape": r, "strides": [net.pick(1, 1, 2, 3), net.pick(1, 1, 2)] if net.chance(0.6) else None}
    dilated = dilated and net.chance(0.2)
    attrs["dilations"] = [net.pick(1, 2), net.pick(1, 2)] if dilated else None
    if net.chance(0.15) and not dilated:
        return {**attrs, "auto_pad": net.pick("SAME_UPPER", "SAME_LOWER", "VALID")}
    pads = [net.between(0, max(0, (k - 1) // 2)) for k in (*r, *r)]
    return {**attrs, "pads": pads if net.chance(0.8) else None}


def pool_step(net: Net, x: str, _: Sequence[str]) -> str:
    _, _, h, w = image(net, x)
    kind = net.pick("MaxPool", "AveragePool")
    dilated = (kind == "MaxPool" and net.opset >= 10) or net.opset >= 19
    attrs = window(net, (h, w), (2, 2, 3, 3, 5), dilated=dilated)
    if net.opset >= 10 and net.chance(0.4) and "auto_pad" not in attrs:
        attrs["ceil_mode"] = 1
    if kind == "AveragePool" and net.chance(0.4):
        attrs["count_include_pad"] = 1
    return net.op(kind, [x], **attrs)


def global_pool_step(net: Net, x: str, _: Sequence[str]) -> str:
    image(net, x)
    return net.op(net.pick("GlobalAveragePool", "GlobalMaxPool"), [x])


def reduce_step(net: Net, x: str, _: Sequence[str]) -> str:
    kind = net.pick("ReduceMean", "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2")
    rank = len(net.shapes[x])
    chosen = sorted({net.between(0, rank - 1) - net.pick(0, rank) for _ in range(net.between(1, 2))})
    if len({axis % rank for axis in chosen}) < len(chosen):
        raise Impossible("an axis twice")
    given, attrs = axes(net, chosen, 12 if kind == "ReduceSum" else 17)
    y = net.op(kind, [x, *given], keepdims=net.pick(None, 0, 1), **attrs)
    if not net.shapes[y]:
        raise Impossible("a scalar")
    return y


def arg_max_step(net: Net, _x: str, _: Sequence[str]) -> str:
    """Of the input alone: there are no ties that rounding could decide."""
    y = net.op(net.pick("ArgMax", "ArgMin"), ["x"], axis=net.pick(1, -1, 2), keepdims=net.pick(0, 1))
    return net.op("Cast", [y], to=1)


# ---- moving ---------------------------------------------------------------------------------------------------------
def concat_step(net: Net, x: str, values: Sequence[str]) -> str:
    shape = net.shapes[x]
    axis = net.between(0, len(shape) - 1) if net.chance(0.4) or len(shape) < 2 else 1
    fits = [
        name
        for name in values
        if len(net.shapes[name]) == len(shape)
        and all(a == b for i, (a, b) in enumerate(zip(net.shapes[name], shape, strict=True)) if i != axis)
    ]
    parts = [x, *(str(net.pick(*fits)) for _ in range(net.between(1, 2)))]
    return net.op("Concat", parts, axis=axis - net.pick(0, 0, len(shape)))


def split_step(net: Net, x: str, _: Sequence[str]) -> str:
    """Two or three parts; one goes on, or two are added."""
    shape = net.shapes[x]
    axis = net.between(0, len(shape) - 1)
    parts = net.pick(*(n for n in (1, 2, 3) if shape[axis] % n == 0))
    if parts == 1:
        raise Impossible("does not divide")
    sizes = [shape[axis] // parts] * parts
    if net.chance(0.5) and sizes[0] > 1 and parts > 1:
        sizes[0], sizes[1] = sizes[0] - 1, sizes[1] + 1
    if net.opset < 13:
        y = net.op("Split", [x], parts, axis=axis, split=sizes)
    else:
        y = net.op("Split", [x, net.ints(*sizes)], parts, axis=axis)
    prefix = y.rpartition("_")[0]
    if sizes[0] == sizes[-1] and parts > 1 and net.chance(0.5):
        return net.op("Add", [f"{prefix}_0", f"{prefix}_{parts - 1}"])
    return f"{prefix}_{net.between(0, parts - 1)}"


def slice_step(net: Net, x: str, _: Sequence[str]) -> str:
    shape = net.shapes[x]
    axis = net.between(0, len(shape) - 1)
    start = net.between(-shape[axis], shape[axis] - 1)
    end = net.pick(shape[axis], 2**31 - 1, 2**63 - 1, -1)
    if net.opset < 10:
        return net.op("Slice", [x], axes=[axis], starts=[start], ends=[end])
    step = net.pick(1, 1, 2)
    if net.chance(0.15):
        start, end, step = -1, -(2**63), -1
    return net.op("Slice", [x, net.ints(start), net.ints(end), net.ints(axis), net.ints(step)])


def gather_step(net: Net, x: str, _: Sequence[str]) -> str:
    shape = net.shapes[x]
    axis = net.between(0, len(shape) - 1)
    low = 0 if net.opset < 11 else -shape[axis]
    many = [net.between(low, shape[axis] - 1) for _ in range(net.between(1, 4))]
    indices = np.array(many if net.chance(0.7) or len(shape) < 2 else many[0], np.int64)
    return net.op("Gather", [x, net.constant(indices)], axis=axis)


def pad_step(net: Net, x: str, _: Sequence[str]) -> str:
    shape = net.shapes[x]
    if len(shape) != 4:
        raise Impossible("no image")
    mode = net.pick("constant", "constant", "reflect", "edge", *(["wrap"] if net.opset >= 19 else []))
    most = min(shape[2:]) - 1 if mode == "reflect" else min(shape[2:])
    pads = [0, 0, *(net.between(0, min(2, most)) for _ in "hw"), 0, 0, *(net.between(0, min(2, most)) for _ in "hw")]
    if net.opset < 11:
        return net.op("Pad", [x], pads=pads, mode=mode)
    value = [net.constant(np.float32(net.pick(0.0, 1.5)))] if net.chance(0.5) else []
    return net.op("Pad", [x, net.ints(*pads), *value], mode=mode if mode != "constant" or net.chance(0.5) else None)


def resize_step(net: Net, x: str, _: Sequence[str]) -> str:
    _, _, h, w = image(net, x)
    scales = np.array([1, 1, net.pick(1.0, 2.0, 2.0, 3.0, 0.5), net.pick(1.0, 2.0, 1.5)], np.float32)
    if net.opset < 9:
        raise Impossible("Upsample with attributes alone")
    if net.opset == 9:
        return net.op("Upsample", [x, net.constant(scales)], mode=net.pick("nearest", "linear"))
    if net.opset == 10:
        return net.op("Resize", [x, net.constant(scales)], mode=net.pick("nearest", "linear"))
    mode = net.pick("nearest", "linear", "cubic")
    attrs = {"mode": mode, "coordinate_transformation_mode": net.pick("half_pixel", "asymmetric", "align_corners")}
    if mode == "nearest":
        attrs["nearest_mode"] = net.pick("floor", "ceil", "round_prefer_floor", "round_prefer_ceil")
    none = net.constant(np.zeros(0, np.float32)) if net.opset < 13 else ""
    if net.chance(0.5):
        return net.op("Resize", [x, none, net.constant(scales)], **attrs)
    sizes = net.ints(*net.shapes[x][:2], h * 2, w + net.between(0, 3))
    return net.op("Resize", [x, none, none, sizes], **attrs)


def depth_to_space_step(net: Net, x: str, _: Sequence[str]) -> str:
    _, c, h, w = image(net, x)
    if c % 4 == 0 and net.chance(0.6):
        return net.op("DepthToSpace", [x], blocksize=2, mode=net.pick("DCR", "CRD") if net.opset >= 11 else None)
    if h % 2 or w % 2:
        raise Impossible("does not divide")
    return net.op("SpaceToDepth", [x], blocksize=2)


def shuffle_step(net: Net, x: str, _: Sequence[str]) -> str:
    n, c, h, w = image(net, x)
    groups = net.pick(*(g for g in (2, 3, 4) if c % g == 0)) if any(c % g == 0 for g in (2, 3, 4)) else 1
    y = net.op("Reshape", [x, net.ints(n, groups, c // groups, h, w)])
    y = net.op("Transpose", [y], perm=[0, 2, 1, 3, 4])
    return net.op("Reshape", [y, net.ints(n, -1, h, w)])


def transpose_step(net: Net, x: str, _: Sequence[str]) -> str:
    rank = len(net.shapes[x])
    perm = net.rng.permutation(rank).tolist()
    if rank == 4 and net.chance(0.5):
        perm = net.pick([0, 2, 3, 1], [0, 3, 1, 2], [0, 1, 3, 2])
    return net.op("Transpose", [x], perm=perm if net.chance(0.9) else None)


def reshape_step(net: Net, x: str, _: Sequence[str]) -> str:
    shape = net.shapes[x]
    target = net.pick((shape[0], -1), (0, -1), (-1, shape[-1]), (0, 1, -1), (*shape[:-1], shape[-1], 1), (-1,))
    if len(shape) == 3:
        target = net.pick(target, (0, 0, -1, 1), (*shape, 1))
    if net.chance(0.3) and len(shape) == 4:
        return _computed_reshape(net, x)
    return net.op("Reshape", [x, net.ints(*target)])


def _computed_reshape(net: Net, x: str) -> str:
    """To a shape that the graph computes from the value's own, as exporters write it."""
    size = net.op("Gather", [net.op("Shape", [x]), net.constant(np.array(0, np.int64))], axis=0)
    given, attrs = axes(net, (0,), 12)
    size = net.op("Unsqueeze", [size, *given], **attrs)
    target = net.op("Concat", [size, net.ints(-1)], axis=0)
    return net.op("Reshape", [x, target])


def flatten_step(net: Net, x: str, _: Sequence[str]) -> str:
    rank = len(net.shapes[x])
    return net.op("Flatten", [x], axis=net.pick(None, 1, 0, min(2, rank)))


def squeeze_step(net: Net, x: str, _: Sequence[str]) -> str:
    shape = net.shapes[x]
    ones = [axis for axis, dim in enumerate(shape) if dim == 1]
    if ones and len(shape) > 1 and net.chance(0.5):
        given, attrs = axes(net, (net.pick(*ones),), 12)
        return net.op("Squeeze", [x, *given], **attrs)
    if len(shape) > 4:
        raise Impossible("enough")
    given, attrs = axes(net, (net.between(0, len(shape)),), 12)
    return net.op("Unsqueeze", [x, *given], **attrs)


def expand_step(net: Net, x: str, _: Sequence[str]) -> str:
    since(net, 8)
    target = [dim if dim > 1 or net.chance(0.5) else net.between(1, 3) for dim in net.shapes[x]]
    return net.op("Expand", [x, net.ints(*target)])


def tile_step(net: Net, x: str, _: Sequence[str]) -> str:
    return net.op("Tile", [x, net.ints(*(net.pick(1, 1, 2) for _ in net.shapes[x]))])


def nothing_step(net: Net, x: str, _: Sequence[str]) -> str:
    kind = net.pick("Identity", "Dropout", "Cast")
    return net.op(kind, [x], to=1 if kind == "Cast" else None)


def filled_step(net: Net, x: str, _: Sequence[str]) -> str:
    """Plus a constant that a ConstantOfShape makes."""
    since(net, 9)
    value = numpy_helper.from_array(np.array([0.25], np.float32))
    return net.op("Add", [x, net.op("ConstantOfShape", [net.ints(net.shapes[x][-1])], value=value)])
