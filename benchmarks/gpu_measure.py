"""Timing of several sides in turns on a GPU, and what the figures mean beside each other.

A ratio is **our time over the other's: below 1 we are faster**. A turn is a number of calls one after the other on one
stream, timed as a whole by events of the device; its figure is the mean of its calls. ``minimum`` and ``median`` are
those of the turns. Sides alternate, and who starts changes, so all meet the same clocks.
"""

from __future__ import annotations

import platform
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol, TypeAlias

from blockfuse.plan.cost import waterline
from blockfuse.plan.device import GPUS, Device
from blockfuse.target import runs_on
from blockfuse.tools.facts import version

Call: TypeAlias = Callable[[], object]
Json: TypeAlias = dict[str, Any]

CONVENTION = "ratio = our time / the other's; below 1 we are faster; times are milliseconds per call"

_WARM_UP = 0.2  # seconds per side
_SHARE_ON_HOPPER = {"mma.sync": 0.62, "wgmma": 0.96}
"""Of the tensor peak, what an instruction reaches at best by the planner's assumption; on other chips all of it."""
_PACKAGES = ("blockfuse", "torch", "triton", "numpy", "apache-tvm-ffi", "nvidia-cudnn-cu13")
_QUERY = "name,driver_version,clocks.sm,clocks.mem,clocks.max.sm,temperature.gpu,power.draw,utilization.gpu"


class Clock(Protocol):
    """Something that times calls."""

    name: str

    def seconds(self, call: Call, count: int) -> float:
        """Duration of that many calls."""


class HostClock:
    """The processor's clock.

    Args:
        finish: Waits for what the calls of a turn have only begun.
    """

    name = "host"

    def __init__(self, finish: Call | None = None) -> None:
        self._finish = finish or (lambda: None)

    def seconds(self, call: Call, count: int) -> float:
        """Duration of that many calls."""
        self._finish()
        started = time.perf_counter()
        for _ in range(count):
            call()
        self._finish()
        return time.perf_counter() - started


class EventClock:
    """Events of the GPU on the current stream.

    Args:
        torch: PyTorch.
    """

    name = "CUDA events"

    def __init__(self, torch: Any) -> None:
        self._torch = torch
        self._start, self._end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def seconds(self, call: Call, count: int) -> float:
        """Duration of that many calls."""
        self._torch.cuda.synchronize()
        self._start.record()
        for _ in range(count):
            call()
        self._end.record()
        self._end.synchronize()
        return float(self._start.elapsed_time(self._end)) / 1e3


def measure(
    sides: Mapping[str, Call], clock: Clock, seconds: float = 3.0, turn: float = 0.01, fewest: int = 5
) -> dict[str, Json]:
    """Time sides in turns.

    Args:
        sides: What to call, by name.
        clock: How to time it.
        seconds: How long to measure, without the warm-up.
        turn: Seconds of one turn.
        fewest: Turns per side at least.
    """
    if not sides:
        return {}
    counts = {name: _calls_per_turn(call, clock, turn, min(_WARM_UP, seconds)) for name, call in sides.items()}
    times: dict[str, list[float]] = {name: [] for name in sides}
    order, deadline = list(sides), time.monotonic() + seconds
    while time.monotonic() < deadline or len(times[order[0]]) < fewest:
        for name in order:
            times[name].append(clock.seconds(sides[name], counts[name]) / counts[name])
        order.append(order.pop(0))
    return {name: _figures(values, counts[name]) for name, values in times.items()}


def _calls_per_turn(call: Call, clock: Clock, turn: float, warm_up: float) -> int:
    """Warm a side up; how many of its calls fill a turn."""
    call()
    spent, calls = 0.0, 0
    while spent < warm_up or not calls:
        spent += clock.seconds(call, 1 + calls)
        calls += 1 + calls
    return max(1, round(turn * calls / max(spent, 1e-9)))


def _figures(times: Sequence[float], calls: int) -> Json:
    ordered = sorted(times)
    p90 = ordered[min(len(ordered) - 1, int(0.9 * len(ordered)))]
    figures = {"minimum": ordered[0], "median": statistics.median(ordered), "p90": p90}
    return {**{key: 1e3 * value for key, value in figures.items()}, "turns": len(times), "calls_per_turn": calls}


