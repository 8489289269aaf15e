"""Model files with something wrong in them: bytes changed blindly, or parts of the protobuf changed on purpose."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from blockfuse.frontend import zoo
from tests.fuzz.whole_graphs import random_model

ABSURD = (0, -1, 1, 2, 3, 7, 100, 2**16, 2**31 - 1, 2**31, -(2**31), 2**40, 2**62, 2**63 - 1, -(2**63))
"""Whole numbers that programs trip over."""

KINDS = ("Foo", *sorted({schema.name for schema in onnx.defs.get_all_schemas()}))


def mutated_file(seed: int) -> bytes:
    """The bytes of a file that was a small model."""
    rng = np.random.default_rng((3, seed))
    base = _base(rng)
    if rng.random() < 0.25:
        data = bytearray(base.SerializeToString())
        for _ in range(int(rng.integers(1, 3))):
            data = _pick(rng, BLIND)(rng, data)
        return bytes(data)
    model = onnx.ModelProto()
    model.CopyFrom(base)
    for _ in range(int(rng.choice((1, 1, 1, 1, 1, 2, 4)))):
        _pick(rng, AIMED)(rng, model)
    data = model.SerializeToString()
    return bytes(_flip(rng, bytearray(data))) if rng.random() < 0.05 else data


def _base(rng: np.random.Generator) -> onnx.ModelProto:
    return zoo_model(int(rng.integers(5))) if rng.random() < 0.25 else random_model(int(rng.integers(400)))


@functools.cache
def zoo_model(number: int) -> onnx.ModelProto:
    """A known architecture, narrow and for small images."""
    make = (zoo.resnet18, zoo.mobilenet_v2, zoo.efficientnet_b0, zoo.convnext_tiny, zoo.resnet50)[number]
    return make(size=32, width=0.125, classes=5)


def _pick(rng: np.random.Generator, items: Sequence):
    return items[int(rng.integers(len(items)))]


# ---- blind -----------------------------------------------------------------------------------------------------------
def _flip(rng: np.random.Generator, data: bytearray) -> bytearray:
    """Bits of up to eight bytes; half of the time among the structure at the ends, not the weights in the middle."""
    for _ in range(int(rng.integers(1, 9))):
        if data:
            data[_place(rng, data)] ^= 1 << int(rng.integers(8))
    return data


def _place(rng: np.random.Generator, data: bytearray) -> int:
    end = min(len(data), 2000) if rng.random() < 0.5 else len(data)
    return int(rng.integers(end))


def _truncate(rng: np.random.Generator, data: bytearray) -> bytearray:
    return data[: int(rng.integers(len(data) + 1))]


def _splice(rng: np.random.Generator, data: bytearray) -> bytearray:
    """A piece of another model, or of the same one, over or between what is there."""
    other = data if rng.random() < 0.5 else bytearray(_base(rng).SerializeToString())
    if not (data and other):
        return data
    start, at, length = _place(rng, other), _place(rng, data), int(rng.choice((1, 4, 16, 64, 500, 5000)))
    return data[:at] + other[start : start + length] + data[at + length * int(rng.integers(2)) :]


def _cut_out(rng: np.random.Generator, data: bytearray) -> bytearray:
    at = _place(rng, data) if data else 0
    return data[:at] + data[at + int(rng.choice((1, 2, 8, 100))) :]


def _overwrite(rng: np.random.Generator, data: bytearray) -> bytearray:
    at, length = (_place(rng, data) if data else 0), int(rng.integers(1, 12))
    data[at : at + length] = _pick(rng, (b"\xff", b"\0", b"\x80", b"\n")) * length
    return data


BLIND: tuple[Callable[[np.random.Generator, bytearray], bytearray], ...] = (
    _flip,
    _flip,
    _truncate,
    _splice,
    _splice,
    _cut_out,
    _overwrite,
)


# ---- aimed -----------------------------------------------------------------------------------------------------------
def _node(rng: np.random.Generator, model: onnx.ModelProto) -> onnx.NodeProto:
    return _pick(rng, model.graph.node) if model.graph.node else model.graph.node.add()


def _names(model: onnx.ModelProto) -> list[str]:
    graph = model.graph
    found = [name for node in graph.node for name in (*node.input, *node.output)]
    return [*found, *(value.name for value in (*graph.input, *graph.initializer)), "nowhere", ""]


def _rewire(rng: np.random.Generator, model: onnx.ModelProto) -> None:
    """An input or an output of a node has another name."""
    node = _node(rng, model)
    names = node.output if rng.random() < 0.25 else node.input
    if names:
        names[int(rng.integers(len(names)))] = _pick(rng, _names(model))


def _arity(rng: np.random.Generator, model: onnx.ModelProto) -> None:
    """One name more or less."""
    node = _node(rng, model)
    names = node.output if rng.random() < 0.3 else node.input
    if rng.random() < 0.5 and names:
        del names[int(rng.integers(len(names)))]
    else:
        names.append(_pick(rng, _names(model)))


def _kind(rng: np.random.Generator, model: onnx.ModelProto) -> None:
    _node(rng, model).op_type = _pick(rng, KINDS)


def _drop(rng: np.random.Generator, model: onnx.ModelProto) -> None:
    graph = model.graph
    items = _pick(rng, (graph.node, graph.node, graph.initializer, graph.input, graph.output, model.opset_import))
    if items:
        del items[int(rng.integers(len(items)))]


def _double(rng: np.random.Generator, model: onnx.ModelProto) -> None:
    graph = model.graph
    items = _pick(rng, (graph.node, graph.initializer, graph.input, graph.output, model.opset_import))
    if items:
        items.add().CopyFrom(_pick(rng, items))


def _reorder(rng: np.random.Generator, model: onnx.ModelProto) -> None:
    nodes = [model.graph.node[int(i)] for i in rng.permutation(len(model.graph.node))]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)


def _absurd(rng: np.random.Generator) -> int:
    return int(_pick(rng, ABSURD))


def _attribute(rng: np.random.Generator, model: onnx.ModelProto) -> None:
    """An attribute's numbers, length, type or name."""
    owners = [node for node in model.graph.node if node.attribute]
    if not owners:
        return
    attribute = _pick(rng, _pick(rng, owners).attribute)
    choice = int(rng.integers(9))
    if choice < 4 and attribute.ints:
        attribute.ints[int(rng.integers(len(attribute.ints)))] = _absurd(rng)
    elif choice < 4:
        attribute.i = _absurd(rng)
        attribute.f = float(_pick(rng, (np.nan, np.inf, -np.inf, 0.0, -1.0, 1e38, 1e-38)))
    elif choice == 4 and attribute.ints:
        del attribute.ints[int(rng.integers(len(attribute.ints)))]
    elif choice == 5:
        attribute.ints.extend([_absurd(rng)] * int(rng.choice((1, 2, 50))))
    elif choice == 6:
        attribute.type = int(rng.integers(15))
    elif choice == 7:
        attribute.name = _pick(rng, ("axis", "axes", "pads", "perm", "group", "to", "", "mode", "\x00"))
    else:
        attribute.s = _pick(rng, (b"", b"SAME_UPPER", b"\xff\xfe", b"VALID", b"cubic", b"reflect"))


