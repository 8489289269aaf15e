"""Real ONNX files against ONNX Runtime: is the result right, and which blocks were found and fused.

Every ``*.onnx`` file of a folder is compiled once per policy and verified on seeded input: files whose first dimension
is open with 1, 3 and 16 images, others with the batch they were exported for. One JSON line per case, then a summary.

    python benchmarks/exported.py FOLDER [--match PATTERN] [--fuse auto always never] [--blocks] [--threads N]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import blockfuse
from blockfuse.plan.decide import FuseMode
from blockfuse.report import Report

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
    failed = [row for row in rows if "failed" in row]
    worst = max((row["error"] for row in rows if "error" in row), default=0.0)
    print(json.dumps({"cases": len(rows), "failed": len(failed), "worst_error": worst}))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--match", default="*.onnx", help="only files whose names fit")
    parser.add_argument("--fuse", nargs="+", default=["auto", "always", "never"], choices=["auto", "always", "never"])
    parser.add_argument("--blocks", action="store_true", help="compare the result of every block, too")
    parser.add_argument("--threads", type=int)
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
    except blockfuse.BlockfuseError as error:
        yield printed(row | {"failed": str(error)})


def facts(report: Report) -> dict[str, int]:
    """What was found and fused."""
    return {
        "blocks": len(report.blocks),
        "with_residual": sum("add" in block.stages for block in report.blocks),
        "fused": sum(block.is_fused for block in report.blocks),
        "kernels": report.kernel_count,
        "alone": sum(not step.kernels for step in report.steps),
    }


def printed(row: dict[str, Any]) -> dict[str, Any]:
    """The row, after printing it."""
    print(json.dumps(row), flush=True)
    return row


if __name__ == "__main__":
    main()
