"""``blockfuse bench``: time, side by side with ONNX Runtime."""

from __future__ import annotations

import argparse
from pathlib import Path

from blockfuse.cli.files import is_artifact, open_network
from blockfuse.cli.options import Commands, add_compile_options, add_parser, seconds_argument
from blockfuse.cli.terminal import Terminal
from blockfuse.errors import UsageError


def add_command(commands: Commands) -> None:
    """Add it to the parser."""
    parser = add_parser(commands, "bench", run, "time a model or an artifact")
    parser.add_argument("network", type=Path, metavar="MODEL|FILE.bf", help="ONNX file, or what compile wrote")
    parser.add_argument(
        "--model", type=Path, metavar="MODEL", help="what an artifact was compiled from, for a baseline"
    )
    parser.add_argument(
        "--baseline",
        choices=("onnxruntime", "none"),
        help="what to compare with (default: onnxruntime where there is a model, and it can use the target)",
    )
    parser.add_argument(
        "--seconds", type=seconds_argument, default=3.0, metavar="S", help="how long to measure (default: 3)"
    )
    add_compile_options(parser)


def run(options: argparse.Namespace, terminal: Terminal) -> int:
    """Measure and print both sides."""
    if options.model is not None and not is_artifact(options.network):
        raise UsageError("--model goes with an artifact")
    model = options.model if is_artifact(options.network) else options.network
    if options.baseline == "onnxruntime" and model is None:
        raise UsageError("--baseline onnxruntime needs --model, what the artifact was compiled from")
    executable = open_network(options, terminal)

    from blockfuse.tools.bench import bench  # noqa: PLC0415 - loads much
    from blockfuse.verification.verify import has_gpu_reference  # noqa: PLC0415

    baseline = None if options.baseline == "none" or model is None else "onnxruntime"
    if options.baseline is None and not executable.report().target.startswith("cpu") and not has_gpu_reference():
        terminal.say("nothing to compare with: ONNX Runtime cannot use the GPU here")
        baseline = None
    terminal.say(f"measuring for {options.seconds:g} s")
    result = bench(executable, model, baseline, seconds=options.seconds, batch=options.batch)
    terminal.result(result, result.to_dict())
    return 0