def _new_attribute(rng: np.random.Generator, model: onnx.ModelProto) -> None:
    """One that the node did not have, in the right type or not."""
    names = ("axis", "axes", "pads", "strides", "dilations", "perm", "group", "ceil_mode", "keepdims", "kernel_shape")
    value = [_absurd(rng) for _ in range(int(rng.integers(0, 5)))] or _absurd(rng)
    name = _pick(rng, (*names, "auto_pad", "blocksize", "to", "transB", "allowzero", "start", "output_shape"))
    attribute = _node(rng, model).attribute.add(name=name)
    if isinstance(value, int):
        attribute.type, attribute.i = AttributeProto.INT, value
    else:
        attribute.type = AttributeProto.INTS
        attribute.ints.extend(value)


def _dims(rng: np.random.Generator, model: onnx.ModelProto) -> None:
    """Dimensions of an input, an output or an initializer."""
    if model.graph.initializer and rng.random() < 0.5:
        dims = _pick(rng, model.graph.initializer).dims
        if dims and rng.random() < 0.7:
            dims[int(rng.integers(len(dims)))] = _absurd(rng)
        else:
            dims.extend([_absurd(rng)] * int(rng.choice((1, 5, 70))))
        return
    values = [*model.graph.input, *model.graph.output, *model.graph.value_info]
    shape = _pick(rng, values).type.tensor_type.shape if values else None
    if shape is None or not shape.dim:
        return
    dim = _pick(rng, shape.dim)
    if rng.random() < 0.2:
        dim.dim_param = _pick(rng, ("N", "", "a*b", "\n"))
    elif rng.random() < 0.2:
        shape.dim.extend([dim] * int(rng.choice((1, 5, 70))))
    else:
        dim.dim_value = _absurd(rng)


