"""``blockfuse reduce``: a small model that fails as a large one does."""

from __future__ import annotations

import argparse
import shlex
import tempfile
from pathlib import Path

from blockfuse.cli.files import check_output, write_whole
from blockfuse.cli.options import Commands, add_compile_options, add_parser, seconds_argument, shapes_of
from blockfuse.cli.terminal import Terminal
from blockfuse.errors import BlockfuseError, UsageError


def add_command(commands: Commands) -> None:
    """Add it to the parser."""
    parser = add_parser(commands, "reduce", run, "make a model that fails smaller while it still fails alike")
    parser.add_argument("model", type=Path, metavar="MODEL", help="ONNX file")
    parser.add_argument(
        "--check",
        choices=("compile", "verify"),
        default="compile",
        help="how it fails: it cannot be compiled (default), or its results differ from those of ONNX Runtime",
    )
    parser.add_argument(
        "-o", "--output", type=Path, metavar="OUT", help="file to write (default: MODEL_reduced.onnx, in this folder)"
    )
    parser.add_argument(
        "--time-limit",
        type=seconds_argument,
        default=300.0,
        metavar="S",
        help="seconds after which the smallest model so far is taken (default: 300)",
    )
    add_compile_options(parser)


def run(options: argparse.Namespace, terminal: Terminal) -> int:
    """Reduce, write, and say how to see the failure again."""
    output = options.output or Path(f"{options.model.stem}_reduced.onnx")
    check_output(output, options.model, options.patterns)
    if options.patterns is not None and not options.patterns.is_file():
        raise UsageError(f"--patterns {options.patterns}: there is no such file")

    from blockfuse.cli.trial import Trials  # noqa: PLC0415 - loads onnx
    from blockfuse.frontend import shrink  # noqa: PLC0415
    from blockfuse.tools.reduce import reduce  # noqa: PLC0415

    model = shrink.with_shapes(shrink.load_whole(options.model), shapes_of(options) or {})
    settings = {
        "target": options.target or "cpu",
        "dtype": options.dtype,
        "fuse": options.fuse or "auto",
        "threads": options.threads,
        "batch": options.batch,
        "patterns": None if options.patterns is None else str(options.patterns),
    }
    terminal.say(f"reducing {options.model}, for at most {options.time_limit:g} s")
    with (
        tempfile.TemporaryDirectory(prefix="blockfuse_") as folder,
        Trials(options.check, settings, Path(folder)) as trials,
    ):
        found = reduce(model, trials, seconds=options.time_limit)
    if found is None:
        done = "compiles" if options.check == "compile" else "is verified"
        raise BlockfuseError(f"{options.model} {done} without failure, so there is nothing to reduce")
    write_whole(output, lambda file: file.write(found.model.SerializeToString()))
    command = _command(options, output)
    terminal.result(
        f"{found}\nto see it again: {command}", {"output": str(output), "command": command, **found.to_dict()}
    )
    terminal.say(f"wrote {output}, {output.stat().st_size / 1e3:.1f} kB")
    return 0


def _command(options: argparse.Namespace, output: Path) -> str:
    """What shows the failure of the small model."""
    words = ["blockfuse", options.check, str(output)]
    if options.check == "compile":
        words += ["-o", str(output.with_suffix(".bf"))]
    for name in ("target", "dtype", "fuse", "threads", "batch", "patterns"):
        value = getattr(options, name)
        words += [] if value is None else [f"--{name}", str(value)]
    return shlex.join(words)
