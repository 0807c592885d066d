"""TensorRT's temporaries from the pool: the calls that TensorRT makes, and the class that its bindings take."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from helpers.host_device import HostCuda, host_device

from algm_trt.runtime.backends.tensorrt.allocator import PoolAllocations, allocator_for
from algm_trt.runtime.backends.tensorrt.bindings import load_tensorrt_rtx
from algm_trt.runtime.cuda import OutOfDeviceMemoryError

PLAIN = SimpleNamespace(IGpuAsyncAllocator=object)


@pytest.fixture
def cuda() -> HostCuda:
    return HostCuda()


@pytest.fixture(params=["plain", pytest.param("rtx", marks=pytest.mark.rtx)])
def trt(request: pytest.FixtureRequest) -> Any:
    """A module with the base class: ours, or TensorRT-RTX's own."""
    return PLAIN if request.param == "plain" else load_tensorrt_rtx().module


@pytest.mark.parametrize("stream_first", [True, False])
def test_memory_comes_and_goes_in_the_order_of_the_stream(trt: Any, cuda: HostCuda, stream_first: bool) -> None:
    """The stream is found wherever it stands: TensorRT's documentation and its code differ."""
    device = host_device(cuda)
    stream = device.stream()
    allocator = allocator_for(trt, PoolAllocations(device, stream))
    order = (stream.handle, 1) if stream_first else (1, stream.handle)
    address = allocator.allocate_async(1000, 256, *order)
    with pytest.raises(AssertionError, match="before the stream that allocates it"):
        cuda.view(address, 1000)
    stream.synchronize()
    assert cuda.view(address, 1000).size == 1000
    assert allocator.deallocate_async(address, stream.handle)
    assert cuda.live == 1000
    stream.synchronize()
    assert cuda.live == 0


@pytest.mark.parametrize("flags", [0, 1])
def test_without_a_stream_the_order_is_that_of_the_contexts_own(trt: Any, cuda: HostCuda, flags: int) -> None:
    device = host_device(cuda)
    own = device.stream()
    allocator = allocator_for(trt, PoolAllocations(device, own))
    address = allocator.allocate_async(1000, 256, 0, flags)
    own.synchronize()
    assert cuda.view(address, 1000).size == 1000
    assert allocator.deallocate_async(address, 0)
    own.synchronize()
    assert cuda.live == 0


def test_an_alignment_that_cuda_does_not_promise_is_not_pretended(trt: Any, cuda: HostCuda) -> None:
    device = host_device(cuda)
    own = device.stream()
    allocations = PoolAllocations(device, own)
    allocator = allocator_for(trt, allocations)
    assert allocator.allocate_async(1000, 2**20, own.handle, 0) == 0
    assert "multiple of 1048576 bytes" in str(allocations.take_error())
    own.synchronize()
    assert cuda.live == 0


def test_nothing_and_no_memory(trt: Any, cuda: HostCuda) -> None:
    device = host_device(cuda)
    own = device.stream()
    allocations = PoolAllocations(device, own)
    allocator, stream = allocator_for(trt, allocations), own.handle
    assert allocator.allocate_async(0, 256, stream, 0) == 0
    assert allocator.deallocate_async(0, stream)
    assert allocations.take_error() is None
    cuda.limit = 10
    assert allocator.allocate_async(11, 256, stream, 0) == 0
    assert isinstance(allocations.take_error(), OutOfDeviceMemoryError)
    assert allocations.take_error() is None


def test_a_lost_device_is_no_exception_inside_tensorrt(trt: Any, cuda: HostCuda) -> None:
    device = host_device(cuda)
    own = device.stream()
    allocator, stream = allocator_for(trt, PoolAllocations(device, own)), own.handle
    address = allocator.allocate_async(10, 256, stream, 0)
    cuda.lost = cuda.cudaError_t.cudaErrorIllegalAddress
    assert allocator.allocate_async(10, 256, stream, 0) == 0
    assert not allocator.deallocate_async(address, stream)
    assert allocator.reallocate(address, 256, 20) == 0


@pytest.mark.rtx
def test_tensorrts_bindings_take_it(cuda: HostCuda) -> None:
    trt = load_tensorrt_rtx().module
    device = host_device(cuda)
    allocator = allocator_for(trt, PoolAllocations(device, device.stream()))
    assert isinstance(allocator, trt.IGpuAllocator)
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    builder.gpu_allocator = allocator
    with pytest.raises(TypeError):
        builder.gpu_allocator = object()