def _data(rng: np.random.Generator, model: onnx.ModelProto) -> None:
    """The bytes, the type or the home of an initializer."""
    if not model.graph.initializer:
        return
    tensor = _pick(rng, model.graph.initializer)
    choice = int(rng.integers(6))
    if choice == 0:
        tensor.raw_data = tensor.raw_data[: int(rng.integers(len(tensor.raw_data) + 1))]
    elif choice == 1:
        tensor.data_type = int(rng.integers(28))
    elif choice == 2:
        tensor.data_location = TensorProto.EXTERNAL
        places = ("x.data", "../x", "/etc/passwd", "", "\x00", ".", "model.onnx")
        tensor.external_data.add(key="location", value=_pick(rng, places))
        if rng.random() < 0.5:
            tensor.external_data.add(key=_pick(rng, ("offset", "length")), value=_pick(rng, ("-1", "x", str(2**62))))
    elif choice == 3:
        tensor.float_data.append(1.0)
    elif choice == 4:
        tensor.name = _pick(rng, _names(model))
    else:
        _new_value(rng, tensor)


def _new_value(rng: np.random.Generator, tensor: TensorProto) -> None:
    """Absurd numbers in a small constant, which may be a shape, an axis or a pad."""
    try:
        value = numpy_helper.to_array(tensor).copy()
    except (ValueError, TypeError, KeyError, onnx.checker.ValidationError):  # the last: data in a file, of no name
        return
    if value.size and value.dtype.kind in "iu":
        value.reshape(-1)[int(rng.integers(value.size))] = np.array(_absurd(rng)).astype(value.dtype)
    elif value.size and value.dtype.kind == "f":
        value.reshape(-1)[int(rng.integers(value.size))] = _pick(rng, (np.nan, np.inf, 0.0, -1.0, 1e30))
    tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))


def _versions(rng: np.random.Generator, model: onnx.ModelProto) -> None:
    if model.opset_import and rng.random() < 0.7:
        model.opset_import[0].version = int(_pick(rng, (0, 1, 6, 7, 9, 11, 13, 18, 21, 25, 26, 999, -1, 2**62)))
    elif rng.random() < 0.5:
        model.ir_version = _absurd(rng)
    else:
        _node(rng, model).domain = _pick(rng, ("com.microsoft", "ai.onnx.ml", "ai.onnx", "local", "\n"))


def _input_type(rng: np.random.Generator, model: onnx.ModelProto) -> None:
    if not model.graph.input:
        return
    value = _pick(rng, model.graph.input)
    choice = int(rng.integers(4))
    if choice == 0:
        value.ClearField("type")
    elif choice == 1:
        value.type.sequence_type.elem_type.tensor_type.elem_type = 1
    elif choice == 2:
        value.type.tensor_type.ClearField("shape")
    else:
        value.type.tensor_type.elem_type = int(rng.integers(28))


def _function(rng: np.random.Generator, model: onnx.ModelProto) -> None:
    """Functions that are called, call each other or themselves."""
    inner = _pick(rng, ("g", "f", "Relu"))
    body = [helper.make_node(inner, ["a"], ["b"], domain="local" if inner != "Relu" else "")]
    model.functions.append(helper.make_function("local", "f", ["a"], ["b"], body, [helper.make_opsetid("", 17)]))
    if rng.random() < 0.7:
        model.opset_import.append(helper.make_opsetid("local", 1))
    node = _node(rng, model)
    node.op_type, node.domain = "f", "local"


def _subgraph(rng: np.random.Generator, model: onnx.ModelProto) -> None:
    body = helper.make_graph([], "body", [], [])
    node = _node(rng, model)
    if rng.random() < 0.5:
        node.op_type = _pick(rng, ("If", "Loop", "Scan"))
    node.attribute.append(helper.make_attribute("then_branch", body))


AIMED: tuple[Callable[[np.random.Generator, onnx.ModelProto], None], ...] = (
    _rewire,
    _rewire,
    _arity,
    _kind,
    _kind,
    _drop,
    _double,
    _reorder,
    _attribute,
    _attribute,
    _attribute,
    _new_attribute,
    _new_attribute,
    _dims,
    _dims,
    _data,
    _data,
    _data,
    _versions,
    _input_type,
    _function,
    _subgraph,
)
