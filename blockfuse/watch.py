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
_ONCE = STAGES.index("partition")  # steps before it come once for all variants
Progress: TypeAlias = Callable[[str, int, int], None]
"""Called with what is done next, how many steps are done, and how many there are."""

S = TypeVar("S")
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
        variants: How often the steps after ``canonicalize`` come, see :meth:`each`.

    Raises:
        UsageError: The folder is no path, or what is called is no function.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str] | None,
        progress: Progress | None,
        stop_after: Stage | None,
        variants: int = 1,
    ) -> None:
        if progress is not None and not callable(progress):
            raise UsageError(f"progress must be a function of what, done and total, not {progress!r}")
        self.folder = None if folder is None else path_of("dump", folder)
        self.progress = progress
        self.stop_after = stop_after
        self.seconds: dict[str, float] = {}
        self._done, self._count, self._variant = 0, _ONCE + variants * (len(STAGES) - _ONCE), ""

    def each(self, variants: Mapping[str, S], run: Callable[[S], T]) -> list[T]:
        """What the remaining steps make of every variant of several, in turn; of the only one, if there is no other.

        Raises:
            StoppedAfter: With the result of the only variant, or the results of all by their names.
        """
        times, results, stopped = dict(self.seconds), [], {}
        for name, variant in variants.items():
            self._variant, self.seconds = name if len(variants) > 1 else "", dict(times)
            try:
                results.append(run(variant))
            except StoppedAfter as stop:
                stopped[name] = stop.result
        if stopped:
            raise StoppedAfter(stopped if len(variants) > 1 else next(iter(stopped.values())))
        return results

    def wants(self, stage: Stage) -> bool:
        """Whether the caller looks at the result of a step, which must then be made even if nothing needs it."""
        return self.folder is not None or self.stop_after == stage

    @contextmanager
    def __call__(self, stage: Stage) -> Iterator[Callable[[T], T]]:
        """Time a step; the caller passes the step's result through the function given."""
        number = STAGES.index(stage)
        if self.progress:
            for_one = f" for {self._variant}" if self._variant else ""
            self.progress(_SENTENCES[stage] + for_one, self._done, self._count)
        started = time.perf_counter()
        results: list[Any] = []

        def done(result: T) -> T:
            results.append(result)
            return result

        yield done
        self.seconds[stage] = round(time.perf_counter() - started, 4)
        self._done += 1
        if self.folder is not None and results:
            self._dump(self.folder / self._variant, f"{number + 1}_{stage}", results[0])
        if self.progress and self._done == self._count:
            self.progress("done", self._done, self._count)
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