# ---- what the figures mean -------------------------------------------------------------------------------------------
def ratios(times: Mapping[str, Json]) -> dict[str, Json]:
    """Our sides over all others and the fused one over the unfused one, with both sides of each ratio."""
    others = [name for name in times if name.startswith("torch")]
    pairs = [(ours, other) for ours in ("fused", "unfused") if ours in times for other in others]
    pairs += [("fused", "unfused")] if {"fused", "unfused"} <= times.keys() else []
    return {
        f"{ours} / {other}": {
            "of_minima": times[ours]["minimum"] / times[other]["minimum"],
            "of_medians": times[ours]["median"] / times[other]["median"],
            "minima": [times[ours]["minimum"], times[other]["minimum"]],
            "medians": [times[ours]["median"], times[other]["median"]],
        }
        for ours, other in pairs
    }


class Work(NamedTuple):
    """What one kernel does.

    Attributes:
        operations: Of the model.
        nbytes: Read and written, every tensor once.
        plan: The choices, in words.
    """

    operations: int
    nbytes: int
    plan: str

    @property
    def engine(self) -> str:
        """The instruction that makes its sums."""
        return "wgmma" if "wgmma" in self.plan else "mma.sync"


def efficiency(times: Mapping[str, Json], kernels: Mapping[str, Sequence[Work]], device: Device, arch: str) -> Json:
    """Operations of the model per second of the fastest turn, over the tensor peaks of the chip and of our engines.

    A side that is not ours is compared with the engines of our first one, as it does the same operations.
    """
    found = {}
    for name, side in times.items():
        work = kernels.get(name) or next(iter(kernels.values()))
        rate = sum(one.operations for one in work) / side["minimum"] * 1e3
        peak = engine_peak(work, device, arch)
        found[name] = {"tflops": rate / 1e12, "of_chip": rate / device.tensor_peak, "of_engine": rate / peak}
    return found


def engine_peak(kernels: Sequence[Work], device: Device, arch: str) -> float:
    """Operations per second if every kernel ran at the peak of its instruction."""
    shares = _SHARE_ON_HOPPER if arch.startswith("sm_90") else {}
    all_of_it = sum(one.operations for one in kernels)
    spent = sum(one.operations / shares.get(one.engine, 1.0) for one in kernels)
    return device.tensor_peak * all_of_it / spent if spent else device.tensor_peak


def limits(kernels: Mapping[str, Sequence[Work]], device: Device, arch: str) -> Json:
    """The waterline of each way to cut a network into kernels: predicted from a data sheet, not measured."""
    found = {}
    for name, work in kernels.items():
        data = asdict(
            waterline([(one.operations, one.nbytes) for one in work], device.tensor_peak, device.memory_bandwidth)
        )
        lost = data.pop("lost_seconds")
        peak = engine_peak(work, device, arch)
        engines = sorted({one.engine for one in work})
        found[name] = {**data, "lost_seconds": sum(lost), "kernels": len(work), "engines": engines, "engine_peak": peak}
    figures = {"figures_of": device.name, "chip_peak": device.tensor_peak, "bandwidth": device.memory_bandwidth}
    return {**figures, "predicted": found}


def figures_of(arch: str) -> Device:
    """The data sheet of the newest known GPU that has an architecture's code run."""
    known = [name for name in GPUS if runs_on([name], arch)]
    return GPUS[known[-1]]


# ---- where and when --------------------------------------------------------------------------------------------------
def facts(device: str, arch: str) -> Json:
    """Device, date, versions."""
    return {
        "device": device,
        "arch": arch,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in _PACKAGES},
        "state": gpu_state(),
    }


def gpu_state() -> Json | None:
    """Clocks, temperature and power as the driver's tool gives them; None without it."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    command = [tool, f"--query-gpu={_QUERY}", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)  # noqa: S603
    if done.returncode or not done.stdout.strip():
        return None
    values = done.stdout.strip().splitlines()[0].split(", ")
    return dict(zip(_QUERY.split(","), values, strict=False))
