"""``blockfuse doctor``: what is installed, and which targets work."""

from __future__ import annotations

import argparse

from blockfuse.cli.options import Commands, add_parser
from blockfuse.cli.terminal import Terminal


def add_command(commands: Commands) -> None:
    """Add it to the parser."""
    add_parser(commands, "doctor", run, "check this machine: packages, tools, targets")


def run(_options: argparse.Namespace, terminal: Terminal) -> int:
    """Print what was found; fails if networks cannot be compiled for this machine's CPU."""
    from blockfuse.tools.doctor import examine  # noqa: PLC0415 - loads much

    diagnosis = examine()
    terminal.result(diagnosis, diagnosis.to_dict())
    return 0 if diagnosis.is_well else 1
