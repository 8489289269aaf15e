"""What is installed, which targets work, and why the others do not."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from blockfuse import __version__
from blockfuse.build.nvrtc import find_nvrtc
from blockfuse.compiler import compile as compile_model
from blockfuse.errors import BlockfuseError, ModelError, TargetError
from blockfuse.gpu import this_gpu
from blockfuse.report import table
from blockfuse.runtime.session import load_runtime
from blockfuse.target import CPU_CLASSES, Target, available_cores, best_cpu, parse_target, runs_on
from blockfuse.tools import facts

_TVM = "0.27.0.post1"
_FFI_FROM, _FFI_BELOW = (0, 1, 14), (0, 1, 15)


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: What it is.
        state: ``ok``, ``missing`` for what is not needed, or ``broken``.
        detail: The version, or what is wrong and what helps.
    """

    name: str
    state: str
    detail: str


@dataclass(frozen=True)
class Diagnosis:
    """All findings.

    Attributes:
        findings: Of packages, tools and the processor.
        targets: Of the targets.
    """

    findings: tuple[Finding, ...]
    targets: tuple[Finding, ...]

    @property
    def is_well(self) -> bool:
        """Whether networks can be compiled for this machine's CPU and run."""
        return not any(finding.state == "broken" for finding in (*self.findings, *self.targets))

    def to_dict(self) -> dict[str, Any]:
        """The diagnosis as JSON holds it."""
        return {"ok": self.is_well, **asdict(self)}

    def __str__(self) -> str:
        rows = [(finding.name, finding.state, finding.detail) for finding in (*self.findings, *self.targets)]
        return "\n".join(table(rows))


def examine() -> Diagnosis:
    """Look at everything; nothing is installed or changed."""
    checks: dict[str, Callable[[], Finding]] = {
        "blockfuse": lambda: Finding("blockfuse", "ok", f"{__version__}, Python {platform.python_version()}"),
        "TVM": _tvm,
        "tvm-ffi": _ffi,
        "TVM compiler": _compiler,
        "TVM runtime": lambda: Finding("TVM runtime", "ok", str(load_runtime())),
        "C++ compiler": _linker,
        **{name: _package(name, needed=True) for name in ("numpy", "onnx", "networkx")},
        "onnxruntime": _package("onnxruntime", needed=False, extra="verify"),
        "rich": _package("rich", needed=False, extra="cli"),
        "CPU": _cpu,
        "threads": _threads,
        "nvcc": _nvcc,
        "GPU": _gpu,
    }
    targets = (*CPU_CLASSES, "cuda", "sm_80", "sm_90a")
    findings = tuple(_guarded(name, check) for name, check in checks.items())
    return Diagnosis(findings, (_target("cpu"), *map(_target, targets)))


def _guarded(name: str, check: Callable[[], Finding]) -> Finding:
    """What a check finds; its failure is a finding too."""
    try:
        return check()
    except BlockfuseError as error:
        return Finding(name, "broken", str(error))
    except Exception as error:  # noqa: BLE001 - a broken package may raise anything
        lines = str(error).strip().splitlines()
        return Finding(name, "broken", f"{type(error).__name__}: {lines[0] if lines else ''}")


# ---- packages --------------------------------------------------------------------------------------------------------
def _tvm() -> Finding:
    found = facts.version("apache-tvm")
    good = found is not None and found.split("+")[0] == _TVM
    return Finding("TVM", "ok" if good else "broken", f"{found}" if good else f"{found}, needed is {_TVM}")


def _ffi() -> Finding:
    found = facts.version("apache-tvm-ffi") or "0"
    numbers = tuple(int(part) for part in found.split(".")[:3] if part.isdecimal())
    good = _FFI_FROM <= numbers < _FFI_BELOW
    needed = f"{'.'.join(map(str, _FFI_FROM))} or newer, below {'.'.join(map(str, _FFI_BELOW))}"
    return Finding("tvm-ffi", "ok" if good else "broken", found if good else f"{found}, needed is {needed}")


