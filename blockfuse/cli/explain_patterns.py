"""``blockfuse patterns``: the block types known by name, and why one does not match."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from blockfuse.cli.options import Commands, add_parser, add_patterns_option, add_shape_option, patterns_of, shapes_of
from blockfuse.cli.terminal import Terminal
from blockfuse.errors import UsageError

if TYPE_CHECKING:
    from blockfuse.pattern import Pattern


def add_command(commands: Commands) -> None:
    """Add it to the parser."""
    parser = add_parser(commands, "patterns", run, "list block patterns, or explain where they match a model")
    parser.add_argument("names", nargs="*", metavar="NAME", help="patterns to show (default: all)")
    parser.add_argument(
        "--explain", type=Path, metavar="MODEL", help="say where each matches a model, and why not elsewhere"
    )
    add_patterns_option(parser)
    add_shape_option(parser)


def run(options: argparse.Namespace, terminal: Terminal) -> int:
    """List the patterns, or explain them on a model."""
    chosen = _chosen(options)
    if options.explain is None:
        if options.shape:
            raise UsageError("--shape goes with --explain")
        data = [{"name": one.name, "doc": one.doc, "definition": one.explain()} for one in chosen]
        text = "\n".join(one.explain() if options.names or terminal.verbose else f"{one}: {one.doc}" for one in chosen)
        terminal.result(text, {"patterns": data})
        return 0
    from blockfuse.frontend.explain import explain  # noqa: PLC0415 - loads onnx
    from blockfuse.verification.verify import canonical_graph  # noqa: PLC0415

    graph = canonical_graph(options.explain, shapes_of(options))
    found = [explain(graph, one) for one in chosen]
    terminal.result("\n".join(map(str, found)), {"explanations": [one.to_dict() for one in found]})
    return 0


def _chosen(options: argparse.Namespace) -> tuple[Pattern, ...]:
    from blockfuse.frontend.patterns import all as built_in  # noqa: PLC0415 - loads numpy

    known = {one.name: one for one in reversed(patterns_of(options) or built_in())}
    for name in options.names:
        if name not in known:
            raise UsageError(f"there is no pattern {name!r}; known are {', '.join(reversed(known))}")
    return tuple(known[name] for name in options.names or reversed(known))
