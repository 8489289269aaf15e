"""``blockfuse explain``: why every operator of a model is where it is."""

from __future__ import annotations

import argparse
from pathlib import Path

from blockfuse.cli.files import is_artifact
from blockfuse.cli.options import Commands, add_compile_options, add_parser, compile_arguments
from blockfuse.cli.terminal import Terminal
from blockfuse.errors import UsageError


def add_command(commands: Commands) -> None:
    """Add it to the parser."""
    parser = add_parser(
        commands, "explain", run, "say for every operator why it is where it is, and the nearest pattern"
    )
    parser.add_argument("model", type=Path, metavar="MODEL", help="ONNX file")
    add_compile_options(parser)


def run(options: argparse.Namespace, terminal: Terminal) -> int:
    """Print a line per operator; the model is planned for it, not compiled."""
    from blockfuse.tools.reasons import reasons  # noqa: PLC0415 - loads much

    if is_artifact(options.model):
        raise UsageError(f"{options.model} is compiled already; give the ONNX model, or ask blockfuse inspect")
    found = reasons(options.model, **compile_arguments(options))
    terminal.result(found, found.to_dict())
    return 0