def _compiler() -> Finding:
    import_module("blockfuse.build.build")
    return Finding("TVM compiler", "ok", "loads")


def _package(name: str, *, needed: bool, extra: str = "") -> Callable[[], Finding]:
    def check() -> Finding:
        try:
            return Finding(name, "ok", metadata.version(name))
        except metadata.PackageNotFoundError:
            command = f"pip install 'blockfuse[{extra}]'" if extra else f"pip install {name}"
            return Finding(name, "broken" if needed else "missing", command)

    return check


# ---- tools and processors --------------------------------------------------------------------------------------------
def _linker() -> Finding:
    names = (os.environ.get("CXX", ""), "g++", "clang++", "c++")
    path = next(filter(None, (shutil.which(name) for name in names if name)), None)
    if path is None:
        return Finding("C++ compiler", "broken", "linking needs one: put g++ or clang++ on the path")
    return Finding("C++ compiler", "ok", f"{path}, {_first_line(path, '--version')}")


def _cpu() -> Finding:
    best = best_cpu()
    detail = f"{facts.cpu_model()}, class {best.name}"
    return Finding("CPU", "ok", detail if best.features else f"{detail}: kernels are slow without AVX2 and FMA")


def _threads() -> Finding:
    chosen = os.environ.get("TVM_NUM_THREADS")
    detail = f"{available_cores()} cores may be used"
    return Finding("threads", "ok", f"{detail}; TVM_NUM_THREADS={chosen}" if chosen else detail)


def _nvcc() -> Finding:
    homes = [os.environ.get(name, "") for name in ("CUDA_HOME", "CUDA_PATH")]
    places = [shutil.which("nvcc"), *(shutil.which(str(Path(home) / "bin" / "nvcc")) for home in homes if home)]
    path = next(filter(None, places), None)
    if path is None:
        library = find_nvrtc()
        if library is not None:
            return Finding("nvcc", "missing", f"{library.path} is used in its place")
        detail = "CUDA code cannot be compiled; set CUDA_HOME, put nvcc on the path, or pip install 'blockfuse[cuda]'"
        return Finding("nvcc", "missing", detail)
    return Finding("nvcc", "ok", f"{path}, {_first_line(path, '--version', last=True)}")


def _first_line(program: str, argument: str, *, last: bool = False) -> str:
    done = subprocess.run([program, argument], capture_output=True, text=True, timeout=20, check=False)  # noqa: S603
    lines = (done.stdout or done.stderr).strip().splitlines() or ["says nothing"]
    return lines[-1 if last else 0]


def _gpu() -> Finding:
    try:
        return Finding("GPU", "ok", str(this_gpu()))
    except TargetError as error:
        return Finding("GPU", "missing", str(error))


# ---- targets ---------------------------------------------------------------------------------------------------------
def _target(name: str) -> Finding:
    """Whether the compiler takes a target, and this machine runs what it makes; only ``cpu`` has to work."""
    title, no = f"target {name}", "broken" if name == "cpu" else "missing"
    try:
        compile_model(os.devnull, target=name, stop_after="read")
    except TargetError as error:
        return Finding(title, no, str(error))
    except ModelError:
        pass  # the target is fine, and the empty model is not
    lacking = _lacking(parse_target(name))
    return Finding(title, "ok", f"compiles, and does not run here: {lacking}" if lacking else "compiles and runs here")


def _lacking(target: Target) -> str:
    """Why code for a target does not run on this machine; "" if it does."""
    if target.kind == "cpu":
        missing = target.missing_features()
        return f"needs {', '.join(missing)}" if missing else ""
    try:
        here = this_gpu()
    except TargetError as error:
        return str(error)
    return "" if not target.archs or runs_on(target.archs, here.arch) else f"this is {here}"
