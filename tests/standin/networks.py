"""Runs a container on the stand-in device, in a process of its own."""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from blockfuse.runtime import artifact
from tests.emulated.emulator.host_source import host_kernel
from tests.emulated.emulator.toolchain import build_kernel

Array = npt.NDArray[Any]

TOOLKIT = Path(__file__).parent / "toolkit"
"""What ``CUDA_HOME`` must name for containers to carry their CUDA C."""

_ROOT = Path(__file__).parents[2]
_TIMEOUT = 300
_KERNEL = re.compile(r"__global__ void (?:__launch_bounds__\([^)]*\) )?(\w+)\([^;{]*\{")


class Run(NamedTuple):
    """What running a container gave.

    Attributes:
        outputs: For each call, results by name.
        launches: Kernels that ran, each a dictionary of what ``libraries.Launch`` has, with ``findings`` as pairs of
            kind and text and ``counters`` by name; ``call`` says in which call.
        graph_launches: Graphs that were launched.
        seconds: Of each call.
        error: What the child said if it failed, else "".
        log: What it printed.
        ran: Name of the variant that was loaded.
    """

    outputs: list[dict[str, Array]]
    launches: list[dict[str, Any]]
    graph_launches: int
    seconds: list[float]
    error: str
    log: str
    ran: str = ""

    @property
    def findings(self) -> list[tuple[str, str, str]]:
        """Kernel, kind and text of all that the emulator found."""
        return [(launch["kernel"], kind, text) for launch in self.launches for kind, text in launch["findings"]]


def run_network(
    container: Path,
    calls: Sequence[Mapping[str, Array]],
    *,
    arch: str = "sm_90",
    replaced: Mapping[str, str] | None = None,
    fault: Mapping[str, int] | None = None,
    count: bool = False,
) -> Run:
    """Load a container on a device of an architecture, and call it with one set of inputs after the other.

    Args:
        container: What was compiled with ``CUDA_HOME`` set to :data:`TOOLKIT`.
        calls: Inputs by name.
        arch: What the device claims to be.
        replaced: CUDA C that runs in place of a kernel's own, by the kernel's name.
        fault: What the device does wrongly, see :class:`tests.standin.libraries.StandIn`.
        count: Whether launches have ``counters`` other than zero.
    """
    _build_all([*_texts(container), *(replaced or {}).values()])
    with tempfile.TemporaryDirectory(prefix="blockfuse-standin-") as name:
        folder = Path(name)
        device = {"replaced": replaced or {}, "fault": fault or {}, "count": count}
        (folder / "device.json").write_text(json.dumps(device))
        for number, inputs in enumerate(calls):
            np.savez(folder / f"in_{number}.npz", **inputs)
        command = [sys.executable, "-m", "tests.standin.child", str(container.resolve()), str(folder), arch]
        done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False, timeout=_TIMEOUT)
        return _result(folder, done.stdout + done.stderr, done.returncode)


def kernel_sources(container: Path) -> dict[str, str]:
    """The CUDA C in a container for one target, by the names of kernels; one source may have several."""
    return {name: text for text in _texts(container) for name in _KERNEL.findall(text)}


def _texts(container: Path) -> set[str]:
    """All CUDA C in a container."""
    found = set()
    for code in (variant.library.code for variant in artifact.load(container, any_machine=True)):
        for match in re.finditer(b"BFSOURCE(.{8})(.{8})", code, re.DOTALL):
            archs, size = (int.from_bytes(part, "little") for part in match.groups())
            found.add(code[match.end() + archs : match.end() + archs + size].decode())
    return found


def _build_all(sources: Sequence[str]) -> None:
    """Compile all kernels for the emulator, as many at a time as there are cores."""
    kernels = {(source, name) for source in sources for name in _KERNEL.findall(source)}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda kernel: build_kernel(host_kernel(*kernel).source), sorted(kernels)))


def _result(folder: Path, log: str, status: int) -> Run:
    """What a child left behind."""
    if not (folder / "result.json").exists():
        return Run([], [], 0, [], (log.strip().splitlines() or [f"status {status}"])[-1], log)
    result = json.loads((folder / "result.json").read_text())
    outputs = []
    for number in range(len(result["seconds"])):
        with np.load(folder / f"out_{number}.npz") as data:
            outputs.append(dict(data))
    return Run(
        outputs, result["launches"], result["graph_launches"], result["seconds"], result["error"], log, result["ran"]
    )


class OnStandIn:
    """What ``bf.verify`` asks of an executable; it runs on the stand-in device.

    Args:
        executable: What was compiled.
        container: Its file.
        arch: What the device claims to be.
    """

    def __init__(self, executable: Any, container: Path, arch: str = "sm_90") -> None:
        self.container, self.arch = container, arch
        self.inputs, self.outputs, self.report = executable.inputs, executable.outputs, executable.report
        self.inputs_for = executable.inputs_for

    def start(self) -> Any:
        """A session, as far as its number of threads goes."""
        return SimpleNamespace(threads=1)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Results of the first call; the inputs of the others are different, and the last are the first again."""
        other = {name: array[..., ::-1].copy() for name, array in inputs.items()}
        self.result = run_network(self.container, [inputs, other, inputs], arch=self.arch)
        if self.result.error:
            raise RuntimeError(self.result.log)
        return self.result.outputs[0]
