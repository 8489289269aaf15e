"""``blockfuse pack``: an artifact to a folder that runs without blockfuse and TVM."""

from __future__ import annotations

import argparse
from pathlib import Path

from blockfuse.cli.options import Commands, add_parser
from blockfuse.cli.terminal import Terminal


def add_command(commands: Commands) -> None:
    """Add it to the parser."""
    parser = add_parser(commands, "pack", run, "make a folder that runs where neither blockfuse nor TVM is installed")
    parser.add_argument("artifact", type=Path, metavar="FILE.bf", help="what compile wrote")
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder to make; python DIR/run.py --help tells more")
    parser.add_argument(
        "--seeded-weights",
        action="store_true",
        help="leave the weights out: random ones are made there, the same on every machine, for benchmarks",
    )
    parser.add_argument(
        "--wheel",
        type=Path,
        action="append",
        default=[],
        metavar="FILE.whl",
        help="wheel of apache-tvm-ffi for another Python that the folder is to run on; repeat it for several",
    )
    parser.add_argument(
        "--model",
        type=Path,
        metavar="MODEL",
        help="what the artifact was compiled from; ONNX Runtime makes the reference if it cannot run on this machine",
    )


def run(options: argparse.Namespace, terminal: Terminal) -> int:
    """Pack, and say what the folder has."""
    from blockfuse.tools.pack import pack  # noqa: PLC0415 - loads much

    more = {"seeded_weights": options.seeded_weights, "wheels": options.wheel, "model": options.model}
    packed = pack(options.artifact, options.folder, **more)
    terminal.result(packed, packed.to_dict())
    return 0
