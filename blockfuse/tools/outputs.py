"""What a network gave, in one line per output."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


def summarize(array: np.ndarray[Any, Any]) -> dict[str, Any]:
    """Shape and range of an output; the range is None where a value is not finite."""
    finite = bool(np.isfinite(array).all())
    numbers = {key: float(getattr(array, key)()) if finite else None for key in ("min", "max", "mean")}
    return {"shape": list(array.shape), "dtype": str(array.dtype), **numbers, "largest_at": int(array.argmax())}


def summary_line(name: str, one: Mapping[str, Any]) -> str:
    """The summary of an output as text."""
    if one["min"] is None:
        return f"{name} {one['dtype']}{one['shape']}: some values are not finite"
    numbers = f"{one['min']:.6g} to {one['max']:.6g}, mean {one['mean']:.6g}"
    return f"{name} {one['dtype']}{one['shape']}: {numbers}, largest at {one['largest_at']}"
