"""Checks on arguments that several calls have: a wrong type is a :class:`UsageError` in one line, too."""

from __future__ import annotations

import operator
import os
from pathlib import Path

from blockfuse.errors import UsageError


def whole_number(name: str, value: object, least: int = 1) -> int:
    """An argument that counts something, numpy's integers included.

    Raises:
        UsageError: It is no whole number, or too small.
    """
    try:
        number = operator.index(value)  # type: ignore[arg-type]  # that is the question
    except TypeError:
        raise UsageError(f"{name} must be a whole number, not {value!r}") from None
    if number < least:
        raise UsageError(f"{name} must be at least {least}, not {number}")
    return number


def path_of(what: str, value: object) -> Path:
    """An argument that names a file.

    Raises:
        UsageError: It is no path.
    """
    if not isinstance(value, str | os.PathLike):
        raise UsageError(f"{what} must be a path, not {type(value).__name__}")
    return Path(value)
