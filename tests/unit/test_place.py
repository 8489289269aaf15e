"""Which images lie among the channels of others."""

from __future__ import annotations

import numpy as np
import pytest

from blockfuse.graph import Graph, Op, Tensor
from blockfuse.machine import Slot
from blockfuse.plan.place import Place, Placement, place

WIDTHS = {"a": 16, "b": 8, "c": 24, "d": 3}


def graph(ops: list[Op], constants: dict[str, list[int]] | None = None, **widths: int) -> Graph:
    """A graph of images of 5x7 pixels; results of concatenations are as wide as what they read."""
    sizes = WIDTHS | widths
    for op in ops:
        if op.kind == "Concat":
            sizes[op.output] = sum(sizes[name] for name in op.inputs)
    data = {name: np.array(value, np.int64) for name, value in (constants or {}).items()}
    tensors = [Tensor(name, (2, size, 5, 7), "float32") for name, size in sizes.items()]
    tensors += [Tensor(name, value.shape, "int64", value) for name, value in data.items()]
    made = {name for op in ops for name in op.outputs}
    return Graph("g", [name for name in sizes if name not in made], [ops[-1].outputs[-1]], tensors, ops)


def concat(output: str, *inputs: str, axis: int = 1) -> Op:
    return Op("Concat", f"concat_{output}", inputs, (output,), {"axis": axis})


def placed(ops: list[Op], made: str = "abcd", multiple: int = 1, **options: object) -> Placement:
    return place(graph(ops, **options), ops, set(made), multiple=multiple)


def test_parts_lie_side_by_side():
    found = placed([concat("y", "b", "a", "d")])
    assert found.free == {"concat_y"}
    assert found.places == {
        "b": Place("y", Slot(0, 27)),
        "a": Place("y", Slot(8, 27)),
        "d": Place("y", Slot(24, 27)),
    }
    assert found.slots(("a", "y", "unknown")) == (Slot(8, 27), None, None)


@pytest.mark.parametrize("nested", [True, False])
def test_growing_concatenations_share_one_image(nested):
    """As PyTorch exports DenseNet, and as Keras does."""
    second = ("y", "c") if nested else ("a", "b", "c")
    third = ("z", "d") if nested else ("a", "b", "c", "d")
    found = placed([concat("y", "a", "b"), concat("z", *second), concat("w", *third)])
    assert found.free == {"concat_y", "concat_z", "concat_w"}
    firsts = {"a": 0, "b": 16, "c": 24, "d": 48, "y": 0, "z": 0}
    assert found.places == {name: Place("w", Slot(first, 51)) for name, first in firsts.items()}


def test_one_order_wins_where_two_contradict():
    found = placed([concat("y", "a", "b"), concat("z", "b", "a")])
    assert found.free == {"concat_y"}
    assert {place.buffer for place in found.places.values()} == {"y"}


@pytest.mark.parametrize(
    "op",
    [
        concat("y", "a", "a"),
        concat("y", "a", "x"),
        concat("y", "a", "b", axis=2),
        Op("Add", "add", ("a", "b"), ("y",)),
    ],
    ids=["twice", "not made by a kernel", "of rows", "no concatenation"],
)
def test_what_stays_a_copy(op):
    assert placed([op], x=8, y=24) == Placement()


def test_unaligned_parts_stay_a_copy():
    assert placed([concat("y", "a", "b")], multiple=8).free
    assert placed([concat("y", "a", "d")], multiple=8) == Placement()


def test_split():
    split = Op("Split", "split", ("a",), ("u", "v"), {"axis": -3})
    found = placed([split], u=6, v=10)
    assert found.places == {"u": Place("a", Slot(0, 16)), "v": Place("a", Slot(6, 16))}
    assert placed([split], made="b", u=6, v=10) == Placement()
    assert placed([split], multiple=8, u=6, v=10) == Placement()


def test_split_of_a_concatenation():
    ops = [concat("y", "b", "a"), Op("Split", "split", ("y",), ("u", "v"), {"axis": 1})]
    assert placed(ops, u=12, v=12).places["v"] == Place("y", Slot(12, 24))
    ops = [concat("y", "b", "a"), Op("Split", "split", ("a",), ("u", "v"), {"axis": 1})]
    assert placed(ops, u=8, v=8).places["v"] == Place("y", Slot(16, 24))


def split_of_a(*outputs: str) -> Op:
    return Op("Split", "split", ("a",), outputs, {"axis": 1})


def test_all_parts_of_an_image_side_by_side_are_the_image():
    """As C2f has it: both halves go into the result, and one is read by other kernels, too."""
    found = placed([split_of_a("u", "v"), concat("y", "u", "v", "c")], u=6, v=10)
    assert found.free == {"split", "concat_y"}
    assert found.places == {
        "a": Place("y", Slot(0, 40)),
        "u": Place("y", Slot(0, 40)),
        "v": Place("y", Slot(6, 40)),
        "c": Place("y", Slot(16, 40)),
    }


def test_all_parts_of_an_image_behind_others():
    found = placed([split_of_a("u", "v"), concat("y", "b", "u", "v")], u=6, v=10)
    assert found.places["v"] == Place("y", Slot(14, 24))


def test_parts_that_are_slices_of_a_concatenation():
    ops = [
        concat("y", "a", "b"),
        Op("Slice", "low", ("y", "zero", "nine", "one"), ("u",), {}),
        Op("Slice", "high", ("y", "nine", "end", "one"), ("v",), {}),
        concat("z", "u", "v", "c"),
    ]
    numbers = {"zero": [0], "nine": [9], "end": [24], "one": [1]}
    found = placed(ops, constants=numbers, u=9, v=15)
    assert found.free == {"concat_y", "low", "high", "concat_z"}
    firsts = {"a": 0, "b": 16, "c": 24, "y": 0, "u": 0, "v": 9}
    assert found.places == {name: Place("z", Slot(first, 48)) for name, first in firsts.items()}


@pytest.mark.parametrize("order", ["vu", "uu", "u", "v"])
def test_some_parts_of_an_image_stay_a_copy(order):
    found = placed([split_of_a("u", "v"), concat("y", *order, "c")], u=8, v=8)
    assert found.free == {"split"}
    assert found.places == {"u": Place("a", Slot(0, 16)), "v": Place("a", Slot(8, 16))}


@pytest.mark.parametrize(
    ("bounds", "first"),
    [
        ({"starts": [4], "ends": [9], "axes": [1]}, 4),
        ({"starts": [-5], "ends": [100], "axes": [-3], "steps": [1]}, 11),
        ({"starts": [4], "ends": [9], "axes": [2]}, None),
        ({"starts": [4], "ends": [9], "axes": [1], "steps": [2]}, None),
        ({"starts": [4, 0], "ends": [9, 2], "axes": [1, 2]}, None),
        ({"starts": [4], "ends": [9]}, None),
    ],
)
def test_slice(bounds, first):
    op = Op("Slice", "slice", ("a", *bounds), ("u",), {})
    found = placed([op], constants=bounds, u=5)
    assert found.places == ({} if first is None else {"u": Place("a", Slot(first, 16))})
