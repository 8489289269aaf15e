"""CUDA C to machine code with NVRTC, the compiler that is a library, where there is no nvcc.

It needs CUDA's headers too: those of a toolkit, or of the packages ``nvidia-cuda-runtime``, ``nvidia-cuda-crt`` and
``nvidia-cuda-cccl``. It makes code for one architecture at a time, which is put together here into a fat binary as
nvcc's would be.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blockfuse.build.fatbin import fat_binary
from blockfuse.errors import InternalError, TargetError
from blockfuse.target import newest_plain

_LIBRARIES = ("libnvrtc.so.13", "libnvrtc.so.12")
_OPTIONS = ("--std=c++17", "--use_fast_math", "--disable-warnings")
_TOOLKIT_LIBRARIES = ("lib64", "lib")
_PACKAGE_LIBRARIES = ("cu13/lib", "cuda_nvrtc/lib")
_PACKAGE_HEADERS = ("cu13/include", "cuda_runtime/include", "cuda_cccl/include")
_HEADER, _STANDARD_HEADER = "cuda_fp16.h", "cuda/std/cstdint"
_NO_ARCHITECTURE = 5  # nvrtcResult: an option is wrong


@dataclass(frozen=True)
class Nvrtc:
    """The library.

    Attributes:
        path: Where it is.
        headers: Folders with CUDA's headers.
    """

    path: str
    headers: tuple[str, ...]

    @property
    def version(self) -> str:
        """What determines its results."""
        major, minor = ctypes.c_int(), ctypes.c_int()
        _library(self.path).nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
        return " ".join((f"NVRTC {major.value}.{minor.value}", *_OPTIONS))

    def compile(self, source: str, archs: Sequence[str]) -> bytes:
        """Code of a source for architectures, and PTX of the newest that has a successor, as one fat binary.

        Raises:
            TargetError: It does not know an architecture.
            InternalError: It rejects the source.
        """
        newest = newest_plain(archs)
        targets = [*archs, *([] if newest is None else [f"compute_{newest}"])]
        return fat_binary({target: self._compile(source, target) for target in targets})

    def _compile(self, source: str, target: str) -> bytes:
        library, program = _library(self.path), ctypes.c_void_p()
        options = [f"--gpu-architecture={target}", *_OPTIONS, *(f"-I{folder}" for folder in self.headers)]
        words = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        library.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kernel.cu", 0, None, None)
        try:
            code = library.nvrtcCompileProgram(program, len(options), words)
            if code == 0:
                return _text(library, program, "CUBIN" if target.startswith("sm_") else "PTX")
            log = _text(library, program, "ProgramLog").decode(errors="replace").rstrip("\0").strip()
        finally:
            library.nvrtcDestroyProgram(ctypes.byref(program))
        reason = next((line for line in log.splitlines() if "error" in line), f"error {code}")
        if code == _NO_ARCHITECTURE:
            raise TargetError(f"NVRTC cannot compile for {target}: {reason}")
        raise InternalError(f"NVRTC rejects a kernel: {reason}")


def find_nvrtc() -> Nvrtc | None:
    """NVRTC in a toolkit or in NVIDIA's packages, if its library and its headers are there."""
    headers = _headers()
    for path in (*_files(), *_LIBRARIES):
        if not headers:
            return None
        try:
            _library(path)
        except OSError:
            continue
        return Nvrtc(path, headers)
    return None


@functools.cache
def _library(path: str) -> Any:
    """The library, after the one it opens by name."""
    for builtins in Path(path).parent.glob("libnvrtc-builtins.so.*"):
        ctypes.CDLL(str(builtins), mode=ctypes.RTLD_GLOBAL)
    return ctypes.CDLL(path)


def _files() -> Iterator[str]:
    folders = [home / part for home in _toolkits() for part in _TOOLKIT_LIBRARIES]
    folders += [package / part for package in _packages() for part in _PACKAGE_LIBRARIES]
    yield from (str(folder / name) for folder in folders for name in _LIBRARIES if (folder / name).is_file())


def _headers() -> tuple[str, ...]:
    """Folders with the headers that kernels include; none if one is missing."""
    places = [home / "include" for home in _toolkits()]
    places += [package / part for package in _packages() for part in _PACKAGE_HEADERS]
    cuda = next((folder for folder in places if (folder / _HEADER).is_file()), None)
    standard = (part for folder in places for part in (folder / "cccl", folder))
    library = next((folder for folder in standard if (folder / _STANDARD_HEADER).is_file()), None)
    return () if cuda is None or library is None else (str(cuda), str(library))


def _toolkits() -> list[Path]:
    homes = [os.environ.get(name, "") for name in ("CUDA_HOME", "CUDA_PATH")]
    return [Path(home) for home in (*homes, "/usr/local/cuda") if home]


def _packages() -> list[Path]:
    """Folders of the namespace package that NVIDIA's packages share."""
    spec = importlib.util.find_spec("nvidia")
    return [] if spec is None else [Path(place) for place in spec.submodule_search_locations or ()]


def _text(library: Any, program: ctypes.c_void_p, what: str) -> bytes:
    size = ctypes.c_size_t()
    getattr(library, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    getattr(library, f"nvrtcGet{what}")(program, buffer)
    return buffer.raw
