"""``blockfuse run``: one inference."""

from __future__ import annotations

import argparse
from pathlib import Path

from blockfuse.cli.files import check_output, open_network, read_inputs, write_whole
from blockfuse.cli.options import Commands, add_compile_options, add_parser
from blockfuse.cli.terminal import Terminal
from blockfuse.errors import UsageError


def add_command(commands: Commands) -> None:
    """Add it to the parser."""
    parser = add_parser(commands, "run", run, "run a model or an artifact once")
    parser.add_argument("network", type=Path, metavar="FILE.bf|MODEL", help="what compile wrote, or an ONNX file")
    parser.add_argument(
        "--input",
        type=_named_file,
        action="append",
        default=[],
        metavar="NAME=FILE.npy",
        help="array for an input, seeded random numbers where there is none; repeat it for several",
    )
    parser.add_argument("-o", "--output", type=Path, metavar="OUT.npz", help="file to write all outputs to")
    add_compile_options(parser)


def run(options: argparse.Namespace, terminal: Terminal) -> int:
    """Run, write the outputs, and print a summary of them."""
    import numpy as np  # noqa: PLC0415

    from blockfuse.tools.outputs import summarize, summary_line  # noqa: PLC0415 - loads numpy

    given = dict(options.input)
    if len(given) < len(options.input):
        raise UsageError("--input is given twice for an input")
    if options.output is not None:
        check_output(options.output, options.network, options.patterns, *given.values())
    executable = open_network(options, terminal)
    outputs = executable.run(read_inputs(given, executable.inputs_for(options.batch)))
    if options.output is not None:
        write_whole(options.output, lambda file: np.savez(file, allow_pickle=False, **outputs))
        terminal.say(f"wrote {options.output}")
    summary = {name: summarize(array) for name, array in outputs.items()}
    terminal.result("\n".join(summary_line(name, one) for name, one in summary.items()), {"outputs": summary})
    return 0


def _named_file(text: str) -> tuple[str, Path]:
    name, separator, path = text.partition("=")
    if not (name and separator and path):
        raise argparse.ArgumentTypeError(f"{text!r} is not like input=image.npy")
    return name, Path(path)
