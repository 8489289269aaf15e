"""An array of another library on the stand-in device: what PyTorch's and CuPy's have in common, with DLPack."""

import ctypes
import math

import numpy as np

_CAPSULE_NEW = ctypes.pythonapi.PyCapsule_New
_CAPSULE_NEW.restype, _CAPSULE_NEW.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
_CAPSULE_GET = ctypes.pythonapi.PyCapsule_GetPointer
_CAPSULE_GET.restype, _CAPSULE_GET.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
_FLOAT = 2
_TO_DEVICE, _TO_HOST = 1, 2


class _DLTensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("kind", ctypes.c_int32),
        ("index", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("offset", ctypes.c_uint64),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
    ]


class Foreign:
    """An array in the device's memory.

    Args:
        cudart: The stand-in's runtime library.
        array: What it holds.
        offset: Bytes from the start of the allocation.
        index: Number of the device that it claims to be on.
    """

    def __init__(self, cudart, array, offset=0, index=0):
        self.cudart, self.shape, self.dtype = cudart, array.shape, array.dtype
        self.strides = [stride // array.itemsize for stride in array.strides]
        self.index, self.streams, self.offers = index, [], []
        start = ctypes.c_void_p()
        cudart.cudaMalloc(ctypes.byref(start), array.nbytes + offset)
        self.data = start.value + offset
        dense = np.ascontiguousarray(array)
        cudart.cudaMemcpyAsync(
            ctypes.c_void_p(self.data), ctypes.c_void_p(dense.ctypes.data), dense.nbytes, _TO_DEVICE, None
        )

    def __dlpack_device__(self):
        return 2, self.index

    def __dlpack__(self, stream=None):
        self.streams.append(stream)
        shape = (ctypes.c_int64 * len(self.shape))(*self.shape)
        strides = (ctypes.c_int64 * len(self.shape))(*self.strides)
        kind = (_FLOAT, 8 * self.dtype.itemsize, 1)
        offer = _DLTensor(self.data, 2, self.index, len(self.shape), *kind, shape, strides, 0, None, None)
        self.offers.append(offer)  # each must live as long as what was made of it
        return _CAPSULE_NEW(ctypes.addressof(offer), b"dltensor", None)


def taken(cudart, value, stream=None):
    """What another library sees of a result: a numpy copy, strides in elements, and the address."""
    capsule = value.__dlpack__(stream=stream)
    tensor = _DLTensor.from_address(_CAPSULE_GET(capsule, b"dltensor"))
    assert (tensor.kind, tensor.index, tensor.code, tensor.lanes) == (2, 0, _FLOAT, 1)
    shape, strides = tensor.shape[: tensor.ndim], tensor.strides[: tensor.ndim]
    dtype = np.dtype(f"float{tensor.bits}")
    flat = np.empty(math.prod(shape), dtype)
    address = tensor.data + tensor.offset
    status = cudart.cudaMemcpyAsync(
        ctypes.c_void_p(flat.ctypes.data), ctypes.c_void_p(address), flat.nbytes, _TO_HOST, None
    )
    assert status == 0
    view = np.lib.stride_tricks.as_strided(flat, shape, [stride * dtype.itemsize for stride in strides])
    return view.copy(), tuple(strides), address
