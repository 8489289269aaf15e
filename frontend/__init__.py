"""ONNX in, ONNX out: reading models, bringing them to canonical form, and writing them back.

The names below load on first use, so importing this package does not import ``onnx``. Nothing outside this package
imports ``onnx``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from blockfuse.frontend.any_batch import for_batch
    from blockfuse.frontend.canonical import canonicalize, check_canonical
    from blockfuse.frontend.precision import own_dtype
    from blockfuse.frontend.reading import read
    from blockfuse.frontend.write import to_onnx, with_outputs

__all__ = ["canonicalize", "check_canonical", "for_batch", "own_dtype", "read", "to_onnx", "with_outputs"]

_HOME = {
    "canonicalize": "canonical",
    "check_canonical": "canonical",
    "for_batch": "any_batch",
    "own_dtype": "precision",
    "read": "reading",
    "to_onnx": "write",
    "with_outputs": "write",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
