"""``blockfuse verify``: a compiled network against ONNX Runtime."""

from __future__ import annotations

import argparse
from pathlib import Path

from blockfuse.cli.files import compile_with_progress, refuse_compile_options
from blockfuse.cli.options import Commands, add_compile_options, add_parser, seed_argument, shapes_of
from blockfuse.cli.terminal import Terminal
from blockfuse.errors import UsageError, VerificationError


def add_command(commands: Commands) -> None:
    """Add it to the parser."""
    parser = add_parser(commands, "verify", run, "compare a compiled network with ONNX Runtime")
    parser.add_argument("model", type=Path, metavar="MODEL", help="ONNX file")
    parser.add_argument(
        "--artifact", type=Path, metavar="FILE.bf", help="what was compiled from it (default: compile it)"
    )
    parser.add_argument("--per-block", action="store_true", help="compare the result of every block too")
    parser.add_argument("--seed", type=seed_argument, default=0, metavar="N", help="seed of the inputs (default: 0)")
    add_compile_options(parser)


def run(options: argparse.Namespace, terminal: Terminal) -> int:
    """Print all comparisons, also when one fails."""
    if options.artifact is None:
        executable = compile_with_progress(options.model, options, terminal, taps=options.per_block)
    else:
        from blockfuse.runtime.executable import load  # noqa: PLC0415 - loads the runtime

        if options.per_block:
            raise UsageError(
                "an artifact does not return the results of its blocks; leave out --artifact or --per-block"
            )
        refuse_compile_options(options, options.artifact, "dtype", "batch", "threads")
        executable = load(options.artifact, options.threads)
    from blockfuse.verification.verify import verify  # noqa: PLC0415 - loads much

    try:
        found = verify(
            options.model,
            executable=executable,
            dtype=options.dtype,
            shape=shapes_of(options),
            per_block=options.per_block,
            batch=options.batch,
            seed=options.seed,
        )
    except VerificationError as error:
        terminal.result(error.verification, error.verification.to_dict())
        raise
    terminal.result(found, found.to_dict())
    return 0
