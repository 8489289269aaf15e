"""Real ONNX files against ONNX Runtime: is the result right, and which blocks were found and fused.

Every ``*.onnx`` file of a folder is compiled once per policy and verified on seeded input: files whose first dimension
is open with 1, 3 and 16 images, others with the batch they were exported for. One JSON line per case, then a table with
a line per network: files ``NETWORK.EXPORTER.OPSET.BATCH.onnx`` with the same beginning are one. ``undecided`` are cases
in which rounding alone moves the reference further than the tolerance.

    python benchmarks/exported.py FOLDER [--match PATTERN] [--fuse auto always never] [--blocks] [--threads N]
                                  [--output benchmarks/results/exported.json]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import blockfuse
from blockfuse.errors import VerificationError
from blockfuse.plan.decide import FuseMode
from blockfuse.report import Report, table
from blockfuse.tools.facts import machine_facts

OPEN_BATCHES = (1, 3, 16)


def main() -> None:
    """Run all cases."""
    options = parse()
    rows = [
        row
        for path in sorted(options.folder.glob(options.match))
        for fuse in options.fuse
        for row in cases(path, fuse, options)
    ]
    summary = {
        "cases": len(rows),
        "failed": sum("failed" in row for row in rows),
        "undecided": sum("undecided" in row for row in rows),
        "worst_error": max((row["error"] for row in rows if "error" in row), default=0.0),
        "longest_compile_seconds": max(
            (row["compile_seconds"] for row in rows if "compile_seconds" in row), default=0.0
        ),
    }
    print("\n".join(table([HEAD, *lines(rows)])))
    print(json.dumps(summary))
    if options.output:
        record = {"command": "python benchmarks/exported.py", "arguments": sys.argv[1:], **machine_facts(), **summary}
        options.output.write_text(json.dumps({**record, "results": rows}, indent=1) + "\n", encoding="utf-8")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--match", default="*.onnx", help="only files whose names fit")
    parser.add_argument("--fuse", nargs="+", default=["auto", "always", "never"], choices=["auto", "always", "never"])
    parser.add_argument("--blocks", action="store_true", help="compare the result of every block, too")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--output", type=Path, help="a JSON file for all rows")
    return parser.parse_args()


def cases(path: Path, fuse: FuseMode, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A model under one policy, at every batch it can have."""
    row: dict[str, Any] = {"model": path.name, "fuse": fuse}
    try:
        started = time.perf_counter()
        executable = blockfuse.compile(path, fuse=fuse, threads=options.threads, taps=options.blocks)
        row |= facts(executable.report()) | {"compile_seconds": round(time.perf_counter() - started, 1)}
        open_batch = executable.report().planned_batch is not None
        for batch in OPEN_BATCHES if open_batch else (None,):
            found = blockfuse.verify(path, executable=executable, per_block=options.blocks, batch=batch)
            yield printed(row | {"batch": batch or "fixed", "error": found.max_rel, "blocks_right": len(found.blocks)})
    except VerificationError as error:
        verdict = "undecided" if error.verification.is_undecided else "failed"
        yield printed(row | {verdict: str(error)})
    except blockfuse.BlockfuseError as error:
        yield printed(row | {"failed": str(error)})


def facts(report: Report) -> dict[str, Any]:
    """What was found and fused, and of what was not, why."""
    apart = Counter(reason(block.note) for block in report.blocks if not block.is_fused)
    kinds = Counter(block.kind for block in report.blocks)
    alone = Counter(step.kind for step in report.steps if not step.kernels)
    return {
        "kinds": dict(kinds),
        "apart": dict(apart),
        "operators": dict(alone),
        "blocks": len(report.blocks),
        "with_residual": sum("add" in block.stages for block in report.blocks),
        "fused": sum(block.is_fused for block in report.blocks),
        "kernels": report.kernel_count,
        "alone": alone.total(),
    }


def reason(note: str) -> str:
    """Why a block is several kernels, without the figures of the single block."""
    return "impossible as one" if "impossible" in note else "faster apart"


HEAD = ("network", "blocks", "with residual", "fused: auto", "always", "apart by default", "operators alone", "right")


def lines(rows: list[dict[str, Any]]) -> Iterator[tuple[str, ...]]:
    """A line of the table for each network; counts are those of its first file."""
    by_network: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_network.setdefault(row["model"].rsplit(".", 4)[0], []).append(row)
    for network, cases in by_network.items():
        compiled = {row["fuse"]: row for row in reversed(cases) if "blocks" in row}
        default = compiled.get("auto", {})
        kinds, apart, alone = (words(default.get(key, {})) for key in ("kinds", "apart", "operators"))
        fused = [str(compiled[fuse]["fused"]) if fuse in compiled else "-" for fuse in ("auto", "always")]
        right = f"{sum('error' in row for row in cases)} of {len(cases)}"
        yield network, kinds, str(default.get("with_residual", "-")), *fused, apart, alone, right


def words(counts: dict[str, int]) -> str:
    """Counts in words."""
    return ", ".join(f"{count} {name}" for name, count in counts.items()) or "-"


def printed(row: dict[str, Any]) -> dict[str, Any]:
    """The row, after printing it."""
    print(json.dumps(row), flush=True)
    return row


if __name__ == "__main__":
    main()
