"""Runs exported networks on the GPU of this machine and checks them: numpy and what the folder has.

    python tests/gpu/run_networks.py FOLDER [--only WORD] [--json FILE]

One line per network; the exit code is 0 if all are right, 1 if one is wrong, 5 if there is no GPU.
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

from benchmarks.gpu_sides import use_runtime  # noqa: E402 - the path comes first
from blockfuse.errors import BlockfuseError, TargetError  # noqa: E402

Row = dict[str, Any]

_WRONG, _NO_GPU = 1, 5


def main(arguments: Sequence[str] | None = None) -> int:
    """Check the networks of a folder; the exit code."""
    parser = argparse.ArgumentParser(description="Check exported networks on this GPU.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", default="", help="a word in the names of networks")
    parser.add_argument("--json", type=Path, help="file for the results")
    options = parser.parse_args(arguments)
    use_runtime(options.folder)
    listed = json.loads((options.folder / "networks.json").read_text(encoding="utf-8"))
    rows = []
    for one in (one for one in listed if options.only in one["name"]):
        try:
            rows.append(row := check(one, options.folder))
        except TargetError as error:
            sys.stderr.write(f"no GPU: {error}\n")
            return _NO_GPU
        sys.stdout.write(f"{'right' if row['right'] else 'WRONG'}  {row['name']}: {row['note']}\n")
        sys.stdout.flush()
    wrong = [row["name"] for row in rows if not row["right"]]
    sys.stdout.write(f"{len(rows) - len(wrong)} of {len(rows)} networks right\n")
    if options.json is not None:
        options.json.write_text(json.dumps({"wrong": wrong, "networks": rows}, indent=1) + "\n", encoding="utf-8")
    return _WRONG if wrong or not rows else 0


def check(one: Row, folder: Path) -> Row:
    """What running a network three times gave; an error of at most 1 is what rounding explains."""
    import blockfuse  # noqa: PLC0415 - not before the path to TVM's runtime is known

    with np.load(folder / one["data"]) as data:
        inputs, expected = (
            {key.partition(" ")[2]: data[key] for key in data.files if key.startswith(kind)}
            for kind in ("input ", "output ")
        )
    try:
        network = blockfuse.load(folder / f"{one['name']}.bf")
        runs = [network.run(inputs) for _ in range(3)]
    except TargetError:
        raise
    except (BlockfuseError, RuntimeError) as error:
        return {"name": one["name"], "right": False, "error": None, "note": str(error).strip().splitlines()[-1]}
    largest = max(
        float(np.abs(runs[0][key] - array).max() / (np.abs(array).max() * one["allowed"]))
        for key, array in expected.items()
    )
    same = all(np.array_equal(runs[0][key], run[key], equal_nan=True) for run in runs[1:] for key in expected)
    note = f"error {largest:.3f} of what rounding explains" + ("" if same else "; results differ between runs")
    error = largest if math.isfinite(largest) else None
    return {"name": one["name"], "right": largest <= 1 and same, "error": error, "note": note}


if __name__ == "__main__":
    sys.exit(main())
