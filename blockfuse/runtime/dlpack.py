"""Arrays of other libraries without copies: what has ``__dlpack__`` goes in, and results on a GPU have it.

In the CPU's memory an array becomes a numpy array over the same bytes. In the GPU's memory it becomes a
:class:`DeviceArray`, and so do the results of a run that had one among its inputs: ``torch.from_dlpack(result)`` and
``cupy.from_dlpack(result)`` take them as they are. Who offers an array makes it wait for what its owner still does, as
the protocol says: each side names the stream it works on.
"""

from __future__ import annotations

import ctypes
import functools
import math
import sys
from typing import Any, TypeAlias

import numpy as np
import tvm_ffi

from blockfuse.dtypes import numpy_type
from blockfuse.errors import InputError, UsageError
from blockfuse.runtime.library import Layout, Port

Array: TypeAlias = np.ndarray[Any, Any]
Shape: TypeAlias = tuple[int, ...]

_NOT_OF_NUMPY = "V"  # how numpy calls the kind of bfloat16
_CPU_KINDS = (1, 3)  # plain and pinned memory
_GPU_KINDS = (2, 13)  # memory of the GPU and managed memory
_DEVICE = (2, 0)
_LEGACY_STREAM, _NO_WAITING = 1, -1  # as the protocol numbers them
_NDIM_FIELD, _SHAPE_FIELD, _STRIDES_FIELD = 16, 24, 32  # bytes from the start of a DLTensor


class DeviceArray:
    """An array in the GPU's memory.

    Args:
        tensor: TVM's, contiguous.
        shape: As the user sees it.
        layout: In which the memory holds an image of that shape.
        stream: What the array is written on.
    """

    def __init__(self, tensor: Any, shape: Shape, layout: Layout = Layout.PLAIN, stream: int = 0) -> None:
        self.tensor = tensor
        self.shape = shape
        self.layout = layout
        self.stream = stream

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the elements."""
        return numpy_type(str(self.tensor.dtype))

    def numpy(self) -> Array:
        """A copy in the CPU's memory, after all that the array waits for."""
        wait(self.stream)
        array = np.empty(_memory_shape(self.shape, self.layout), self.dtype)
        copy = tvm_ffi.get_global_func("runtime.TVMTensorCopyToBytes")
        copy(self.tensor, ctypes.c_void_p(array.ctypes.data), array.nbytes)
        return np.ascontiguousarray(array.transpose(0, 3, 1, 2)) if self.layout is Layout.NHWC else array

    def __dlpack_device__(self) -> tuple[int, int]:
        return _DEVICE

    def __dlpack__(self, *, stream: int | None = None, **_unused: Any) -> Any:
        """A capsule; who takes it may use it on the stream it names, by default the legacy one."""
        if stream != _NO_WAITING:
            order(self.stream, 0 if stream in {None, _LEGACY_STREAM} else int(stream or 0))
        capsule = self.tensor.__dlpack__()
        pointer = ctypes.pythonapi.PyCapsule_GetPointer
        pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
        start = pointer(capsule, b"dltensor")
        shape, strides = _dimensions(self.shape, self.layout)
        ctypes.c_void_p.from_address(start + _SHAPE_FIELD).value = ctypes.addressof(shape)
        ctypes.c_void_p.from_address(start + _STRIDES_FIELD).value = ctypes.addressof(strides)
        ctypes.c_int32.from_address(start + _NDIM_FIELD).value = len(self.shape)
        return capsule

    def __repr__(self) -> str:
        return f"<DeviceArray {self.dtype}{list(self.shape)}>"


@functools.cache
def _dimensions(shape: Shape, layout: Layout) -> tuple[Any, Any]:
    """Shape and strides in elements for a capsule, which does not own them: they are kept for good."""
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    if layout is Layout.NHWC:
        _, channels, height, width = shape
        strides = [channels * height * width, 1, width * channels, channels]
    kind = ctypes.c_int64 * len(shape)
    return kind(*shape), kind(*strides)


def _memory_shape(shape: Shape, layout: Layout) -> Shape:
    return (shape[0], *shape[2:], shape[1]) if layout is Layout.NHWC else shape


