"""blockfuse: compile an ONNX convnet so that each residual block runs as one kernel.

The public names below load on first use: importing the package loads neither TVM nor onnx nor numpy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from blockfuse.compiler import compile  # noqa: A004 - read as blockfuse.compile()
    from blockfuse.errors import (
        ArtifactError,
        BlockfuseError,
        InputError,
        ModelError,
        PatternError,
        TargetError,
        UnsupportedModelError,
        UsageError,
        VerificationError,
    )
    from blockfuse.frontend import patterns
    from blockfuse.frontend.explain import explain
    from blockfuse.pattern import either, optional, pattern
    from blockfuse.report import Report
    from blockfuse.runtime.executable import Executable, load
    from blockfuse.verification.verify import verify

__version__ = "0.1.0"

_HOME = {
    "ArtifactError": "errors",
    "BlockfuseError": "errors",
    "Executable": "runtime.executable",
    "InputError": "errors",
    "ModelError": "errors",
    "PatternError": "errors",
    "Report": "report",
    "TargetError": "errors",
    "UnsupportedModelError": "errors",
    "UsageError": "errors",
    "VerificationError": "errors",
    "compile": "compiler",
    "either": "pattern",
    "explain": "frontend.explain",
    "load": "runtime.executable",
    "optional": "pattern",
    "pattern": "pattern",
    "patterns": "frontend",
    "verify": "verification.verify",
}

__all__ = [
    "ArtifactError",
    "BlockfuseError",
    "Executable",
    "InputError",
    "ModelError",
    "PatternError",
    "Report",
    "TargetError",
    "UnsupportedModelError",
    "UsageError",
    "VerificationError",
    "__version__",
    "compile",
    "either",
    "explain",
    "load",
    "optional",
    "pattern",
    "patterns",
    "verify",
]


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'blockfuse' has no attribute {name!r}")
    if name == "patterns":
        value = import_module("blockfuse.frontend.patterns")
    else:
        value = getattr(import_module(f"blockfuse.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
