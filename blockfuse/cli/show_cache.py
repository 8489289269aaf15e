"""``blockfuse cache``: what is kept of earlier compilations, and where."""

from __future__ import annotations

import argparse

from blockfuse.cli.options import Commands, add_parser
from blockfuse.cli.terminal import Terminal
from blockfuse.errors import BlockfuseError

_MIB = 1 << 20


def add_command(commands: Commands) -> None:
    """Add it to the parser."""
    parser = add_parser(commands, "cache", run, "show or clear what is kept of earlier compilations")
    parser.add_argument("--clear", action="store_true", help="remove all of it")


def run(options: argparse.Namespace, terminal: Terminal) -> int:
    """Say where the cache is and what it holds, after clearing it if asked."""
    from blockfuse.kernel_cache import VARIABLE, default_cache  # noqa: PLC0415 - only here

    cache = default_cache()
    if options.clear:
        try:
            cache.clear()
        except OSError as error:
            raise BlockfuseError(f"cannot clear the cache {cache.folder}: {error.strerror or error}") from None
    sizes = cache.sizes()
    found = {"folder": str(cache.folder or ""), "files": len(sizes), "bytes": sum(sizes), "limit": cache.limit}
    if cache.folder is None:
        text = f"there is no cache: {VARIABLE} is empty"
    else:
        text = f"{cache.folder}: {len(sizes)} files, {sum(sizes) / _MIB:.1f} of {cache.limit // _MIB} MiB"
    terminal.result(text, found)
    return 0
