"""Exit codes of the command line, and of packed networks."""

from __future__ import annotations

from blockfuse.errors import BlockfuseError, TargetError, UsageError, VerificationError

FAILED, WRONG_USAGE, NOT_VERIFIED, NO_TARGET, INTERRUPTED, NO_READER = 1, 2, 3, 5, 130, 141


def code_of(error: BlockfuseError) -> int:
    """The exit code that tells of an error."""
    codes = {UsageError: WRONG_USAGE, VerificationError: NOT_VERIFIED, TargetError: NO_TARGET}
    return next((code for kind, code in codes.items() if isinstance(error, kind)), FAILED)
