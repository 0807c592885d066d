"""One of several queues through an engine: a stream, execution contexts, and buffers that are made once.

The host waits inside TensorRT wherever a merge leaves a number of tokens that the next layers need; two lanes in two
threads fill each other's gaps.
"""

from __future__ import annotations

import contextlib
from typing import Any, Final, NoReturn

import numpy as np
from numpy.typing import NDArray

from algm_trt.plugins.errors import AlgmError
from algm_trt.runtime.backends.tensorrt.allocator import PoolAllocations, allocator_for
from algm_trt.runtime.backends.tensorrt.plan import OpenPlan
from algm_trt.runtime.backends.tensorrt.profiles import Piece
from algm_trt.runtime.cuda import Device, DeviceBuffer, OutOfDeviceMemoryError
from algm_trt.runtime.engine import EngineError

ALIGNMENT: Final = 256
"""Bytes; TensorRT wants inputs and outputs to begin at multiples of it, and CUDA's memory does."""
ACTIVATION_ALIGNMENT: Final = 512
"""Bytes; the same of activations, and CUDA does not promise it."""


class Lane:
    """Runs one batch at a time; one thread at a time may use it.

    Attributes:
        stream: that everything of this lane is queued on.
        capacity: pictures that its buffers hold.
    """

    def __init__(self, plan: OpenPlan, device: Device) -> None:
        self.stream = device.stream()
        self.capacity = 0
        self._plan = plan
        self._device = device
        self._contexts: dict[int, Any] = {}
        self._activations: DeviceBuffer | None = None
        self._buffers: dict[str, DeviceBuffer] = {}
        self._pinned: dict[str, NDArray[Any]] = {}
        self._allocations = PoolAllocations(device, self.stream)
        self._allocator = allocator_for(plan.tensorrt.module, self._allocations)

    def reserve(self, capacity: int) -> None:
        """Make room for batches of `capacity` pictures; nothing happens if there is.

        Raises:
            OutOfDeviceMemoryError: there is not enough memory; the earlier buffers are gone.
        """
        if capacity <= self.capacity:
            return
        self._release_buffers()
        for name, tensor in self._plan.tensors.items():
            size = tensor.item_bytes * (capacity if tensor.batched else 1)
            self._buffers[name] = self._device.allocate(size, f"batches of {capacity} windows")
        self._buffers["anchors"] = self._device.allocate(capacity * 8, f"batches of {capacity} windows")
        self.capacity = capacity

    def address(self, name: str, index: int = 0) -> int:
        """Where an input or output begins on the device, or the entry of picture `index` in it."""
        return self._buffers[name].address + index * self._plan.tensors[name].item_bytes

    def pinned(self, name: str) -> NDArray[Any]:
        """The page-locked array of an input or output, made when first asked for."""
        if name not in self._pinned:
            tensor = self._plan.tensors[name]
            shape = (self.capacity, *tensor.shape) if tensor.batched else tensor.shape
            self._pinned[name] = self._device.pinned(shape, tensor.dtype)
        return self._pinned[name]

    def upload_anchors(self, anchors: list[tuple[int, int]]) -> int:
        """Queue a copy of top left corners, at most `capacity`; returns the address of (n, 2) int32."""
        if "anchors" not in self._pinned:
            self._pinned["anchors"] = self._device.pinned((self.capacity, 2), np.int32)
        staged = self._pinned["anchors"][: len(anchors)]
        staged[:] = anchors
        self.stream.upload(staged, self._buffers["anchors"].address)
        return self._buffers["anchors"].address

    def execute(self, piece: Piece, threshold: float, images: int | None = None) -> None:
        """Queue the engine on the pictures in the buffer "images", or on those at an address.

        Args:
            piece: of the batch; what it is padded with is made black.
            threshold: similarity at which windows merge.
            images: address of (count, H, W, 3) uint8 on the device, or None for the buffer.

        Raises:
            OutOfDeviceMemoryError: TensorRT does not have enough memory for this batch.
            CudaError, EngineError: the engine cannot be queued.
        """
        item = self._plan.tensors["images"].item_bytes
        if images is not None and (images % ALIGNMENT or piece.batch > piece.count):
            self.stream.copy(images, self.address("images"), piece.count * item)
            images = None
        if piece.batch > piece.count:
            self.stream.zero(self.address("images", piece.count), (piece.batch - piece.count) * item)
        if "threshold" in self._buffers:
            self.pinned("threshold")[:] = threshold
            self.stream.upload(self.pinned("threshold"), self.address("threshold"))
        context = self._context(piece.profile)
        ready = context.set_input_shape("images", (piece.batch, *self._plan.tensors["images"].shape))
        for name in self._plan.tensors:
            own = images is None or name != "images"
            ready &= context.set_tensor_address(name, self.address(name) if own else images)
        if not ready or not context.execute_async_v3(self.stream.handle):
            self._raise_failure(f"a batch of {piece.count}")

    def download(self, name: str, count: int) -> NDArray[Any]:
        """Queue a copy of the first `count` entries of an output; a view of the lane's own array."""
        host: NDArray[Any] = self.pinned(name)[:count]
        self.stream.download(self.address(name), host)
        return host

    def settle(self) -> None:
        """Wait until nothing of this lane is under way, whatever became of it."""
        with contextlib.suppress(AlgmError):
            self.stream.synchronize()

    def close(self) -> None:
        """Free everything."""
        self.settle()
        self._contexts.clear()
        self._release_buffers()
        if self._activations is not None:
            self._activations.release()
            self._activations = None
        with contextlib.suppress(AlgmError):
            self.stream.close()

    def _context(self, profile: int) -> Any:
        """The context of a profile; all of a lane share the memory for activations, since one runs at a time."""
        if profile not in self._contexts:
            if self._activations is None:
                size = max(1, self._plan.engine.device_memory_size_v2) + ACTIVATION_ALIGNMENT
                self._activations = self._device.allocate(size, "TensorRT's activations")
            with self._plan.making:
                self._contexts[profile] = self._make_context(profile, self._activations)
        return self._contexts[profile]

    def _make_context(self, profile: int, activations: DeviceBuffer) -> Any:
        trt, engine = self._plan.tensorrt.module, self._plan.engine
        context = engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        if context is None:
            self._raise_failure("an execution context")
        context.temporary_allocator = self._allocator
        try:
            # The one setter of TensorRT's bindings that raises, and answers nothing; the others answer False.
            done = context.set_optimization_profile_async(profile, self.stream.handle)
        except RuntimeError:
            done = False
        if done is False:
            self._raise_failure(f"profile {profile}")
        errors = len(self._plan.messages.errors)
        begin = -(-activations.address // ACTIVATION_ALIGNMENT) * ACTIVATION_ALIGNMENT
        context.set_device_memory(begin, activations.address + activations.size - begin)
        if len(self._plan.messages.errors) > errors:  # it answers nothing
            self._raise_failure("its activations")
        self.stream.synchronize()
        return context

    def _raise_failure(self, what: str) -> NoReturn:
        """Say why TensorRT refused: no memory, a lost device, or its own words."""
        messages = self._plan.messages
        said = messages.summary() or "it does not say why"
        messages.errors.clear()
        refused = self._allocations.take_error()
        self.stream.synchronize()  # a lost device says so here
        no_memory = "outofmemory" in said.lower().replace(" ", "")
        if isinstance(refused, OutOfDeviceMemoryError) or no_memory:
            raise OutOfDeviceMemoryError(what)
        raise EngineError(f"{self._plan.tensorrt.name} failed on {what}: {said}")

    def _release_buffers(self) -> None:
        self.capacity = 0
        self._pinned.clear()
        for buffer in self._buffers.values():
            buffer.release()
        self._buffers.clear()
