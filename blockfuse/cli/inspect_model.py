"""``blockfuse inspect``: what a model will be made of, or what an artifact is made of."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from blockfuse.cli.files import is_artifact, one_or_all, refuse_compile_options
from blockfuse.cli.options import Commands, add_compile_options, add_parser, compile_arguments
from blockfuse.cli.terminal import Terminal

if TYPE_CHECKING:
    from blockfuse.report import Report


def add_command(commands: Commands) -> None:
    """Add it to the parser."""
    parser = add_parser(commands, "inspect", run, "show blocks, plans, and why something is not fused")
    parser.add_argument("network", type=Path, metavar="MODEL|FILE.bf", help="ONNX file, or what compile wrote")
    add_compile_options(parser)


def run(options: argparse.Namespace, terminal: Terminal) -> int:
    """Print the report for every target; a model is planned for it, not compiled."""
    reports = _reports(options)
    texts = [f"{report}{_steps(report)}" if terminal.verbose else str(report) for report in reports]
    terminal.result("\n\n".join(texts), one_or_all([report.to_dict() for report in reports]))
    return 0


def _steps(report: Report) -> str:
    """What every block is made of, and what decided on its kernels."""
    return "".join(f"\n{step.name}: {' | '.join(step.stages)}\n    {step.note}" for step in report.steps if step.stages)


def _reports(options: argparse.Namespace) -> tuple[Report, ...]:
    if not is_artifact(options.network):
        from blockfuse.tools.preview import preview  # noqa: PLC0415 - loads much

        return preview(options.network, **compile_arguments(options))
    from blockfuse.runtime import artifact  # noqa: PLC0415 - loads numpy

    refuse_compile_options(options, options.network)
    return tuple(variant.report for variant in artifact.load(options.network, any_machine=True))
