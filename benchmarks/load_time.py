"""How long a packed network takes from the start of a process to its first output, where only numpy is installed.

    python benchmarks/load_time.py [--networks resnet18 mobilenet_v2] [--runs 15]

Each network is compiled for one thread and packed; ``run.py`` is then started again and again by the Python of a
virtual environment that has numpy and nothing else. ``load`` is the time of ``blockfuse.load``, ``total`` that of the
process, ``CPU`` the processor time it took, which other processes change less. The files are in the system's cache.
The results go to ``benchmarks/results/load_time.json``.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path
from typing import Any

import numpy as np

import blockfuse as bf
from blockfuse.frontend import zoo
from blockfuse.report import table
from blockfuse.tools.facts import machine_facts
from blockfuse.tools.pack import pack

RESULTS = Path(__file__).parent / "results" / "load_time.json"


def main() -> None:
    """Measure, print a table, write the results."""
    parser = argparse.ArgumentParser(description="Time from the start of a process to the first output.")
    parser.add_argument("--networks", nargs="+", default=["resnet18", "mobilenet_v2"], choices=zoo.__all__)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        python = bare_python(Path(name) / "bare")
        rows = [row(network, python, Path(name), options.runs) for network in options.networks]
    record = {
        "command": "python benchmarks/load_time.py",
        "arguments": sys.argv[1:],
        **machine_facts(),
        "results": rows,
    }
    cells = [[one["network"], *(f"{one[key]:.1f}" for key in HEAD[1:])] for one in rows]
    print("\n".join(table([HEAD, *cells])))
    print(f"{record['device']}, {record['class']}, load {record['load']}, {record['date']}")
    options.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


HEAD = ("network", "MB", "load min ms", "load median", "total min ms", "total median", "CPU min ms")


def row(network: str, python: Path, folder: Path, runs: int) -> dict[str, Any]:
    """The figures of one network."""
    executable = bf.compile(getattr(zoo, network)(), threads=1)
    executable.save(folder / "net.bf")
    packed = pack(folder / "net.bf", folder / network)
    command = [str(python), str(folder / network / "run.py"), "--json"]
    samples = [sample(command) for _ in range(runs + 1)][1:]  # the first one compiles modules
    loads, totals, works = zip(*samples, strict=True)
    figures = (
        packed.bytes / 1e6,
        min(loads),
        statistics.median(loads),
        min(totals),
        statistics.median(totals),
        min(works),
    )
    return {"network": network, "runs": runs, **dict(zip(HEAD[1:], figures, strict=True))}


def sample(command: list[str]) -> tuple[float, float, float]:
    """Milliseconds of one process: to load, in all, of processor time."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, capture_output=True, check=True, cwd="/")  # noqa: S603 - made above
    total, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    work = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return json.loads(done.stdout)["load_ms"], 1e3 * total, 1e3 * work


def bare_python(folder: Path) -> Path:
    """The Python of a new virtual environment with this one's numpy."""
    venv.create(folder, with_pip=False, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    numpy = Path(np.__file__).parent
    for part in (numpy, numpy.with_name("numpy.libs")):
        if part.is_dir():
            (site / part.name).symlink_to(part)
    return folder / "bin" / "python"


if __name__ == "__main__":
    main()
