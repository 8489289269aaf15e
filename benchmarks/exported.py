"""Real ONNX files against ONNX Runtime: is the result right, and which blocks were found and fused.

Every ``*.onnx`` file of a folder is compiled with each policy and run once on seeded input. Files whose first dimension
is open run with a batch of 3, others with the batch they were exported for. One line of JSON per case, a summary last.

    python benchmarks/exported.py FOLDER [--match PATTERN] [--fuse auto always never] [--threads N]
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

import blockfuse

OPEN_BATCH = 3


def main() -> None:
    """Run all cases."""
    options = parse()
    rows = [
        row for path in sorted(options.folder.glob(options.match)) for row in cases(path, options.fuse, options.threads)
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
    parser.add_argument("--threads", type=int)
    return parser.parse_args()


def cases(path: Path, policies: list[str], threads: int | None) -> list[dict[str, Any]]:
    """A model under every policy."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    first = session.get_inputs()[0]
    shape = tuple(dim if isinstance(dim, int) else OPEN_BATCH for dim in first.shape)
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    expected = session.run(None, {first.name: x})[0]
    rows = []
    for fuse in policies:
        row: dict[str, Any] = {"model": path.name, "batch": shape[0], "fuse": fuse}
        try:
            row |= compiled(path, {first.name: shape}, fuse, threads, x, expected)
        except blockfuse.BlockfuseError as error:
            row["failed"] = str(error)
        print(json.dumps(row), flush=True)
        rows.append(row)
    return rows


def compiled(
    path: Path, shape: dict[str, tuple[int, ...]], fuse: str, threads: int | None, x: np.ndarray, expected: np.ndarray
) -> dict[str, Any]:
    """What compiling and running once gives; the error is relative to the largest output."""
    started = time.perf_counter()
    executable = blockfuse.compile(path, shape=shape, fuse=fuse, threads=threads)
    seconds = time.perf_counter() - started
    report = executable.report()
    difference = np.abs(executable(x).astype(np.float64) - expected).max()
    return {
        "error": float(difference / np.abs(expected).max()),
        "blocks": len(report.blocks),
        "with_residual": sum("add" in block.stages for block in report.blocks),
        "fused": sum(block.is_fused for block in report.blocks),
        "kernels": report.kernel_count,
        "alone": sum(not step.kernels for step in report.steps),
        "compile_seconds": round(seconds, 1),
    }


if __name__ == "__main__":
    main()