# ---- taking arrays ---------------------------------------------------------------------------------------------------
def adopt(value: Any, name: str, *, gpu: bool, stream: int) -> Any:
    """A numpy array or :class:`DeviceArray` over the memory of an array of another library; other values as they are.

    Args:
        value: What was given for an input.
        name: Of the input.
        gpu: Whether the network runs on a GPU.
        stream: What it runs on there.

    Raises:
        InputError: The array is somewhere else than the network, or cannot be exported.
    """
    if isinstance(value, np.ndarray) or not hasattr(value, "__dlpack__"):
        return value
    kind, index = value.__dlpack_device__()
    if kind not in _CPU_KINDS and (not gpu or kind not in _GPU_KINDS or index != 0):
        place = f"GPU {index}" if kind in _GPU_KINDS else f"a device of DLPack's kind {int(kind)}"
        raise InputError(f"input {name!r} is on {place}, and the network runs on {'GPU 0' if gpu else 'the CPU'}")
    if isinstance(value, DeviceArray):
        order(value.stream, stream)
        return value
    try:
        waiting = {"stream": stream or _LEGACY_STREAM} if kind in _GPU_KINDS else {}
        tensor = tvm_ffi.from_dlpack(value.__dlpack__(**waiting))
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise InputError(f"input {name!r} cannot be taken from {type(value).__name__}: {reason}") from None
    if kind in _CPU_KINDS:
        return _view(tensor)
    if not tensor.is_contiguous():
        raise InputError(f"input {name!r} is not contiguous: call contiguous() on it")
    return DeviceArray(tensor, tuple(tensor.shape), stream=stream)


def at_alignment(array: DeviceArray, port: Port) -> DeviceArray:
    """The array.

    Raises:
        InputError: Kernels cannot read it where it is.
    """
    if array.tensor.data_ptr() % port.alignment:
        raise InputError(f"input {port.name!r} is at no multiple of {port.alignment} bytes: pass a copy")
    return array


def _view(tensor: Any) -> Array:
    """A numpy array over the memory of a tensor on the CPU, which it keeps alive."""
    dtype, shape, strides = numpy_type(str(tensor.dtype)), tuple(tensor.shape), tuple(tensor.strides)
    reach = sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True)) + 1 if all(shape) else 0
    memory = (ctypes.c_uint8 * (reach * dtype.itemsize)).from_address(tensor.data_ptr())
    memory.owner = tensor  # type: ignore[attr-defined] # the array keeps its buffer alive, and that the tensor
    buffer: Any = memory
    return np.ndarray(shape, dtype, buffer, strides=tuple(stride * dtype.itemsize for stride in strides))


# ---- bfloat16, which numpy does not hand over ------------------------------------------------------------------------
def to_tensor(array: Array) -> Any:
    """TVM's tensor over the memory of a numpy array."""
    if array.dtype.kind != _NOT_OF_NUMPY:
        return tvm_ffi.from_dlpack(array)
    return _viewed(tvm_ffi.from_dlpack(array.view(np.uint16)), "bfloat16")


def to_array(tensor: Any, dtype: str) -> Array:
    """A numpy array over the memory of TVM's tensor of a type."""
    if dtype != "bfloat16":
        return np.from_dlpack(tensor)
    return np.from_dlpack(_viewed(tensor, "uint16")).view(numpy_type("bfloat16"))


def _viewed(tensor: Any, dtype: str) -> Any:
    view = tvm_ffi.get_global_func("runtime.TVMTensorCreateView")
    return view(tensor, tvm_ffi.Shape(tensor.shape), tvm_ffi.dtype(dtype), 0)


# ---- streams ---------------------------------------------------------------------------------------------------------
def stream_of(stream: Any, inputs: Any) -> int:
    """The handle of the stream to run on.

    Args:
        stream: A handle, or PyTorch's or CuPy's stream; None for that library's current one if an input is its array,
            else for the legacy default stream.
        inputs: All inputs.

    Raises:
        UsageError: It is no stream.
    """
    if stream is None:
        return next(filter(None, map(_current, inputs)), 0)
    handle = getattr(stream, "cuda_stream", getattr(stream, "ptr", stream))
    if not isinstance(handle, int):
        raise UsageError(f"stream must be a handle, or a stream of PyTorch or CuPy, not {type(stream).__name__}")
    return handle


def _current(value: Any) -> int:
    """The current stream of the library of an array on a GPU; 0 if it has none."""
    library = type(value).__module__.partition(".")[0]
    module: Any = sys.modules.get(library)
    if library not in {"torch", "cupy"} or module is None or value.__dlpack_device__()[0] not in _GPU_KINDS:
        return 0
    if library == "torch":
        return int(module.cuda.current_stream(value.__dlpack_device__()[1]).cuda_stream)
    return int(module.cuda.get_current_stream().ptr)


def order(before: int, after: int) -> None:
    """Make a stream of the GPU wait for what another was given so far."""
    if before != after:
        tvm_ffi.get_global_func("runtime.Device_StreamSyncFromTo")(tvm_ffi.device("cuda:0"), before, after)


def wait(stream: int) -> None:
    """Wait for all that a stream of the GPU was given so far."""
    tvm_ffi.get_global_func("runtime.Device_StreamSync")(tvm_ffi.device("cuda:0"), stream)
