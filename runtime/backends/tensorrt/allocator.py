"""TensorRT's temporary memory from the device's pool: after the first batches nothing is asked from the driver."""

from __future__ import annotations

from typing import Any

from algm_trt.plugins.errors import AlgmError
from algm_trt.runtime.cuda import CudaError, Device, Stream


class PoolAllocations:
    """What the allocator does, without TensorRT."""

    def __init__(self, device: Device, stream: Stream) -> None:
        """Serve from a device.

        Args:
            device: of the memory.
            stream: that the contexts run on. TensorRT may name none, and CUDA would take that for the default stream,
                which ours does not wait for.
        """
        self._device = device
        self._stream = stream
        self._error: AlgmError | None = None

    def take_error(self) -> AlgmError | None:
        """Why a request could not be served since the last time this was asked, or None."""
        error, self._error = self._error, None
        return error

    def allocate(self, size: int, alignment: int, stream: int) -> int:
        """Address of `size` bytes in the order of a stream, 0 for the context's, or 0 if there are none."""
        if not size:
            return 0
        try:
            address = self._device.allocate_on(size, stream or self._stream.handle, "TensorRT's temporary memory")
        except AlgmError as error:
            self._error = error
            return 0
        if alignment and address % alignment:
            self._error = CudaError(f"CUDA's memory does not begin at a multiple of {alignment} bytes for TensorRT")
            self.free(address, stream)
            return 0
        return address

    def free(self, address: int, stream: int) -> bool:
        """Take memory back in the order of a stream."""
        if not address:
            return True
        try:
            self._device.free_on(address, stream or self._stream.handle)
        except AlgmError:
            return False
        return True


def allocator_for(trt: Any, allocations: PoolAllocations) -> Any:
    """An `IGpuAsyncAllocator` of a TensorRT module; it must outlive the contexts that have it.

    No exception may leave its methods: they are called from C++.
    """

    class Allocator(trt.IGpuAsyncAllocator):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()

        def allocate_async(self, size: int, alignment: int, third: int, fourth: int) -> int:
            # TensorRT's documentation names flags and then the stream, its code (10.9 to 11.1) gives them the other
            # way round. Flags are 0 or 1, no stream is 0, and the handle of a stream of ours is larger.
            stream = max(third, fourth)
            return allocations.allocate(size, alignment, stream if stream > 1 else 0)

        def deallocate_async(self, memory: int, stream: int) -> bool:
            return allocations.free(memory, stream)

        def reallocate(self, address: int, alignment: int, size: int) -> int:
            return 0  # TensorRT then allocates, copies and frees

    return Allocator()
