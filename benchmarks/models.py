"""Whole networks against ONNX Runtime: every fusion policy side by side, each thread count in a process of its own.

    python benchmarks/models.py [--networks resnet18 mobilenet_v2] [--threads 1 2] [--fuse auto always never]
    python benchmarks/models.py --networks FOLDER/*.onnx --output benchmarks/results/exported_models.json

A network is one of ``blockfuse.frontend.zoo``, or an ONNX file. All policies and ONNX Runtime take turns in one
process, so every ratio compares times from the same minutes. Every network is compared with ONNX Runtime before it is
timed. The results, both sides of every ratio with them, go to ``benchmarks/results/models.json``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from statistics import geometric_mean
from typing import Any

import blockfuse as bf
from blockfuse.errors import VerificationError
from blockfuse.frontend import zoo
from blockfuse.report import table
from blockfuse.runtime.executable import Executable
from blockfuse.tools.bench import measure, onnxruntime_call
from blockfuse.tools.facts import foreign_seconds, machine_facts
from blockfuse.verification.verify import seeded_inputs, verify

RESULTS = Path(__file__).parent / "results" / "models.json"
BASELINE = "onnxruntime"


def main() -> None:
    """Measure, print a table, write the results."""
    options = parse()
    if options.worker:
        print(json.dumps([row for name in options.networks for row in rows(name, options)]))
        return
    results: list[dict[str, Any]] = []
    for threads in options.threads:
        print(f"{threads} thread{'s' if threads > 1 else ''} ...", file=sys.stderr)
        results += in_own_process(threads)
    record = {
        "command": "python benchmarks/models.py",
        "arguments": sys.argv[1:],
        **machine_facts(),
        "results": results,
    }
    print("\n".join(table([HEAD, *map(cells, results)])))
    print("\n".join(means(results)))
    print(f"{record['device']}, {record['class']}, load {record['load']}, {record['date']}")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Networks against ONNX Runtime.")
    parser.add_argument("--networks", nargs="+", default=["resnet18", "mobilenet_v2"], type=network)
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--fuse", nargs="+", default=["auto", "always", "never"], choices=["auto", "always", "never"])
    parser.add_argument("--size", type=int, default=224, help="height and width of images, for networks of the zoo")
    parser.add_argument("--batch", type=int, default=1, help="images, for networks of the zoo")
    parser.add_argument("--target", default="cpu", help="cpu:avx2, for one; ONNX Runtime uses all that there is")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long to measure one network")
    parser.add_argument(
        "--wait", type=float, default=0.0, help="how long to wait for a quiet machine before each network"
    )
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def network(text: str) -> str:
    """A network of the zoo, or a file."""
    if text in zoo.__all__ or Path(text).is_file():
        return text
    raise argparse.ArgumentTypeError(f"{text} is no file, and the networks are {', '.join(zoo.__all__)}")


def in_own_process(threads: int) -> list[dict[str, Any]]:
    """The rows for one thread count, from a process that never had another."""
    command = [sys.executable, __file__, *sys.argv[1:], "--worker", "--threads", str(threads)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)  # noqa: S603 - this very script
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    return rows


def rows(name: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """One row per policy for a network."""
    (threads,) = options.threads
    model: Any = Path(name) if name not in zoo.__all__ else getattr(zoo, name)(batch=options.batch, size=options.size)
    compiled = {fuse: bf.compile(model, target=options.target, fuse=fuse, threads=threads) for fuse in options.fuse}
    errors = {fuse: difference(model, executable) for fuse, executable in compiled.items()}
    inputs = seeded_inputs(next(iter(compiled.values())).inputs)
    calls = {fuse: lambda executable=executable: executable.run(inputs) for fuse, executable in compiled.items()}
    wait_for_quiet(options.wait)
    measured = measure({BASELINE: onnxruntime_call(model, inputs, threads), **calls}, seconds=options.seconds)
    times = measured.sides
    return [
        {
            "network": Path(name).name.removesuffix(".onnx"),
            "target": options.target,
            "shapes": {slot.name: list(slot.shape) for slot in executable.inputs},
            "threads": threads,
            "fuse": fuse,
            "blocks": len(executable.report().blocks),
            "fused": sum(block.is_fused for block in executable.report().blocks),
            "kernels": executable.report().kernel_count,
            "max_error": errors[fuse],
            "rounds": measured.rounds,
            "foreign_load": measured.foreign_load,
            "ours": asdict(times[fuse]),
            "baseline": asdict(times[BASELINE]),
            "ratio": times[fuse].minimum / times[BASELINE].minimum,
            "ratio_of_medians": times[fuse].median / times[BASELINE].median,
        }
        for fuse, executable in compiled.items()
    ]


def difference(model: Any, executable: Executable) -> float:
    """The largest difference from ONNX Runtime; one that is too large is named, and what it says is for the reader."""
    try:
        return verify(model, executable=executable).max_rel
    except VerificationError as error:
        print(error, file=sys.stderr)
        return float(error.verification.max_rel)


def wait_for_quiet(limit: float) -> None:
    """Wait until other processes leave the cores alone, for that many seconds at most."""
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        before = foreign_seconds()
        time.sleep(0.5)
        after = foreign_seconds()
        if before is None or after is None or after - before < 0.05:
            return


def means(results: list[dict[str, Any]]) -> Iterator[str]:
    """Geometric means over networks, per number of threads and policy."""
    for key in sorted({(row["threads"], row["fuse"]) for row in results}):
        ratios = [row["ratio"] for row in results if (row["threads"], row["fuse"]) == key]
        yield f"{key[0]} threads, {key[1]}: {geometric_mean(ratios):.3f} over {len(ratios)}, worst {max(ratios):.2f}"


HEAD = (
    *("network", "threads", "fuse", "fused", "kernels", "max error", "min ms", "median", "ORT min", "median"),
    *("ours/ORT by minima", "by medians", "busy"),
)


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    """A row as text."""
    times = [f"{row[side][key]:.2f}" for side in ("ours", "baseline") for key in ("minimum", "median")]
    busy = "?" if row["foreign_load"] is None else f"{row['foreign_load']:.1f}"
    fused = f"{row['fused']} of {row['blocks']}"
    start = (row["network"], str(row["threads"]), row["fuse"], fused, str(row["kernels"]), f"{row['max_error']:.1e}")
    return (*start, *times, f"{row['ratio']:.2f}", f"{row['ratio_of_medians']:.2f}", busy)


if __name__ == "__main__":
    main()
