"""Views of arrays that other packages hold on a GPU (torch, cupy, PyCUDA, ...), through the two common protocols.

DLPack comes first, because it lets the producer order its work before ours; `__cuda_array_interface__` is for those
that have nothing else. No package is imported for it and nothing is copied. Arrays of the host pass through.
"""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from algm_trt.plugins.errors import UsageError
from algm_trt.runtime.cuda import Device, Stream

LEGACY_DEFAULT_STREAM: Final = 1
"""CUDA's handle of the stream that waits for all others."""

_DLPACK_HOST: Final = (1, 3)  # kDLCPU, kDLCUDAHost
_DLPACK_CUDA: Final = (2, 13)  # kDLCUDA, kDLCUDAManaged
_DLPACK_KINDS: Final = {0: "i", 1: "u", 2: "f", 6: "b"}


class _DLDevice(ctypes.Structure):
    _fields_ = [("type", ctypes.c_int32), ("id", ctypes.c_int32)]


class _DLDataType(ctypes.Structure):
    _fields_ = [("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16)]


class _DLTensor(ctypes.Structure):
    """First member of DLPack's DLManagedTensor."""

    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device", _DLDevice),
        ("ndim", ctypes.c_int32),
        ("dtype", _DLDataType),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


@dataclass(frozen=True, eq=False)
class DeviceArray:
    """An array in the memory of a GPU, row-major without gaps.

    Attributes:
        address: of its first element.
        shape: its extents.
        dtype: NumPy's name of its type, such as "uint8".
        owner: keeps the memory alive.
    """

    address: int
    shape: tuple[int, ...]
    dtype: str
    owner: Any

    def __str__(self) -> str:
        return f"{self.dtype} {self.shape}"


def as_array(images: Any, device: Device, consumer: Stream) -> NDArray[Any] | DeviceArray:
    """A host array or a view of a device array.

    Args:
        images: NumPy array, or an object with `__dlpack__` or `__cuda_array_interface__`.
        device: whose memory a device array must lie in.
        consumer: stream that will read it; it waits for the producer's stream, where the producer names one.

    Raises:
        UsageError: neither, or an array that lies elsewhere, has gaps, or is masked.
    """
    if isinstance(images, np.ndarray):
        return images
    if hasattr(images, "__dlpack_device__"):
        kind, _ = images.__dlpack_device__()
        if int(kind) in _DLPACK_HOST:
            return np.from_dlpack(images)
        if int(kind) not in _DLPACK_CUDA:
            raise UsageError("the images lie on a device that is not an NVIDIA GPU: pass a NumPy array")
        array = _from_dlpack(images.__dlpack__(stream=consumer.handle))
    elif hasattr(images, "__cuda_array_interface__"):
        array = _from_interface(images, consumer)
    else:
        raise UsageError(
            f"images must be a NumPy array or a CUDA array of torch, cupy or PyCUDA, got {type(images).__name__}"
        )
    if math.prod(array.shape) and (owner := device.owner_of(array.address)) != device.ordinal:
        where = "not in the memory of a GPU" if owner is None else f"on GPU {owner}"
        raise UsageError(f"the images lie {where}, the engine runs on GPU {device.ordinal}: move them there")
    return array


def stream_handle(stream: Any) -> int:
    """CUDA's handle of a stream: an integer, or a stream of torch, cupy, PyCUDA, cuda-python or cuda.core.

    Raises:
        UsageError: something else.
    """
    if hasattr(stream, "__cuda_stream__"):
        protocol = stream.__cuda_stream__
        return int((protocol() if callable(protocol) else protocol)[1])
    for name in ("cuda_stream", "ptr", "handle"):
        if hasattr(stream, name):
            return int(getattr(stream, name))
    try:
        return int(stream)
    except (TypeError, ValueError) as error:
        raise UsageError(f"stream must be a CUDA stream or its handle, got {type(stream).__name__}") from error


def _from_dlpack(capsule: Any) -> DeviceArray:
    """The tensor in a capsule, which stays its owner: it frees the tensor when it goes."""
    open_capsule = ctypes.pythonapi.PyCapsule_GetPointer
    open_capsule.argtypes, open_capsule.restype = [ctypes.py_object, ctypes.c_char_p], ctypes.c_void_p
    tensor = _DLTensor.from_address(open_capsule(capsule, b"dltensor"))
    shape = tuple(tensor.shape[: tensor.ndim])
    if tensor.strides and not _is_dense(shape, tuple(tensor.strides[: tensor.ndim])):
        raise UsageError(_gaps(shape))
    kind = _DLPACK_KINDS.get(tensor.dtype.code, "")
    dtype = f"{kind}{tensor.dtype.bits // 8}" if kind and tensor.dtype.lanes == 1 else "V1"
    return DeviceArray((tensor.data or 0) + tensor.byte_offset, shape, str(np.dtype(dtype)), capsule)


def _from_interface(images: Any, consumer: Stream) -> DeviceArray:
    """The array behind `__cuda_array_interface__`, versions 0 to 3."""
    facts = images.__cuda_array_interface__
    shape = tuple(int(extent) for extent in facts["shape"])
    dtype = np.dtype(facts["typestr"])
    if facts.get("mask") is not None:
        raise UsageError("images must not be masked")
    strides = facts.get("strides")
    if strides is not None and not _is_dense(shape, tuple(strides), dtype.itemsize):
        raise UsageError(_gaps(shape))
    # Before version 3 the protocol does not mention streams: work queued on the default stream has to be waited for.
    producer = facts.get("stream") if facts.get("version", 0) >= 3 else LEGACY_DEFAULT_STREAM
    if producer is not None:
        consumer.wait_for(int(producer))
    return DeviceArray(int(facts["data"][0] or 0), shape, str(dtype), images)


def _is_dense(shape: tuple[int, ...], strides: tuple[int, ...], itemsize: int = 1) -> bool:
    """Whether strides, in units of which an item has `itemsize`, are those of a row-major array without gaps."""
    expected = itemsize
    for extent, stride in zip(reversed(shape), reversed(strides), strict=True):
        if extent == 0:
            return True
        if extent > 1 and stride != expected:
            return False
        expected *= extent
    return True


def _gaps(shape: tuple[int, ...]) -> str:
    return f"images {shape} must be row-major without gaps: make them contiguous first (torch: images.contiguous())"
