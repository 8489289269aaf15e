"""``blockfuse compile``: a model to an artifact."""

from __future__ import annotations

import argparse
from pathlib import Path

from blockfuse.cli.files import check_output, compile_with_progress, one_or_all
from blockfuse.cli.options import Commands, add_compile_options, add_parser
from blockfuse.cli.terminal import Terminal


def add_command(commands: Commands) -> None:
    """Add it to the parser."""
    parser = add_parser(commands, "compile", run, "compile an ONNX model into one file")
    parser.add_argument("model", type=Path, metavar="MODEL", help="ONNX file")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="file to write, such as net.bf")
    parser.add_argument(
        "--dump", type=Path, metavar="DIR", help="folder that receives the result of every step as text"
    )
    parser.add_argument(
        "--keep-sources",
        action="store_true",
        help="keep tile programs and generated code in the file, for blockfuse kernels --source",
    )
    parser.add_argument(
        "--cuda-graph", action="store_true", help="on a GPU, record the launches of the first run and repeat them"
    )
    add_compile_options(parser)


def run(options: argparse.Namespace, terminal: Terminal) -> int:
    """Compile, save, report."""
    check_output(options.output, options.model, options.patterns)
    more = {"dump": options.dump, "keep_sources": options.keep_sources, "cuda_graph": options.cuda_graph}
    executable = compile_with_progress(options.model, options, terminal, **more)
    executable.save(options.output)
    size = options.output.stat().st_size
    reports = executable.reports()
    data = {"output": str(options.output), "bytes": size, "report": one_or_all([one.to_dict() for one in reports])}
    terminal.result("\n\n".join(map(str, reports)), data)
    terminal.say(f"wrote {options.output}, {f'{size / 1e6:.1f} MB' if size >= 1e6 else f'{size / 1e3:.1f} kB'}")
    return 0
