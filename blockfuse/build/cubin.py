"""CUDA C to machine code: one fat binary per kernel, with code for every architecture asked for.

The newest architecture without a suffix is also included as PTX, which drivers of newer GPUs translate. Kernels are
compiled side by side and kept on disk, by nvcc, or by NVRTC where there is only that.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from blockfuse.build.nvrtc import find_nvrtc
from blockfuse.errors import InternalError, TargetError
from blockfuse.kernel_cache import KernelCache, default_cache, key_of
from blockfuse.target import available_cores, newest_plain

_FLAGS = ("-O3", "-std=c++17", "--use_fast_math", "-w")
_PATIENCE = 600  # seconds
_USUAL_PLACE = "/usr/local/cuda"


def compile_kernels(sources: Sequence[str], archs: Sequence[str], cache: KernelCache | None = None) -> list[bytes]:
    """The fat binary of every source.

    Args:
        sources: CUDA C.
        archs: Such as ``sm_80`` or ``sm_90a``.
        cache: Where results are kept; by default in the user's cache folder.

    Raises:
        TargetError: There is no compiler, or it does not know an architecture.
        InternalError: It rejects a source.
    """
    compiler = find_compiler()
    cache = cache or default_cache()
    with ThreadPoolExecutor(max(1, available_cores())) as pool:
        return list(pool.map(lambda source: _compile(source, archs, compiler, cache), sources))


class Compiler(Protocol):
    """What makes machine code."""

    @property
    def version(self) -> str:
        """What determines its results, besides the source and the architectures."""

    def compile(self, source: str, archs: Sequence[str]) -> bytes:
        """The fat binary of a source for architectures.

        Raises:
            TargetError: It does not know an architecture.
            InternalError: It rejects the source.
        """


def find_compiler() -> Compiler:
    """nvcc, or NVRTC where that is not found.

    Raises:
        TargetError: There is neither.
    """
    try:
        return Nvcc(find_nvcc())
    except TargetError:
        library = find_nvrtc()
    if library is None:
        raise TargetError(
            "compiling for GPUs needs nvcc or NVRTC: put nvcc on the path, set CUDA_HOME, or "
            "pip install 'blockfuse[cuda]'"
        )
    return library


def find_nvcc() -> str:
    """Path of nvcc: on the path, or below what ``CUDA_HOME`` or ``CUDA_PATH`` name.

    Raises:
        TargetError: It is nowhere.
    """
    homes = [os.environ.get(name, "") for name in ("CUDA_HOME", "CUDA_PATH")]
    places = [shutil.which(str(Path(home) / "bin" / "nvcc")) for home in homes if home]
    places += [shutil.which("nvcc"), shutil.which(str(Path(_USUAL_PLACE) / "bin" / "nvcc"))]
    found = next(filter(None, places), None)
    if found is None:
        raise TargetError("nvcc of the CUDA toolkit is not found: put it on the path or set CUDA_HOME")
    return str(Path(found).absolute())


def generations(archs: Sequence[str]) -> list[str]:
    """Options of nvcc for machine code of these architectures, and PTX of the newest that has a successor."""
    options = [f"-gencode=arch=compute_{arch[3:]},code={arch}" for arch in archs]
    newest = newest_plain(archs)
    return options if newest is None else [*options, f"-gencode=arch=compute_{newest},code=compute_{newest}"]


def _compile(source: str, archs: Sequence[str], compiler: Compiler, cache: KernelCache) -> bytes:
    key = key_of([source, *archs, compiler.version])
    code = cache.get(key)
    if code is None:
        code = compiler.compile(source, archs)
        cache.put(key, code)
    return code


@dataclass(frozen=True)
class Nvcc:
    """nvcc at a path."""

    path: str

    @property
    def version(self) -> str:
        """What it says of itself, and its options."""
        return " ".join((_version(self.path), *_FLAGS))

    def compile(self, source: str, archs: Sequence[str]) -> bytes:
        """As :class:`Compiler` says."""
        return _run(source, [*generations(archs), *_FLAGS], self.path, archs)


def _run(source: str, options: Sequence[str], compiler: str, archs: Sequence[str]) -> bytes:
    with tempfile.TemporaryDirectory(prefix="blockfuse-") as name:
        folder = Path(name)
        (folder / "kernel.cu").write_text(source, encoding="utf-8")
        command = [compiler, "-fatbin", *options, "-o", "kernel.fatbin", "kernel.cu"]
        done = _call(command, folder)
        if done.returncode == 0:
            return (folder / "kernel.fatbin").read_bytes()
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    reason = next((line for line in lines if re.search(r"error|fatal|unsupported", line, re.IGNORECASE)), lines[0])
    if "gpu architecture" in reason.lower():
        raise TargetError(f"nvcc cannot compile for {', '.join(archs)}: {reason}")
    kernel = re.search(r"__global__[^(]*\(\d*[^)]*\)\s*(\w+)|__global__\s+void\s+(\w+)", source)
    named = next(filter(None, kernel.groups()), "?") if kernel else "?"
    raise InternalError(f"nvcc rejects kernel {named}: {reason}")


@functools.cache
def _version(compiler: str) -> str:
    return _call([compiler, "--version"], None).stdout


def _call(command: list[str], folder: Path | None) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(  # noqa: S603 - the compiler of the user's choice
            command, cwd=folder, capture_output=True, text=True, check=False, timeout=_PATIENCE
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise TargetError(f"nvcc cannot be run: {error}") from None
