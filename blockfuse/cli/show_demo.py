"""``blockfuse demo``: two known networks, compiled, verified and timed."""

from __future__ import annotations

import argparse

from blockfuse.cli.options import Commands, add_parser, seconds_argument
from blockfuse.cli.terminal import Terminal


def add_command(commands: Commands) -> None:
    """Add it to the parser."""
    parser = add_parser(commands, "demo", run, "compile, verify and time ResNet-18 and MobileNetV2; needs no network")
    parser.add_argument(
        "--seconds", type=seconds_argument, default=2.0, metavar="S", help="how long to time each (default: 2)"
    )
    parser.add_argument("--target", default="cpu", help="cpu, or cuda (this machine's GPU, in half precision)")


def run(options: argparse.Namespace, terminal: Terminal) -> int:
    """Show one table."""
    from blockfuse.tools.demo import show  # noqa: PLC0415 - loads much

    with terminal.progress("demo") as progress:
        demo = show(progress, seconds=options.seconds, target=options.target)
    terminal.result(demo, demo.to_dict())
    return 0
