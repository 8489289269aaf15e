"""CUDA C to machine code with nvcc: one fat binary per kernel, with code for every architecture asked for.

The newest architecture without a suffix is also included as PTX, which drivers of newer GPUs translate. Kernels are
compiled side by side, one process each, and kept on disk.
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
from pathlib import Path

from blockfuse.build.kernel_cache import KernelCache, default_cache, key_of
from blockfuse.errors import InternalError, TargetError
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
        TargetError: There is no nvcc, or it does not know an architecture.
        InternalError: It rejects a source.
    """
    compiler = find_nvcc()
    cache = cache or default_cache()
    with ThreadPoolExecutor(max(1, available_cores())) as pool:
        return list(pool.map(lambda source: _compile(source, tuple(archs), compiler, cache), sources))


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
        raise TargetError(
            "compiling for GPUs needs nvcc of the CUDA toolkit, as NVRTC alone is not used: put nvcc on the path or "
            "set CUDA_HOME"
        )
    return str(Path(found).absolute())


def generations(archs: Sequence[str]) -> list[str]:
    """Options of nvcc for machine code of these architectures, and PTX of the newest that has a successor."""
    options = [f"-gencode=arch=compute_{arch[3:]},code={arch}" for arch in archs]
    newest = newest_plain(archs)
    return options if newest is None else [*options, f"-gencode=arch=compute_{newest},code=compute_{newest}"]


def _compile(source: str, archs: tuple[str, ...], compiler: str, cache: KernelCache) -> bytes:
    options = [*generations(archs), *_FLAGS]
    key = key_of([source, *options, _version(compiler)])
    code = cache.get(key)
    if code is None:
        code = _run(source, options, compiler, archs)
        cache.put(key, code)
    return code


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
