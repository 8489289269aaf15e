"""The parser, and what commands share of it."""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

from blockfuse import __version__
from blockfuse.errors import UsageError, one_line

Commands: TypeAlias = Any
"""The subparsers of argparse, whose type is private."""

NamedShape: TypeAlias = tuple[str, tuple[int, ...]]

COMPILING = ("target", "dtype", "shape", "batch", "patterns", "fuse", "threads")
"""Options that say how a model is compiled; to an artifact only those apply that also say how it runs."""


class Parser(argparse.ArgumentParser):
    """An argument parser that complains in one line."""

    def error(self, message: str) -> NoReturn:
        """Leave with the code for wrong usage."""
        sys.stderr.write(f"blockfuse: error: {one_line(message)} (see {self.prog} --help)\n")
        sys.exit(2)


_COMMANDS = (
    "compile_model",
    "inspect_model",
    "explain_model",
    "run_model",
    "verify_model",
    "bench_model",
    "show_kernels",
    "pack_artifact",
    "explain_patterns",
    "reduce_model",
    "show_cache",
    "check_machine",
    "show_demo",
)
"""Modules of the commands, in the order of the help text."""


def build_parser() -> Parser:
    """The parser of all commands; the namespace it makes has the function to run as ``run``."""
    parser = Parser(
        prog="blockfuse",
        description="Compile an ONNX convnet so that each residual block runs as one kernel.",
        epilog="blockfuse COMMAND --help tells more.",
    )
    parser.add_argument("--version", action="version", version=f"blockfuse {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name in _COMMANDS:
        import_module(f"blockfuse.cli.{name}").add_command(commands)  # they import this module
    return parser


def add_parser(commands: Commands, name: str, run: Callable[..., int], summary: str) -> argparse.ArgumentParser:
    """A command with the options that all have."""
    description = f"{summary[0].upper()}{summary[1:]}."
    parser: argparse.ArgumentParser = commands.add_parser(name, help=summary, description=description)
    parser.set_defaults(run=run)
    parser.add_argument("--json", action="store_true", help="print the result as one JSON document")
    loudness = parser.add_mutually_exclusive_group()
    loudness.add_argument("-v", "--verbose", action="store_true", help="say more; show tracebacks")
    loudness.add_argument("-q", "--quiet", action="store_true", help="print results and errors only")
    return parser


def add_compile_options(parser: argparse.ArgumentParser) -> None:
    """How a model is compiled."""
    group = parser.add_argument_group("compiling")
    group.add_argument(
        "--target",
        help="cpu (default: this machine's best class), cpu:avx512, cpu:avx2, cpu:generic; cuda (this machine's GPU), "
        "or GPU architectures such as sm_80,sm_90a, each with plans of its own",
    )
    group.add_argument("--dtype", help="type to compute in (default: the model's; on a CPU float32)")
    group.add_argument("--fuse", choices=("auto", "always", "never"), help="when to fuse blocks (default: auto)")
    group.add_argument("--threads", type=_count, metavar="N", help="threads to use (default: one per core)")
    add_shape_option(group)
    group.add_argument(
        "--batch",
        type=_count,
        metavar="N",
        help="images to plan for, and to run at a time, where the model leaves that open (default: 1)",
    )
    add_patterns_option(group)


def add_shape_option(parser: Any) -> None:
    """Shapes of inputs."""
    parser.add_argument(
        "--shape",
        type=_shape,
        action="append",
        metavar="NAME=1x3x224x224",
        help="shape of an input that the model leaves open; repeat it for several",
    )


def add_patterns_option(parser: Any) -> None:
    """A user's own patterns."""
    parser.add_argument(
        "--patterns",
        type=Path,
        metavar="FILE.py",
        help="Python file with block patterns, which come before the built-in ones; it is executed",
    )


def compile_arguments(options: argparse.Namespace) -> dict[str, Any]:
    """The keyword arguments of ``blockfuse.compile`` that options stand for.

    Raises:
        UsageError: A shape is given twice, or the file of patterns has none.
        PatternError: The file of patterns fails.
    """
    return {
        "target": options.target or "cpu",
        "dtype": options.dtype,
        "shape": shapes_of(options),
        "patterns": patterns_of(options),
        "fuse": options.fuse or "auto",
        "threads": options.threads,
        "batch": options.batch,
    }


def shapes_of(options: argparse.Namespace) -> dict[str, tuple[int, ...]] | None:
    """Shapes by the names of inputs.

    Raises:
        UsageError: An input has two.
    """
    given: list[NamedShape] = options.shape or []
    shapes = dict(given)
    if len(shapes) < len(given):
        raise UsageError("--shape is given twice for an input")
    return shapes or None


def patterns_of(options: argparse.Namespace) -> tuple[Any, ...] | None:
    """A user's patterns and the built-in ones; None where the built-in ones are all.

    Raises:
        UsageError: The file of patterns cannot be read or has none.
        PatternError: It fails.
    """
    if options.patterns is None:
        return None
    from blockfuse.cli.user_patterns import load_patterns  # noqa: PLC0415 - loads numpy
    from blockfuse.frontend.patterns import all as built_in  # noqa: PLC0415

    return (*load_patterns(options.patterns), *built_in())


def seconds_argument(text: str) -> float:
    """A time span for ``type=`` of an option."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0 to 3600")
    return seconds


def seed_argument(text: str) -> int:
    """The seed of random numbers for ``type=`` of an option."""
    if not re.fullmatch(r"\d{1,18}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 on")
    return int(text)


def _count(text: str) -> int:
    if not re.fullmatch(r"0*[1-9]\d{0,5}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return int(text)


def _shape(text: str) -> NamedShape:
    name, _, dims = text.rpartition("=")
    if not name or not re.fullmatch(r"[1-9]\d{0,8}(x[1-9]\d{0,8})*", dims):
        raise argparse.ArgumentTypeError(f"{text!r} is not like input=1x3x224x224")
    return name, tuple(int(dim) for dim in dims.split("x"))
