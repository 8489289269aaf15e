"""Values as text: nothing differs between values with the same text, and what is the same gives the same text."""

from dataclasses import dataclass, field
from enum import Enum, StrEnum

import numpy as np
import pytest

from blockfuse import fingerprint
from blockfuse.errors import InternalError
from blockfuse.fingerprint import own_sources, text_of, version_of


class Color(StrEnum):
    RED = "red"


class Other(Enum):
    RED = "red"


@dataclass(frozen=True)
class Pair:
    left: object
    right: object = 0
    name: str = field(default="", compare=False)


@dataclass(eq=False)
class Box:
    content: object = None


BOX = Box(1)
VALUES = [
    0,
    False,
    0.0,
    -0.0,
    None,
    "",
    "0",
    b"0",
    "\0",
    "', '",
    Color.RED,
    Other.RED,
    "red",
    (),
    (0,),
    ((0,),),
    (0, 0),
    ((0, 0),),
    ((0,), 0),
    (0, (0,)),
    {},
    {0: 0},
    {0: 1},
    {1: 0, 0: 1},
    {0: 1, 1: 0},
    frozenset(),
    frozenset({0}),
    frozenset({1, 0}),
    Pair(0),
    Pair(0, 1),
    Pair(1, 0),
    Pair(Pair(0), 0),
    Pair(0, 0, "name"),
    Box(1),
    Box(Box(1)),
    (BOX, BOX),
    (Box(1), Box(1)),
    np.float32(0),
    np.zeros(4, np.float32),
    np.zeros(4, np.int32),
    np.zeros((2, 2), np.float32),
    np.zeros(0, np.float32),
    np.array([0, 0, 0, 1], np.float32),
    np.array(["a", "b"], object),
    np.array(["a", "c"], object),
]


def test_different_values_have_different_texts():
    texts = [text_of(value) for value in VALUES]
    same = [(a, b) for i, a in enumerate(VALUES) for j, b in enumerate(VALUES[:i]) if texts[i] == texts[j]]
    assert not same


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (frozenset("abcdef"), frozenset("fedcba")),
        (Pair(shared := Pair(1), shared), Pair(Pair(1), Pair(1))),
        (np.arange(6).reshape(2, 3).T, np.ascontiguousarray(np.arange(6).reshape(2, 3).T)),
        ((1, 2), [1, 2]),
    ],
)
def test_equal_values_have_the_same_text(one, other):
    assert text_of(one) == text_of(other)


def test_what_is_not_compared_may_be_left_out():
    one, other = ({"a": [Pair(0, 0, name)]} for name in ("one", "other"))
    assert text_of(one) != text_of(other)
    assert text_of(one, compared=True) == text_of(other, compared=True)


@pytest.mark.parametrize("value", [object(), (0, [lambda: 0]), {0: Pair}])
def test_what_cannot_be_told_apart_is_refused(value):
    with pytest.raises(InternalError, match="cannot be told from another one"):
        text_of(value)


def test_every_source_that_the_compiler_may_import_counts(monkeypatch, tmp_path):
    for name in ("a.py", "plan/b.py", "cli/c.py", "plan/cli/d.py", "plan/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "e.py").write_text("1")
    root = tmp_path / "package"
    root.mkdir()
    for name in ("a.py", "plan", "cli"):
        (tmp_path / name).rename(root / name)
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    monkeypatch.setattr(fingerprint, "__file__", str(root / "fingerprint.py"))
    found = [own_sources.__wrapped__()]
    for path in ("a.py", "plan/b.py", "plan/cli/d.py", "linked/e.py", "cli/c.py", "plan/notes.txt"):
        (root / path).write_text("2")
        found.append(own_sources.__wrapped__())
    assert len(set(found[:5])) == 5
    assert found[4] == found[5] == found[6]


def test_versions_are_those_of_installed_packages():
    assert version_of("numpy") == np.__version__
    assert version_of("no-such-package") == "unknown"
