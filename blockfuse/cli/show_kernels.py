"""``blockfuse kernels``: what every kernel does, needs, and was made from."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from blockfuse.cli.files import is_artifact, one_or_all, refuse_compile_options
from blockfuse.cli.options import Commands, add_compile_options, add_parser, compile_arguments
from blockfuse.cli.terminal import Terminal

if TYPE_CHECKING:
    from blockfuse.tools.kernels import Kernels


def add_command(commands: Commands) -> None:
    """Add it to the parser."""
    parser = add_parser(commands, "kernels", run, "show what every kernel does, needs, and was made from")
    parser.add_argument("network", type=Path, metavar="FILE.bf|MODEL", help="what compile wrote, or an ONNX file")
    parser.add_argument(
        "--source",
        metavar="NAME",
        help="print a kernel's tile program and generated code; of an artifact, if compiled with --keep-sources",
    )
    parser.add_argument(
        "--counts",
        type=Path,
        metavar="FILE",
        help="show bytes counted in emulation, too; python -m benchmarks.cuda_counts in a checkout writes the file",
    )
    add_compile_options(parser)


def run(options: argparse.Namespace, terminal: Terminal) -> int:
    """Print all kernels, or the texts of one, for every target."""
    variants = _kernels(options)
    if options.source is None:
        data = [kernels.to_dict() for kernels in variants]
        terminal.result("\n\n".join(map(str, variants)), one_or_all(data))
        return 0
    texts = _texts(variants, options.source)
    parts = [f"==== {name}\n{text.rstrip()}" for name, text in texts.items()]
    terminal.result("\n".join(parts), {"kernel": options.source, "sources": texts})
    return 0


def _texts(variants: Sequence[Kernels], name: str) -> dict[str, str]:
    """The texts of the kernels of a name, which not every target need have."""
    having = [kernels for kernels in variants if name in kernels.names] or variants[:1]
    if len(variants) == 1:
        return having[0].sources(name)
    return {f"{kernels.report.target}/{key}": text for kernels in having for key, text in kernels.sources(name).items()}


def _kernels(options: argparse.Namespace) -> tuple[Kernels, ...]:
    from blockfuse.tools.counts import read_counts  # noqa: PLC0415 - loads much
    from blockfuse.tools.kernels import kernels_of_artifact, kernels_of_model  # noqa: PLC0415 - loads much

    counts = read_counts(options.counts) if options.counts else None
    if not is_artifact(options.network):
        arguments = {**compile_arguments(options), "sources": options.source is not None}
        return kernels_of_model(options.network, counts=counts, **arguments)
    refuse_compile_options(options, options.network)
    return kernels_of_artifact(options.network, counts, code=options.source is None)
