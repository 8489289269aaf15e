"""Whole numbers, rounded."""

from __future__ import annotations


def round_up(size: int, multiple: int) -> int:
    """The least multiple from ``size`` on."""
    return -(-size // multiple) * multiple
