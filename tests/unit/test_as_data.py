"""Dataclasses through JSON and back, and data that is none of theirs."""

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

import pytest

from blockfuse.as_data import from_data, to_data


class Color(StrEnum):
    RED = "red"


@dataclass(frozen=True)
class Leaf:
    size: int
    color: Color = Color.RED


@dataclass(frozen=True)
class Tree:
    mode: Literal["a", "b"]
    leaves: tuple[Leaf, ...]
    pair: tuple[int, str]
    best: Leaf | None = None
    rate: float = 0.5
    is_old: bool = False


TREE = Tree("b", (Leaf(3), Leaf(-1)), (1, "x"), Leaf(0), 1e-9, is_old=True)
DATA = to_data(TREE)


@pytest.mark.parametrize("value", [TREE, Tree("a", (), (0, ""))])
def test_values_come_back(value):
    assert from_data(Tree, json.loads(json.dumps(to_data(value)))) == value


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        {},
        {**DATA, "more": 1},
        {name: DATA[name] for name in DATA if name != "best"},
        {**DATA, "mode": "c"},
        {**DATA, "mode": ["a"]},
        {**DATA, "leaves": DATA["leaves"][0]},
        {**DATA, "leaves": [None]},
        {**DATA, "leaves": [{"size": 1.0, "color": "red"}]},
        {**DATA, "leaves": [{"size": True, "color": "red"}]},
        {**DATA, "leaves": [{"size": 1, "color": "blue"}]},
        {**DATA, "pair": [1]},
        {**DATA, "pair": [1, "x", 2]},
        {**DATA, "best": 3},
        {**DATA, "rate": 1},
        {**DATA, "is_old": 1},
    ],
)
def test_what_is_no_such_value_is_refused(data):
    with pytest.raises(ValueError, match=r"is no|is not a valid"):
        from_data(Tree, data)
