"""What goes on around the steps of the compiler: progress, dumps, times, and stopping early."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar, get_args

from blockfuse.errors import UsageError
from blockfuse.usage import path_of

Stage: TypeAlias = Literal["read", "canonicalize", "partition", "plan", "program", "lower", "build"]
STAGES: tuple[Stage, ...] = get_args(Stage)
Progress: TypeAlias = Callable[[str, int, int], None]
"""Called with what is done next, how many steps are done, and how many there are."""

T = TypeVar("T")

_SENTENCES: dict[Stage, str] = {
    "read": "reading the model",
    "canonicalize": "bringing it to canonical form",
    "partition": "finding blocks",
    "plan": "planning kernels",
    "program": "writing tile programs",
    "lower": "lowering them to TensorIR",
    "build": "generating code",
}


class StoppedAfter(Exception):  # noqa: N818 - not an error
    """Carries the result of the step that the caller wanted to stop after."""

    def __init__(self, result: Any) -> None:
        super().__init__("stopped early")
        self.result = result


class Watch:
    """Wraps each step of the compiler.

    Args:
        folder: Receives the result of every step as text; created if it does not exist.
        progress: Called before every step, and once at the end.
        stop_after: Name of the step to stop after.

    Raises:
        UsageError: The folder is no path, or what is called is no function.
    """

    def __init__(
        self, folder: str | os.PathLike[str] | None, progress: Progress | None, stop_after: Stage | None
    ) -> None:
        if progress is not None and not callable(progress):
            raise UsageError(f"progress must be a function of what, done and total, not {progress!r}")
        self.folder = None if folder is None else path_of("dump", folder)
        self.progress = progress
        self.stop_after = stop_after
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: Stage) -> Iterator[Callable[[T], T]]:
        """Time a step; the caller passes the step's result through the function given."""
        number = STAGES.index(stage)
        if self.progress:
            self.progress(_SENTENCES[stage], number, len(STAGES))
        started = time.perf_counter()
        results: list[Any] = []

        def done(result: T) -> T:
            results.append(result)
            return result

        yield done
        self.seconds[stage] = round(time.perf_counter() - started, 4)
        if self.folder is not None and results:
            self._dump(self.folder, f"{number + 1}_{stage}", results[0])
        if self.progress and number == len(STAGES) - 1:
            self.progress("done", len(STAGES), len(STAGES))
        if stage == self.stop_after:
            raise StoppedAfter(results[0] if results else None)

    def _dump(self, folder: Path, name: str, result: Any) -> None:
        """One file, or a folder with one file per named part."""
        try:
            parts: Mapping[str, Any] | None = getattr(result, "by_name", result if isinstance(result, dict) else None)
            if parts is None:
                folder.mkdir(parents=True, exist_ok=True)
                (folder / f"{name}.txt").write_text(f"{result}\n", encoding="utf-8")
                return
            (folder / name).mkdir(parents=True, exist_ok=True)
            for key, part in parts.items():
                (folder / name / f"{key}.txt").write_text(f"{part}\n", encoding="utf-8")
        except OSError as error:
            raise UsageError(f"cannot write dumps to {folder}: {error.strerror or error}") from None
