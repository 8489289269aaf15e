"""A user's file of patterns."""

from __future__ import annotations

import runpy
from pathlib import Path

from blockfuse.errors import BlockfuseError, PatternError, UsageError
from blockfuse.pattern import Pattern


def load_patterns(path: Path) -> tuple[Pattern, ...]:
    """Execute a Python file and return the patterns it defines at module level, in order.

    Raises:
        UsageError: The file cannot be read or defines no pattern.
        PatternError: It fails.
    """
    if not path.is_file():
        raise UsageError(f"--patterns {path}: there is no such file")
    try:
        found = runpy.run_path(str(path))
    except BlockfuseError as error:
        raise PatternError(f"{path}: {error}") from error
    except (Exception, SystemExit) as error:
        raise PatternError(f"{path} fails with {type(error).__name__}: {error}") from error
    patterns = dict.fromkeys(value for value in found.values() if isinstance(value, Pattern))
    if not patterns:
        raise UsageError(f"--patterns {path}: it defines no pattern; decorate a function with blockfuse.pattern")
    return tuple(patterns)
