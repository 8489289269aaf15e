"""Types of numbers by their names, also those that numpy lacks."""

from __future__ import annotations

from typing import Any

import numpy as np

from blockfuse.errors import TargetError

COMPUTED = "float32"
"""Type that networks compute in before a target narrows them."""

HALF = ("float16", "bfloat16")
"""Types of half precision."""

WHOLE = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
"""Types of whole numbers: single operators compute in them, kernels do not."""

Array = np.ndarray[Any, Any]


def item_size(name: str) -> int:
    """Bytes of a number of a type."""
    return 2 if name in HALF else np.dtype(name).itemsize


def numpy_type(name: str) -> np.dtype[Any]:
    """The type for numpy.

    Raises:
        TargetError: It is bfloat16, and the package that teaches numpy that is not installed.
    """
    if name == "bfloat16":
        try:
            import ml_dtypes  # noqa: F401, PLC0415 - tells numpy; machines that only run networks seldom need it
        except ImportError:
            raise TargetError("numpy has no bfloat16: install ml_dtypes, as an input or output is of it") from None
    return np.dtype(name)


def narrowed_bits(values: np.ndarray[Any, np.dtype[np.float32]], name: str) -> Array:
    """Finite float32 values rounded to a type of floating point, as raw bytes with one row per value."""
    if name != "bfloat16":
        return np.ascontiguousarray(values.astype(name)).view(np.uint8).reshape(values.size, -1)
    bits = values.view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return rounded.astype("<u2").view(np.uint8).reshape(-1, 2)


def widened_values(data: Array, name: str) -> Array:
    """Raw bytes of numbers of a type of floating point, as the same values in a type that numpy has."""
    if name != "bfloat16":
        return data.view(name)
    return (data.view("<u2").astype(np.uint32) << np.uint32(16)).view(np.float32)
