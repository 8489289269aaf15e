"""What an emulation counted of kernels: a file that ``python -m benchmarks.cuda_counts`` of a source checkout writes.

The emulator compiles kernels with a C++ compiler and is part of the tests, not of the package; so counting is a step of
its own, and what it found is handed over as JSON::

    {"rows": [{"kernel": "bf_basic_block_0", "plan": "tile 7x14, ...", "grid": 128, "counted_bytes": 1000, ...}, ...]}
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from blockfuse.errors import UsageError
from blockfuse.report import KernelRecord


@dataclass(frozen=True)
class Counts:
    """Counted bytes by name, plan and grid of a kernel: a kernel of another plan is another one."""

    moved: Mapping[tuple[str, str, int], int]

    def of(self, record: KernelRecord) -> int | None:
        """Bytes that a kernel moves; None where it was not counted."""
        return self.moved.get((record.name, record.plan, record.grid))


def read_counts(path: str | os.PathLike[str]) -> Counts:
    """The counts in a file.

    Raises:
        UsageError: It cannot be read, or holds something else.
    """
    try:
        rows = json.loads(Path(path).read_text(encoding="utf-8"))["rows"]
        return Counts({(row["kernel"], row["plan"], row["grid"]): row["counted_bytes"] for row in rows})
    except (OSError, ValueError, KeyError, TypeError) as error:
        hint = "write one with python -m benchmarks.cuda_counts in a checkout of the sources"
        raise UsageError(
            f"{os.fspath(path)} has no counts of kernels ({type(error).__name__}: {error}); {hint}"
        ) from None
