"""Every error a user can meet.

::

    BlockfuseError
    ├── ModelError              the ONNX file cannot be read or makes no sense
    │   └── UnsupportedModelError   it is valid, but contains something that cannot be compiled
    ├── PatternError            a pattern function is malformed
    ├── UsageError              an argument of a call or a command is wrong
    ├── TargetError             the target is unknown or not available on this machine
    ├── ArtifactError           a container cannot be loaded here
    ├── InputError              an input given to a compiled model does not fit it
    ├── VerificationError       results differ from the reference by more than the tolerance
    └── InternalError           a check of what blockfuse itself made failed: a bug in blockfuse

Values that say no, and are not errors: ``blockfuse.pattern.Mismatch`` and ``blockfuse.plan.infeasible.Infeasible``.
"""

from typing import Any


class BlockfuseError(Exception):
    """Base of all errors raised on purpose; the message is one line fit for a command line."""


class ModelError(BlockfuseError):
    """The ONNX model cannot be read or is inconsistent."""


class UnsupportedModelError(ModelError):
    """The ONNX model is valid but uses something that cannot be compiled."""


class PatternError(BlockfuseError):
    """A pattern function does not describe a block."""


class UsageError(BlockfuseError, ValueError):
    """An argument of a call or a command is wrong."""


class TargetError(BlockfuseError):
    """The target is unknown, or nothing on this machine can serve it."""


class ArtifactError(BlockfuseError):
    """A container is damaged, of another version, or made for another machine."""


class InputError(BlockfuseError, ValueError):
    """An input of a compiled model has a wrong name, rank, size or type."""


class VerificationError(BlockfuseError):
    """A result differs from its reference by more than the tolerance.

    Attributes:
        verification: All that was compared, a :class:`blockfuse.verification.result.Verification`; its ``worst`` says
            where.
    """

    def __init__(self, message: str, verification: Any = None) -> None:
        super().__init__(message)
        self.verification = verification


class InternalError(BlockfuseError):
    """A check of what blockfuse itself made failed, such as one between two stages of the compiler."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type where there is none."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def one_line(text: str) -> str:
    """A text in one line that does nothing to a terminal; names in a file can hold anything."""
    return printable(" ".join(text.split()))


def printable(text: str) -> str:
    """A text with everything that is not printed, but for line breaks, written out as in Python."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or one == "\n" else repr(one)[1:-1] for one in text)
