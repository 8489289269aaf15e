"""What ``run.py`` of a packed network does: run it, compare it with its reference, time it.

Nothing here or below needs more than numpy, tvm_ffi and TVM's runtime library. The exit codes are those of
:mod:`blockfuse.cli`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

import numpy as np

from blockfuse.errors import ArtifactError, BlockfuseError, UsageError, VerificationError, one_line
from blockfuse.replacing import replacing
from blockfuse.runtime.executable import Executable, load
from blockfuse.runtime.seeded import make_input
from blockfuse.tools.exit_codes import INTERRUPTED, WRONG_USAGE, code_of
from blockfuse.tools.outputs import summarize, summary_line
from blockfuse.verification.compare import compare

Array: TypeAlias = np.ndarray[Any, Any]

_WARM_UP = 0.3  # seconds
_FEWEST_RUNS = 5


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Complain in one line."""
        sys.stderr.write(f"run.py: error: {message} (see run.py --help)\n")
        sys.exit(WRONG_USAGE)


def main(folder: Path, arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says.

    Args:
        folder: The packed network.
        arguments: The words after the program's name; by default those of this process.

    Returns:
        The exit code.
    """
    options = _parser().parse_args(arguments)
    try:
        lines, data = _run(folder, options)
    except BlockfuseError as error:
        sys.stderr.write(f"run.py: error: {one_line(str(error))}\n")
        return code_of(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    sys.stdout.write(f"{json.dumps(data, indent=1, allow_nan=False) if options.json else chr(10).join(lines)}\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="run.py", description="Run a packed network, on its stored inputs or others.")
    parser.add_argument(
        "--input", action="append", default=[], metavar="NAME=FILE.npy", help="array for an input; repeat it"
    )
    parser.add_argument("--output", type=Path, metavar="OUT.npz", help="file to write all outputs to")
    parser.add_argument("--verify", action="store_true", help="check all files, compare outputs with the stored ones")
    parser.add_argument("--bench", action="store_true", help="time it")
    parser.add_argument("--seconds", type=float, default=3.0, metavar="S", help="how long to time it (default: 3)")
    parser.add_argument("--threads", type=int, metavar="N", help="threads to use (default: what it was planned for)")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON document")
    return parser


def _run(folder: Path, options: argparse.Namespace) -> tuple[list[str], dict[str, Any]]:
    """The result as lines and as data."""
    pack = json.loads((folder / "pack.json").read_text(encoding="utf-8"))
    if options.verify and options.input:
        raise UsageError("--verify compares what the stored inputs give: leave --input out")
    if options.verify:
        _check_files(folder, pack["files"])
    started = time.perf_counter()
    network = load(folder / "network", options.threads)
    seconds = time.perf_counter() - started
    outputs = network.run(inputs := _inputs(folder, pack, options.input))
    if options.output is not None:
        _write(options.output, outputs)
    report, threads = network.report(), network.start().threads
    summary = {name: summarize(array) for name, array in outputs.items()}
    lines = [f"{report.network} for {report.target}, {threads} threads, loaded in {1e3 * seconds:.0f} ms"]
    lines += [summary_line(name, one) for name, one in summary.items()]
    data = {"network": report.network, "target": report.target, "threads": threads, "load_ms": 1e3 * seconds}
    data["outputs"] = summary
    if options.verify:
        data["verify"] = checks = _verify(folder, pack["reference"]["variants"][report.target], outputs)
        lines += [f"{name}: verified, max error {one['max_rel']:.1e} of max|reference|" for name, one in checks.items()]
    if options.bench:
        data["bench"] = times = _bench(network, inputs, options.seconds)
        lines.append(f"min {times['min_ms']:.3f} ms, median {times['median_ms']:.3f} ms of {times['runs']} runs")
    return lines, data


# ---- files -----------------------------------------------------------------------------------------------------------
def _check_files(folder: Path, files: Mapping[str, Sequence[Any]]) -> None:
    for name, (_, expected) in files.items():
        actual = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        if actual != expected:
            raise ArtifactError(f"{folder / name} is damaged: its SHA-256 is {actual[:12]}..., not {expected[:12]}...")


def _inputs(folder: Path, pack: Mapping[str, Any], words: Sequence[str]) -> dict[str, Array]:
    """The stored inputs, with those in their places that the command line names."""
    stored = pack["reference"]["inputs"]
    files: dict[str, Path] = {}
    for word in words:
        name, separator, path = word.partition("=")
        if not (separator and path):
            raise UsageError(f"--input {word} is not like {next(iter(stored))}=image.npy")
        if name not in stored:
            raise UsageError(f"--input {name}: the network has no such input; it has {', '.join(stored)}")
        files[name] = Path(path)
    return {name: _array(files[name]) if name in files else _stored(folder, one) for name, one in stored.items()}


def _stored(folder: Path, one: str | dict[str, Any]) -> Array:
    """An input of the reference: a file's array, or the one that is made from a seed."""
    return _array(folder / one) if isinstance(one, str) else make_input(one["shape"], one["dtype"], one["seed"])


def _array(path: Path) -> Array:
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise UsageError(f"cannot read {path}: {reason}") from None
    if not isinstance(array, np.ndarray):
        raise UsageError(f"{path} is an archive; give one array as .npy")
    return array


def _write(path: Path, outputs: Mapping[str, Array]) -> None:
    try:
        with replacing(path) as file:
            np.savez(file, allow_pickle=False, **outputs)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from None


# ---- results ---------------------------------------------------------------------------------------------------------
def _verify(folder: Path, reference: Mapping[str, Any], outputs: Mapping[str, Array]) -> dict[str, Any]:
    """Every output against its reference."""
    if not reference["outputs"]:
        raise BlockfuseError(f"there are no reference outputs to compare with: {reference['note']}")
    checks = {}
    for name, path in reference["outputs"].items():
        found = compare(outputs[name], _array(folder / path), reference["tolerance"])
        if not found.passed:
            raise VerificationError(f"output {name!r} is wrong: {found}")
        checks[name] = found.to_dict()
    return checks


def _bench(network: Executable, inputs: Mapping[str, Array], seconds: float) -> dict[str, Any]:
    """Times of single runs, after a warm-up."""
    if not 0 <= seconds <= 3600:
        raise UsageError(f"--seconds must be from 0 to 3600, not {seconds}")
    _timed(network, inputs, min(_WARM_UP, seconds))
    times = _timed(network, inputs, seconds)
    return {"runs": len(times), "min_ms": 1e3 * min(times), "median_ms": 1e3 * statistics.median(times)}


def _timed(network: Executable, inputs: Mapping[str, Array], seconds: float) -> list[float]:
    session = network.start()
    times: list[float] = []
    run = session.bind(inputs)  # on a GPU, inputs and results stay there
    end = time.perf_counter() + seconds
    while len(times) < _FEWEST_RUNS or time.perf_counter() < end:
        started = time.perf_counter()
        run()
        session.wait()
        times.append(time.perf_counter() - started)
    return times
