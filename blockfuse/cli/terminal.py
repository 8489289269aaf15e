"""What a command tells its user: results on standard output, messages and progress on standard error."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

from blockfuse.errors import one_line, printable

Progress: TypeAlias = Callable[[str, int, int], None]


class Terminal:
    """Where output goes.

    Args:
        json: Print results as one JSON document.
        verbose: Say more, and show tracebacks.
        quiet: Say nothing but results and errors.
    """

    def __init__(self, *, json: bool = False, verbose: bool = False, quiet: bool = False) -> None:
        self.json = json
        self.verbose = verbose
        self.quiet = quiet

    def result(self, text: object, data: Mapping[str, Any]) -> None:
        """Print the result of a command, which prints one.

        Args:
            text: For people.
            data: The same for programs.
        """
        sys.stdout.write(f"{json.dumps(data, indent=1, allow_nan=False) if self.json else printable(str(text))}\n")

    def say(self, message: str) -> None:
        """Print a message."""
        if not self.quiet:
            sys.stderr.write(f"{printable(message)}\n")

    @contextmanager
    def progress(self, title: str) -> Iterator[Progress]:
        """Show how far a long task is: a bar where there is a terminal and rich, else one line per step."""
        bar = None if self.quiet or self.verbose or not _is_interactive() else _rich_bar(title)
        if bar is None:
            yield lambda what, done, total: self.say(f"{title}: [{done}/{total}] {what}")
            return
        with bar as update:
            yield update


def _is_interactive() -> bool:
    return sys.stderr.isatty() and os.environ.get("TERM", "") != "dumb"


def _rich_bar(title: str) -> Any:
    """A bar that vanishes at its end; None without rich, which is an extra and respects NO_COLOR."""
    try:
        from rich.console import Console  # noqa: PLC0415 - only where it is shown
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn  # noqa: PLC0415
    except ImportError:
        return None

    @contextmanager
    def bar() -> Iterator[Callable[[str, int, int], None]]:
        columns = (
            TextColumn("{task.fields[title]}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.description}", markup=False),
        )
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task("", total=None, title=one_line(title))
            yield lambda what, done, total: progress.update(
                task, description=one_line(what), completed=done, total=total, refresh=True
            )

    return bar()
