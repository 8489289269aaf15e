"""What determines a result, as text: values down to their last field, the compiler's own sources, other packages."""

from __future__ import annotations

import dataclasses
import enum
import functools
import hashlib
import os
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from blockfuse.errors import InternalError

_PLAIN = (str, int, float, bytes, type(None))
_ABOVE = frozenset({"cli", "tools", "verification"})  # packages that the compiler never imports


def text_of(value: object, *, compared: bool = False) -> str:
    """A value as text; values with the same text do not differ in anything.

    Args:
        value: Plain data, enumerations, arrays, dataclasses, and tuples, lists, sets and mappings of them. Dataclasses
            that are equal only to themselves are written once, and then named by their number.
        compared: Whether to leave out fields of dataclasses that do not count when they are compared.

    Raises:
        InternalError: The value has parts of other types.
    """
    text = _Text(compared=compared)
    text.add(value)
    return "\0".join(text.parts)


class _Text:
    """The text while it is written."""

    def __init__(self, *, compared: bool) -> None:
        self.compared = compared
        self.parts: list[str] = []
        self.numbers: dict[int, int] = {}

    def add(self, value: Any) -> None:
        if isinstance(value, enum.Enum):
            self.parts.append(f"{type(value).__name__}.{value.name}")
        elif isinstance(value, _PLAIN):
            self.parts.append(repr(value))
        elif isinstance(value, tuple | list):
            self._all("(", value)
        elif isinstance(value, Mapping):
            self._all("{", [part for item in value.items() for part in item])
        elif isinstance(value, AbstractSet):
            self._all("<", sorted(text_of(item, compared=self.compared) for item in value))
        elif isinstance(value, np.ndarray | np.generic):
            self._array(np.asarray(value))
        elif dataclasses.is_dataclass(value) and not isinstance(value, type):
            self._dataclass(value)
        else:
            raise InternalError(f"a {type(value).__name__} cannot be told from another one by text")

    def _all(self, opening: str, items: Any) -> None:
        self.parts.append(opening)
        for item in items:
            self.add(item)
        self.parts.append(")")

    def _array(self, array: np.ndarray[Any, Any]) -> None:
        data = repr(array.tolist()).encode() if array.dtype.hasobject else np.ascontiguousarray(array).tobytes()
        self.parts.append(f"{array.dtype.name}{array.shape} {hashlib.sha256(data).hexdigest()}")

    def _dataclass(self, value: Any) -> None:
        kind: Any = type(value)
        if not kind.__dataclass_params__.eq:
            if id(value) in self.numbers:
                self.parts.append(f"#{self.numbers[id(value)]}")
                return
            self.numbers[id(value)] = len(self.numbers)
        self._all(f"{kind.__name__}(", [getattr(value, name) for name in _fields(kind, compared=self.compared)])


@functools.cache
def _fields(kind: Any, *, compared: bool) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(kind) if field.compare or not compared)


@functools.cache
def own_sources() -> str:
    """The hash of all of this package's sources that the compiler may import."""
    found = hashlib.sha256()
    root = Path(__file__).parent
    for place, folders, files in os.walk(root, followlinks=True):
        folders[:] = sorted(name for name in folders if Path(place) != root or name not in _ABOVE)
        for name in sorted(file for file in files if file.endswith(".py")):
            data = (Path(place) / name).read_bytes()
            found.update(f"{Path(place, name).relative_to(root)} {len(data)} ".encode() + data)
    return found.hexdigest()


@functools.cache
def version_of(package: str) -> str:
    """The version of an installed package."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"
