"""Files that appear when they are complete, or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO


@contextlib.contextmanager
def replacing(target: Path, prefix: str = "") -> Iterator[IO[bytes]]:
    """A new file beside the target that takes its place at the end, or vanishes on an error.

    Args:
        target: Where the file appears.
        prefix: What the new file is called until then, before eight characters; by default like the target.
    """
    mask = os.umask(0)
    os.umask(mask)
    handle, name = tempfile.mkstemp(prefix=prefix or f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o666 & ~mask)
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
