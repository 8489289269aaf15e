"""Runs a container on the stand-in device, in a process of its own."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

TOOLKIT = Path(__file__).parent / "toolkit"
"""What ``CUDA_HOME`` must name for containers to carry their CUDA C."""

_ROOT = Path(__file__).parents[2]
_TIMEOUT = 300


class Run(NamedTuple):
    """What running a container gave.

    Attributes:
        outputs: For each call, results by name.
        launches: Kernels that ran, each a dictionary with ``kernel``, ``grid``, ``block``, ``shared_bytes``, and
            ``findings`` as pairs of kind and text; ``call`` says in which call.
        graph_launches: Graphs that were launched.
        seconds: Of each call.
        error: What the child said if it failed, else "".
        log: What it printed.
    """

    outputs: list[dict[str, np.ndarray[Any, Any]]]
    launches: list[dict[str, Any]]
    graph_launches: int
    seconds: list[float]
    error: str
    log: str

    @property
    def findings(self) -> list[tuple[str, str, str]]:
        """Kernel, kind and text of all that the emulator found."""
        return [(launch["kernel"], kind, text) for launch in self.launches for kind, text in launch["findings"]]


def run_network(container: Path, calls: Sequence[Mapping[str, np.ndarray[Any, Any]]], *, arch: str = "sm_90") -> Run:
    """Load a container on a device of an architecture, and call it with one set of inputs after the other."""
    with tempfile.TemporaryDirectory(prefix="blockfuse-standin-") as name:
        folder = Path(name)
        for number, inputs in enumerate(calls):
            np.savez(folder / f"in_{number}.npz", **inputs)
        command = [sys.executable, "-m", "tests.standin.child", str(container.resolve()), str(folder), arch]
        done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False, timeout=_TIMEOUT)
        log = done.stdout + done.stderr
        if not (folder / "result.json").exists():
            return Run([], [], 0, [], log.strip().splitlines()[-1] if log.strip() else f"status {done.returncode}", log)
        result = json.loads((folder / "result.json").read_text())
        outputs = []
        for number in range(len(result["seconds"])):
            with np.load(folder / f"out_{number}.npz") as data:
                outputs.append(dict(data))
        return Run(outputs, result["launches"], result["graph_launches"], result["seconds"], result["error"], log)
