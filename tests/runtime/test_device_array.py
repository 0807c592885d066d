"""Arrays that others hold on a device, through DLPack and the CUDA array interface; nothing here needs a GPU."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers.host_device import HostCuda, host_device

from algm_trt.plugins.errors import UsageError
from algm_trt.runtime.cuda import Device, Stream
from algm_trt.runtime.device_array import (
    LEGACY_DEFAULT_STREAM,
    DeviceArray,
    _DLTensor,
    _from_dlpack,
    as_array,
    stream_handle,
)

CPU, CUDA, CUDA_HOST, ROCM = 1, 2, 3, 10


@pytest.fixture
def cuda() -> HostCuda:
    return HostCuda(devices=2)


@pytest.fixture
def device(cuda: HostCuda) -> Device:
    return host_device(cuda)


@pytest.fixture
def consumer(device: Device) -> Stream:
    return device.stream()


class Interface:
    """An array of cupy, PyCUDA, numba..., as far as it concerns us."""

    def __init__(self, address: int, shape: tuple[int, ...] = (2, 3), **facts: Any) -> None:
        self.__cuda_array_interface__ = {
            "shape": shape,
            "typestr": "|u1",
            "data": (address, False),
            "strides": None,
            "version": 3,
            "stream": None,
            **facts,
        }


class Packed:
    """An array with DLPack whose capsule is made by hand."""

    def __init__(self, address: int, shape: tuple[int, ...], strides: tuple[int, ...] | None = None, **facts: Any):
        self.device = facts.get("device", (CUDA, 0))
        self.streams: list[Any] = []
        self._shape = (ctypes.c_int64 * len(shape))(*shape)
        self._strides = None if strides is None else (ctypes.c_int64 * len(strides))(*strides)
        self._tensor = _DLTensor(
            address, self.device, len(shape), facts.get("dtype", (1, 8, 1)), self._shape, self._strides,
            facts.get("offset", 0),
        )  # fmt: skip

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device

    def __dlpack__(self, stream: Any = None) -> Any:
        self.streams.append(stream)
        new = ctypes.pythonapi.PyCapsule_New
        new.argtypes, new.restype = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p], ctypes.py_object
        return new(ctypes.addressof(self._tensor), b"dltensor", None)


def test_host_arrays_pass_through(device: Device, consumer: Stream) -> None:
    array = np.zeros((2, 3), np.uint8)
    assert as_array(array, device, consumer) is array


def test_torch_on_the_host_is_a_view(device: Device, consumer: Stream) -> None:
    torch = pytest.importorskip("torch")
    tensor = torch.arange(6, dtype=torch.uint8).reshape(2, 3)
    array = as_array(tensor, device, consumer)
    assert isinstance(array, np.ndarray)
    tensor[0, 0] = 77
    assert array[0, 0] == 77


def test_the_reader_of_capsules_reads_what_torch_writes() -> None:
    torch = pytest.importorskip("torch")
    tensor = torch.zeros((4, 5, 6), dtype=torch.uint8)[1:]
    array = _from_dlpack(tensor.__dlpack__())
    assert (array.address, array.shape, array.dtype) == (tensor.data_ptr(), (3, 5, 6), "uint8")
    assert _from_dlpack(torch.zeros(3).__dlpack__()).dtype == "float32"
    assert _from_dlpack(torch.zeros((), dtype=torch.int64).__dlpack__()).shape == ()


@pytest.mark.parametrize(("shape", "strides"), [((0, 4, 3), (12, 3, 1)), ((2, 0, 3), (3, 3, 1))])
def test_an_array_of_nothing_has_no_gaps(shape: tuple[int, ...], strides: tuple[int, ...]) -> None:
    packed = Packed(0, shape, strides)
    array = _from_dlpack(packed.__dlpack__())
    assert (array.address, array.shape) == (0, shape)


def test_the_capsule_keeps_the_tensor_and_frees_it() -> None:
    torch = pytest.importorskip("torch")
    tensor = torch.zeros(1000, dtype=torch.uint8)
    address = tensor.data_ptr()
    array = _from_dlpack(tensor.__dlpack__())
    del tensor
    assert ctypes.c_uint8.from_address(address).value == 0
    assert array.address == address


def test_torch_with_gaps_is_refused() -> None:
    torch = pytest.importorskip("torch")
    with pytest.raises(UsageError, match=r"row-major without gaps: .* images\.contiguous"):
        _from_dlpack(torch.zeros((4, 6), dtype=torch.uint8).t().__dlpack__())


def test_dlpack_on_the_device(cuda: HostCuda, device: Device, consumer: Stream) -> None:
    address = cuda.foreign(np.zeros(100, np.uint8))
    packed = Packed(address, (2, 1, 3), (3, 999, 1), offset=32)
    array = as_array(packed, device, consumer)
    assert isinstance(array, DeviceArray)
    assert (array.address, array.shape, str(array)) == (address + 32, (2, 1, 3), "uint8 (2, 1, 3)")
    assert packed.streams == [consumer.handle]


def test_dlpack_is_asked_before_the_array_interface(cuda: HostCuda, device: Device, consumer: Stream) -> None:
    address = cuda.foreign(np.zeros(100, np.uint8))
    packed = Packed(address, (2, 3))
    packed.__cuda_array_interface__ = {}  # type: ignore[attr-defined]
    assert as_array(packed, device, consumer).shape == (2, 3)


@pytest.mark.parametrize(("dtype", "name"), [((2, 32, 1), "float32"), ((0, 16, 1), "int16"), ((4, 16, 1), "|V1")])
def test_types_of_dlpack(cuda: HostCuda, device: Device, consumer: Stream, dtype: Any, name: str) -> None:
    found = as_array(Packed(cuda.foreign(np.zeros(64, np.uint8)), (2, 3), dtype=dtype), device, consumer)
    assert isinstance(found, DeviceArray)
    assert found.dtype == name


def test_dlpack_on_another_kind_of_device(device: Device, consumer: Stream) -> None:
    with pytest.raises(UsageError, match="not an NVIDIA GPU"):
        as_array(Packed(1, (2, 3), device=(ROCM, 0)), device, consumer)


def test_dlpack_strides_that_leave_gaps(cuda: HostCuda, device: Device, consumer: Stream) -> None:
    address = cuda.foreign(np.zeros(100, np.uint8))
    with pytest.raises(UsageError, match="without gaps"):
        as_array(Packed(address, (2, 3), (4, 1)), device, consumer)


def test_array_interface(cuda: HostCuda, device: Device, consumer: Stream) -> None:
    address = cuda.foreign(np.zeros(100, np.uint8))
    array = as_array(Interface(address), device, consumer)
    assert isinstance(array, DeviceArray)
    assert (array.address, array.shape, array.dtype) == (address, (2, 3), "uint8")
    assert "cudaStreamWaitEvent" not in cuda.calls


@pytest.mark.parametrize("strides", [(3, 1), None])
def test_array_interface_with_strides(cuda: HostCuda, device: Device, consumer: Stream, strides: Any) -> None:
    address = cuda.foreign(np.zeros(100, np.uint8))
    assert as_array(Interface(address, strides=strides), device, consumer).shape == (2, 3)
    wide = Interface(address, typestr="<f4", strides=(12, 4))
    assert as_array(wide, device, consumer).shape == (2, 3)


@pytest.mark.parametrize("strides", [(1, 2), (6, 2), (-3, 1)])
def test_array_interface_with_gaps(cuda: HostCuda, device: Device, consumer: Stream, strides: tuple[int, int]) -> None:
    address = cuda.foreign(np.zeros(100, np.uint8))
    with pytest.raises(UsageError, match="without gaps"):
        as_array(Interface(address, strides=strides), device, consumer)


def test_masked_arrays_are_refused(cuda: HostCuda, device: Device, consumer: Stream) -> None:
    address = cuda.foreign(np.zeros(100, np.uint8))
    with pytest.raises(UsageError, match="masked"):
        as_array(Interface(address, mask=object()), device, consumer)


@pytest.mark.parametrize("facts", [{"version": 2}, {"version": 3, "stream": LEGACY_DEFAULT_STREAM}])
def test_work_of_the_producer_is_waited_for(cuda: HostCuda, device: Device, consumer: Stream, facts: Any) -> None:
    buffer, result = device.allocate(6, "a test"), device.pinned((6,), np.uint8)
    cuda.queue(LEGACY_DEFAULT_STREAM, lambda: cuda.view(buffer.address, 6).fill(5))
    facts = {"stream": None} | facts
    array = as_array(Interface(buffer.address, **facts), device, consumer)
    assert isinstance(array, DeviceArray)
    consumer.download(array.address, result)
    consumer.synchronize()
    assert result.tolist() == [5] * 6


def test_arrays_elsewhere_are_refused(cuda: HostCuda, device: Device, consumer: Stream) -> None:
    other = cuda.foreign(np.zeros(100, np.uint8), device=1)
    with pytest.raises(UsageError, match="on GPU 1, the engine runs on GPU 0"):
        as_array(Interface(other), device, consumer)
    host = np.zeros(100, np.uint8)
    with pytest.raises(UsageError, match="not in the memory of a GPU"):
        as_array(Interface(host.ctypes.data), device, consumer)


def test_empty_arrays_have_no_address(device: Device, consumer: Stream) -> None:
    assert as_array(Interface(0, shape=(0, 3)), device, consumer).shape == (0, 3)


@pytest.mark.parametrize("images", [[[1]], "picture", None, 3])
def test_what_is_no_array_is_refused(device: Device, consumer: Stream, images: Any) -> None:
    with pytest.raises(UsageError, match=f"torch, cupy or PyCUDA, got {type(images).__name__}"):
        as_array(images, device, consumer)


@pytest.mark.parametrize(
    "stream",
    [
        55,
        SimpleNamespace(cuda_stream=55),
        SimpleNamespace(ptr=55),
        SimpleNamespace(handle=55),
        SimpleNamespace(__cuda_stream__=lambda: (0, 55)),
        SimpleNamespace(__cuda_stream__=(0, 55)),
        np.int64(55),
    ],
)
def test_streams_of_others(stream: Any) -> None:
    assert stream_handle(stream) == 55


@pytest.mark.parametrize("stream", ["main", None, object()])
def test_what_is_no_stream_is_refused(stream: Any) -> None:
    with pytest.raises(UsageError, match="stream must be a CUDA stream or its handle"):
        stream_handle(stream)
