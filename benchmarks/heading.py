"""The first lines of a table that is recorded as text: when, where, with which versions, and by which command."""

from __future__ import annotations

import shlex
import sys

from blockfuse.tools.facts import machine_facts


def heading(script: str, **more: str | None) -> str:
    """Two lines of comment.

    Args:
        script: The module's name in this folder.
        more: Versions of other tools by their names.
    """
    facts = machine_facts()
    versions = ", ".join(f"{name} {version}" for name, version in {**facts["versions"], **more}.items() if version)
    machine = f"{facts['device']}, {facts['system']}, Python {facts['python']}"
    command = shlex.join(["python", "-m", f"benchmarks.{script}", *sys.argv[1:]])
    return f"# {facts['date']}, {machine}; {versions}\n# {command}"
