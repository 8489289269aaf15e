"""Launches exported kernels on the GPU of this machine and checks them: numpy and CUDA's own libraries, nothing else.

    python tests/gpu/run_cases.py FOLDER [--only WORD] [--repeat N] [--json FILE]

One line per case; the exit code is 0 if all are right, 1 if one is wrong, 5 if there is no GPU. Results start as NaN.
Every launch is repeated, and must give the same bits: what moves is a race.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.cuda_driver import Cuda, CudaError  # noqa: E402 - the path comes first

Array = np.ndarray[Any, Any]
Row = dict[str, Any]

_WRONG, _NO_GPU = 1, 5


def main(arguments: Sequence[str] | None = None) -> int:
    """Check the cases of a folder; the exit code."""
    parser = argparse.ArgumentParser(description="Check exported kernels on this GPU.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", default="", help="a word in the names of cases")
    parser.add_argument("--repeat", type=int, default=3, metavar="N", help="launches of every kernel (default: 3)")
    parser.add_argument("--json", type=Path, help="file for the results")
    options = parser.parse_args(arguments)
    cases = json.loads((options.folder / "cases.json").read_text(encoding="utf-8"))
    try:
        cuda = Cuda()
    except CudaError as error:
        sys.stderr.write(f"no GPU: {error}\n")
        return _NO_GPU
    rows = []
    for case in cases:
        if options.only in case["name"]:
            rows.append(row := check(cuda, case, options.folder, options.repeat))
            say(line(row))
    wrong = [row["name"] for row in rows if not row["right"]]
    say(f"{cuda.name} ({cuda.arch}): {len(rows) - len(wrong)} of {len(rows)} cases right")
    if options.json is not None:
        record = {"device": cuda.name, "arch": cuda.arch, "wrong": wrong, "cases": rows}
        options.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return _WRONG if wrong or not rows else 0


def check(cuda: Cuda, case: Row, folder: Path, repeat: int) -> Row:
    """What launching a case gave; an error of at most 1 is what rounding explains."""
    if "rejected" in case:
        return {"name": case["name"], "right": False, "error": None, "same": False, "note": case["rejected"]}
    try:
        with np.load(folder / f"{case['name']}.npz") as data:
            arrays = dict(data)
        results = launch(cuda, case, (folder / f"{case['name']}.fatbin").read_bytes(), arrays, repeat)
    except CudaError as error:
        return {"name": case["name"], "right": False, "error": None, "same": False, "note": str(error)}
    finally:
        cuda.free()
    values, (first, count) = widened(results[0]["result"], case["dtype"]), case["channels"]
    errors = np.abs(values[..., first : first + count] - arrays["expected"]).ravel() / case["allowed"]
    if "expected_parts" in arrays:
        parts = np.abs(results[0]["result_parts"] - arrays["expected_parts"]) / arrays["allowed_parts"]
        errors = np.concatenate([errors, parts.ravel()])
    error = float(errors.max())
    same = all(np.array_equal(bits(results[0][name]), bits(other[name])) for other in results[1:] for name in other)
    unwritten, outside = int(np.isnan(errors).sum()), written_beside(values, first, count)
    note = f"{unwritten} of {errors.size} elements are NaN" if unwritten else ""
    note = f"{outside} elements beside the result were written" if outside else note
    right = error <= 1 and same and not outside
    return {"name": case["name"], "right": right, "error": finite(error), "same": same, "note": note}


def launch(cuda: Cuda, case: Row, image: bytes, arrays: dict[str, Array], repeat: int) -> list[dict[str, Array]]:
    """The results of every launch, by name."""
    kernel = cuda.load(image, case["kernel"], case["grid"], case["threads"], case["shared_bytes"])
    places = case["scalars"] | {name: cuda.upload(arrays[name]) for name in case["parameters"] if name in arrays}
    written = [name for name in ("result", "result_parts") if name in case["parameters"]]
    results = []
    for _ in range(max(1, repeat)):
        for name in written:
            cuda.write(places[name], arrays[name])
        kernel([places[name] for name in case["parameters"]])
        cuda.synchronize()
        results.append({name: cuda.download(places[name], arrays[name]) for name in written})
    return results


def written_beside(values: Array, first: int, count: int) -> int:
    """Elements that were written of channels that are not the result's; all were NaN."""
    return sum(int((~np.isnan(part)).sum()) for part in (values[..., :first], values[..., first + count :]))


def widened(array: Array, dtype: str) -> Array:
    """As float64; bfloat16 comes as its bits."""
    if dtype == "bfloat16":
        return (array.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return array.astype(np.float64)


def bits(array: Array) -> Array:
    """NaN equals itself."""
    return np.ascontiguousarray(array).view(np.uint8)


def finite(value: float) -> float | None:
    """JSON has no NaN."""
    return value if math.isfinite(value) else None


def line(row: Row) -> str:
    """A case as text."""
    error = "no result" if row["error"] is None else f"error {row['error']:.3f} of what rounding explains"
    moved = "" if row["same"] or row["error"] is None else "; results differ between launches"
    note = f"; {row['note']}" if row["note"] else ""
    return f"{'right' if row['right'] else 'WRONG'}  {row['name']}: {error}{moved}{note}"


def say(text: str) -> None:
    """Print a line at once: a kernel that hangs must not take its predecessors' lines with it."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
