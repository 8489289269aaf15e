"""Running on a GPU: TVM's CUDA runtime, and what lies in the GPU's memory.

Weights are copied there once, as a recorded graph of launches reads what was there when it was recorded. Inputs on the
CPU are copied to buffers that are kept; inputs on the GPU are read where they are. All runs share the memory of what
passes between kernels, so a run on another stream than the last waits for that.
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

from blockfuse.errors import TargetError
from blockfuse.runtime.dlpack import DeviceArray, order, wait
from blockfuse.runtime.library import Library, Port

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
        self._ports = library.inputs
        self._stream = 0
        self._buffers: dict[str, Any] = {}
        self._constants = []
        for constant in library.constants:
            tensor = _allocate(constant.shape, constant.dtype)
            _copy_in(tensor, library.weights[constant.offset : constant.offset + constant.nbytes])
            self._constants.append(tensor)

    def __call__(self, arguments: Sequence[Array | DeviceArray], stream: int = 0) -> list[Any]:
        """Results of one run, as new tensors on the GPU, which it may still be computing.

        Args:
            arguments: C-contiguous arrays, on the CPU or on the GPU.
            stream: What to run on.
        """
        tensors = [self._placed(port, array) for port, array in zip(self._ports, arguments, strict=True)]
        order(self._stream, stream)
        self._stream = stream
        with tvm_ffi.use_raw_stream(tvm_ffi.device(_DEVICE), stream):
            return list(self._main(*tensors, *self._constants))

    def _placed(self, port: Port, array: Array | DeviceArray) -> Any:
        """An argument as a tensor on the GPU."""
        if isinstance(array, DeviceArray):
            return array.tensor
        buffer = self._buffers.get(port.name)
        if buffer is None or tuple(buffer.shape) != array.shape:
            buffer = self._buffers[port.name] = _allocate(array.shape, port.dtype)
        elif self._stream:
            wait(self._stream)  # the last run may still be reading it
        _copy_in(buffer, array)
        return buffer


def upload(array: Array) -> DeviceArray:
    """A copy of a C-contiguous array in the GPU's memory."""
    tensor = _allocate(array.shape, array.dtype.name)
    _copy_in(tensor, array)
    return DeviceArray(tensor, array.shape)


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
