"""Files that commands read and write: models, artifacts, arrays."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from blockfuse.cli.options import COMPILING, compile_arguments
from blockfuse.cli.terminal import Terminal
from blockfuse.errors import BlockfuseError, UsageError
from blockfuse.replacing import replacing

_ZIP, _FIRST_MEMBER = b"PK\3\4", b"manifest.json"

if TYPE_CHECKING:
    from blockfuse.runtime.executable import Executable
    from blockfuse.runtime.library import Port


_LOCAL_HEADER = 30
"""Bytes of a zip in front of the name of its first member."""


def is_artifact(path: Path) -> bool:
    """Whether a path is a compiled network, by its name or its content; anything else is taken for a model."""
    if path.suffix == ".bf" or (path / "manifest.json").is_file():
        return True
    try:
        start = _start(path, _LOCAL_HEADER + len(_FIRST_MEMBER))
    except OSError:
        return False
    return start.startswith(_ZIP) and start[_LOCAL_HEADER:] == _FIRST_MEMBER


def _start(path: Path, size: int) -> bytes:
    """The first bytes of a file; none of what is no file, such as a pipe, which might never give any."""
    if not path.is_file():
        return b""
    with path.open("rb") as file:
        return file.read(size)


def open_network(options: argparse.Namespace, terminal: Terminal) -> Executable:
    """Load an artifact, or compile a model.

    Raises:
        UsageError: An option for compiling is given with an artifact.
    """
    if not is_artifact(options.network):
        return compile_with_progress(options.network, options, terminal)
    from blockfuse.runtime.executable import load  # noqa: PLC0415 - loads the runtime

    refuse_compile_options(options, options.network, "batch", "threads")
    return load(options.network, options.threads)


def compile_with_progress(model: Path, options: argparse.Namespace, terminal: Terminal, **more: Any) -> Executable:
    """Compile a model as options say.

    Raises:
        UsageError: It is no model but an artifact.
    """
    from blockfuse.compiler import compile as compile_model  # noqa: PLC0415 - loads much

    if is_artifact(model):
        raise UsageError(f"{model} is compiled already; give the ONNX model that it was compiled from")
    arguments = {**compile_arguments(options), **more}
    with terminal.progress(f"compiling {model.name}") as progress:
        executable: Executable = compile_model(model, progress=progress, **arguments)
    if terminal.verbose:
        for report in executable.reports():
            terminal.say("; ".join(f"{stage} {time:.2f} s" for stage, time in (report.seconds or {}).items()))
    return executable


def refuse_compile_options(options: argparse.Namespace, artifact: Path, *useful: str) -> None:
    """Raise :class:`UsageError` if an option, none of the useful ones, says how to compile what is compiled already."""
    given = [name for name in COMPILING if name not in useful and getattr(options, name, None) is not None]
    if given:
        raise UsageError(f"--{given[0]} says how to compile a model; {artifact} is compiled already")


def one_or_all(variants: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What JSON holds of a network for one target, or of all for several."""
    return variants[0] if len(variants) == 1 else {"variants": list(variants)}


def check_output(path: Path, *sources: Path | None) -> None:
    """Raise :class:`UsageError` if a file cannot be written there, before work is done for it.

    Args:
        path: Where to write.
        sources: Files that are read for it, which must not be replaced; the data of a model belongs to it.
    """
    if path.is_dir():
        raise UsageError(f"cannot write {path}: it is a folder")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"cannot write {path}: there is no folder {path.parent}")
    if not os.access(path.absolute().parent, os.W_OK):
        raise UsageError(f"cannot write {path}: permission denied")
    for source in filter(None, sources):
        if any(_is_same(path, part) for part in (source, *_data_of(source, path))):
            raise UsageError(f"cannot write {path}: it would replace what is read from {source}; name another file")


def _is_same(first: Path, second: Path) -> bool:
    try:
        return first.samefile(second)
    except (OSError, ValueError):  # one of them does not exist
        return False


def _data_of(model: Path, output: Path) -> list[Path]:
    """The files of a model's external data; only looked up where the output replaces a file that may be one."""
    if not output.is_file() or is_artifact(output) or is_artifact(model):
        return []
    from blockfuse.frontend.load import data_files  # noqa: PLC0415 - loads onnx

    return data_files(model)


def write_whole(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file that appears when it is complete, or not at all.

    Raises:
        BlockfuseError: It cannot be written.
    """
    try:
        with replacing(path) as file:
            write(file)
    except OSError as error:
        raise BlockfuseError(f"cannot write {path}: {error.strerror or error}") from None


def read_inputs(named: Mapping[str, Path], ports: tuple[Port, ...]) -> dict[str, Any]:
    """Arrays for a network's inputs: from files where they are named, seeded random numbers elsewhere.

    Raises:
        UsageError: There is no such input, or a file is no array.
    """
    import numpy as np  # noqa: PLC0415

    from blockfuse.verification.verify import seeded_inputs  # noqa: PLC0415

    inputs = seeded_inputs(ports)
    for name, path in named.items():
        if name not in inputs:
            raise UsageError(f"--input {name}: the network has no such input; it has {', '.join(inputs)}")
        try:
            _check_array_file(path)
            loaded = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
            raise UsageError(f"--input {name}: cannot read {path}: {reason}") from None
        if not isinstance(loaded, np.ndarray):
            raise UsageError(f"--input {name}: {path} is an archive; give one array as .npy")
        inputs[name] = loaded
    return inputs


def _check_array_file(path: Path) -> None:
    """Raise :class:`ValueError` for a file that NumPy would take for a pickle: it is no array."""
    if path.exists() and not path.is_file():
        raise ValueError("it is not a file")
    if path.exists() and _start(path, len(_ZIP)) not in {b"\x93NUM", _ZIP}:
        raise ValueError("it is not a .npy file")
