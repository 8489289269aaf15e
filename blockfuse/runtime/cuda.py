"""Running on a GPU: TVM's CUDA runtime, and what lies in the GPU's memory.

Weights are copied there once. Each call copies its inputs to buffers that stay where they are, as a recorded graph of
launches reads what was there when it was recorded, and copies the results back.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import tvm_ffi

from blockfuse.dtypes import numpy_type
from blockfuse.errors import TargetError
from blockfuse.gpu import this_gpu
from blockfuse.runtime.library import Library
from blockfuse.target import runs_on

Array: TypeAlias = np.ndarray[Any, Any]

_RUNTIME = "libtvm_runtime_cuda.so"
_TOOLKIT_RUNTIME = "libcudart.so.13"
_TOOLKIT_FOLDERS = ("/usr/local/cuda/lib64", "/usr/local/cuda/lib")
_PACKAGE_FOLDERS = ("cu13/lib", "cuda_runtime/lib")  # below the namespace package ``nvidia``
_DEVICE = "cuda:0"
_CUDA_AND_CPU = (2, 0, 2, 1, 0, 2)  # for each: device type, its number, pooled allocation


class CudaMachine:
    """A compiled network on the GPU, for one caller at a time.

    Args:
        module: The network's code.
        library: What it is.
    """

    def __init__(self, module: Any, library: Library) -> None:
        machine = module["vm_load_executable"]()
        machine["vm_initialization"](*_CUDA_AND_CPU)
        self._main = machine["main"]
        self._inputs = [_allocate(port.shape, port.dtype) for port in library.inputs]
        self._constants = []
        for constant in library.constants:
            tensor = _allocate(constant.shape, constant.dtype)
            _copy_in(tensor, library.weights[constant.offset : constant.offset + constant.nbytes])
            self._constants.append(tensor)

    def __call__(self, arguments: Sequence[Array]) -> list[Array]:
        """Results of one run, as new arrays; arguments are C-contiguous."""
        for tensor, array in zip(self._inputs, arguments, strict=True):
            _copy_in(tensor, array)
        return [_copy_out(result) for result in self._main(*self._inputs, *self._constants)]


def require_gpu(library: Library) -> None:
    """Raise :class:`TargetError` unless this machine's GPU runs a network's code."""
    gpu = this_gpu()
    archs = library.target.archs
    if not runs_on(archs, gpu.arch):
        raise TargetError(f"{library.name} was compiled for {', '.join(archs)}, and this GPU is {gpu}")
    need = library.target.shared_bytes
    if need > gpu.shared_bytes:
        raise TargetError(
            f"{library.name} was planned for {', '.join(archs)} and needs {need:,} bytes of shared memory; this GPU, "
            f"{gpu}, has {gpu.shared_bytes:,}"
        )


@functools.cache
def load_cuda_runtime(folder: Path) -> None:
    """Load the libraries that running on a GPU needs, once.

    Args:
        folder: Where TVM's runtime libraries are.

    Raises:
        TargetError: One is not found or cannot be loaded.
    """
    _load_toolkit_runtime(folder)
    path = folder / _RUNTIME
    if not path.is_file():
        raise TargetError(f"{path} does not exist: this TVM was built without CUDA")
    try:
        ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        raise TargetError(f"cannot load the TVM runtime for GPUs: {error}") from None


def _load_toolkit_runtime(folder: Path) -> None:
    """Load the CUDA runtime, from wherever it is first found."""
    spec = importlib.util.find_spec("nvidia")
    packages = [Path(place) / part for place in _places(spec) for part in _PACKAGE_FOLDERS]
    paths = [directory / _TOOLKIT_RUNTIME for directory in (folder, *packages, *map(Path, _TOOLKIT_FOLDERS))]
    for name in (_TOOLKIT_RUNTIME, *(str(path) for path in paths if path.is_file())):
        try:
            ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
        except OSError:
            continue
        return
    raise TargetError(
        f"{_TOOLKIT_RUNTIME} is not found: install it with pip install 'nvidia-cuda-runtime>=13', or set "
        "LD_LIBRARY_PATH to the lib folder of a CUDA 13 toolkit"
    )


def _places(spec: Any) -> list[str]:
    return [] if spec is None else list(spec.submodule_search_locations or ())


# ---- memory ----------------------------------------------------------------------------------------------------------
def _allocate(shape: tuple[int, ...], dtype: str) -> Any:
    allocate = tvm_ffi.get_global_func("runtime.TVMTensorAllocWithScope")
    return allocate(shape, tvm_ffi.dtype(dtype), tvm_ffi.device(_DEVICE), None)


def _copy_in(tensor: Any, array: Array) -> None:
    pointer = ctypes.c_void_p(array.ctypes.data)
    tvm_ffi.get_global_func("runtime.TVMTensorCopyFromBytes")(tensor, pointer, array.nbytes)


def _copy_out(tensor: Any) -> Array:
    array = np.empty(tuple(tensor.shape), numpy_type(str(tensor.dtype)))
    tvm_ffi.get_global_func("runtime.TVMTensorCopyToBytes")(tensor, ctypes.c_void_p(array.ctypes.data), array.nbytes)
    return array
