"""Frozen dataclasses as data that JSON can hold, and back: what does not fit the declared types is refused."""

from __future__ import annotations

import dataclasses
import enum
import functools
import types
import typing
from typing import Any, TypeVar

T = TypeVar("T")


def to_data(value: Any) -> Any:
    """A value of plain types, enumerations, tuples and dataclasses as data that JSON can hold."""
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, tuple | list):
        return [to_data(item) for item in value]
    if dataclasses.is_dataclass(value):
        return {field.name: to_data(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return value


def from_data(kind: type[T], data: Any) -> T:
    """The value of a type that :func:`to_data` gave this data for.

    Raises:
        ValueError: There is no such value.
    """
    value: T = _read(kind, data)
    return value


def _read(kind: Any, data: Any) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return _read_any(arguments, data)
    if origin is typing.Literal:
        return _checked(data in arguments, kind, data)
    if origin is tuple:
        return _read_tuple(kind, arguments, _checked(isinstance(data, list), kind, data))
    if dataclasses.is_dataclass(kind):
        return _read_dataclass(kind, _checked(isinstance(data, dict), kind, data))
    if issubclass(kind, enum.Enum):
        return kind(data)
    return _checked(type(data) is kind, kind, data)


def _read_any(kinds: tuple[Any, ...], data: Any) -> Any:
    """Data of the first of several types that it fits."""
    for kind in kinds:
        try:
            return _read(kind, data)
        except ValueError:
            continue
    return _checked(False, kinds, data)


def _read_tuple(kind: Any, arguments: tuple[Any, ...], data: list[Any]) -> tuple[Any, ...]:
    if arguments[-1] is Ellipsis:
        return tuple(_read(arguments[0], item) for item in data)
    _checked(len(arguments) == len(data), kind, data)
    return tuple(map(_read, arguments, data))


def _read_dataclass(kind: Any, data: dict[str, Any]) -> Any:
    fields = _fields(kind)
    _checked(data.keys() == fields.keys(), kind, data)
    return kind(**{name: _read(fields[name], item) for name, item in data.items()})


@functools.cache
def _fields(kind: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def _checked(fits: bool, kind: Any, data: Any) -> Any:
    if not fits:
        raise ValueError(f"{str(data)[:60]!r} is no {kind}")
    return data
