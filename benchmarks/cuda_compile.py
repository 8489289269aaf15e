"""How long networks take to compile for GPUs: with an empty kernel cache, and again with a full one.

    python -m benchmarks.cuda_compile [--networks resnet50 mobilenet_v2] [--batches 1 32] [--target sm_80,sm_90a]

Every compilation is a process of its own. ``wall`` is its time without starting Python and loading TVM, which other
processes on the machine make longer; ``CPU`` is what it and its compilers took of all cores together, which they change
less. The rows go to ``benchmarks/results/cuda_compile.json``, which is complete after each; rows of other networks in
it stay.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import blockfuse as bf
from blockfuse.frontend import zoo
from blockfuse.report import table
from blockfuse.tools.facts import machine_facts

RESULTS = Path(__file__).parent / "results" / "cuda_compile.json"
NETWORKS = ["resnet50", "mobilenet_v2", "efficientnet_b0", "convnext_tiny", "convfirstnet"]
HEAD = ("network", "batch", "kernels", "MB", "cold wall s", "cold CPU s", "warm wall s", "warm CPU s", "load")

Row = dict[str, Any]


def main() -> None:
    """Measure, print a table, write the results."""
    parser = argparse.ArgumentParser(description="Time to compile networks for GPUs.")
    parser.add_argument("--networks", nargs="+", default=NETWORKS, choices=zoo.__all__)
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 32])
    parser.add_argument("--target", default="sm_80,sm_90a")
    parser.add_argument("--dtype", default="float16")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--child", nargs=2, metavar=("NETWORK", "BATCH"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(compilation(options.child[0], int(options.child[1]), options.target, options.dtype)))
        return
    rows = known_rows(options.output)
    for network in options.networks:
        for batch in options.batches:
            rows[network, batch] = row(network, batch, options.target, options.dtype)
            write(options.output, list(rows.values()))
    print("\n".join(table([HEAD, *map(cells, rows.values())])))


def row(network: str, batch: int, target: str, dtype: str) -> Row:
    """A network with an empty cache and with a full one."""
    with tempfile.TemporaryDirectory() as folder:
        cold, warm = (in_process(network, batch, target, dtype, folder) for _ in range(2))
    return {"network": network, "batch": batch, "target": target, "dtype": dtype, "cold": cold, "warm": warm}


def in_process(network: str, batch: int, target: str, dtype: str, cache: str) -> Row:
    """The figures of one compilation."""
    command = [sys.executable, "-m", "benchmarks.cuda_compile", "--target", target, "--dtype", dtype]
    environment = {**os.environ, "BLOCKFUSE_CACHE_DIR": cache}
    done = subprocess.run(  # noqa: S603 - this module
        [*command, "--child", network, str(batch)], stdout=subprocess.PIPE, check=True, env=environment
    )
    found: Row = json.loads(done.stdout)
    return found


def compilation(network: str, batch: int, target: str, dtype: str) -> Row:
    """Compile in this process."""
    model = getattr(zoo, network)(batch=batch)
    bf.compile(zoo.resnet18(size=32, width=0.25), stop_after="lower")  # loads everything
    before, started = processor_seconds(), time.perf_counter()
    executable = bf.compile(model, target=target, dtype=dtype)
    wall, work = time.perf_counter() - started, processor_seconds() - before
    report = executable.report()
    with tempfile.TemporaryDirectory() as folder:
        executable.save(Path(folder) / "net.bf")
        size = (Path(folder) / "net.bf").stat().st_size
    return {
        "wall_s": round(wall, 2),
        "cpu_s": round(work, 2),
        "stages_s": {name: round(seconds, 2) for name, seconds in (report.seconds or {}).items()},
        "kernels": len({kernel.name for step in report.steps for kernel in step.kernels}),
        "calls": report.kernel_count,
        "bytes": size,
        "facts": machine_facts(),
    }


def processor_seconds() -> float:
    """What this process and its children took so far."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def known_rows(path: Path) -> dict[tuple[str, int], Row]:
    """What a result file holds."""
    rows = json.loads(path.read_text(encoding="utf-8"))["results"] if path.exists() else []
    return {(one["network"], one["batch"]): one for one in rows}


def write(path: Path, rows: list[Row]) -> None:
    """Write the whole result file."""
    record = {"command": "python -m benchmarks.cuda_compile", "results": rows}
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def cells(one: Row) -> tuple[str, ...]:
    """A row as text."""
    cold, warm = one["cold"], one["warm"]
    times = (cold["wall_s"], cold["cpu_s"], warm["wall_s"], warm["cpu_s"], cold["facts"]["load"])
    size = f"{cold['bytes'] / 1e6:.1f}"
    return (one["network"], str(one["batch"]), str(cold["kernels"]), size, *(f"{value:.1f}" for value in times))


if __name__ == "__main__":
    main()
