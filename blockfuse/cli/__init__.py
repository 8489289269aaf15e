"""The command line: one module per command, each thin over the Python interface.

Results go to standard output, messages to standard error. Exit codes:

====  =======================================================
0     done
1     failed
2     the command line is wrong
3     a result is outside its tolerance
5     the target is not available
130   interrupted
141   nobody reads the output
====  =======================================================
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence

from blockfuse.cli.options import build_parser
from blockfuse.cli.terminal import Terminal
from blockfuse.errors import BlockfuseError, one_line
from blockfuse.tools.exit_codes import FAILED, INTERRUPTED, NO_READER, code_of


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: The words after the program's name; by default those of this process.

    Returns:
        The exit code.
    """
    try:
        code = _run(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        _discard_output()
        return NO_READER
    return code


def _run(arguments: Sequence[str] | None) -> int:
    try:
        options = build_parser().parse_args(arguments)
    except SystemExit as stop:  # argparse has printed help, the version, or one line
        return stop.code if isinstance(stop.code, int) else FAILED
    terminal = Terminal(json=options.json, verbose=options.verbose, quiet=options.quiet)
    try:
        code: int = options.run(options, terminal)
    except BlockfuseError as error:
        _complain(str(error), verbose=terminal.verbose)
        return code_of(error)
    except BrokenPipeError:
        raise
    except Exception as error:  # noqa: BLE001 - the last line of defence: one line, and the rest with -v
        hint = "" if terminal.verbose else " (-v shows where)"
        _complain(f"unexpected {type(error).__name__}: {error}{hint}", verbose=terminal.verbose)
        return FAILED
    return code


def _complain(message: str, *, verbose: bool) -> None:
    """One line on standard error, after the traceback where that is wanted."""
    if verbose:
        traceback.print_exc()
    sys.stderr.write(f"blockfuse: error: {one_line(message)}\n")


def _discard_output() -> None:
    """Nobody reads: let the interpreter's last flush go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
