"""A stand-in of the CUDA runtime whose device is the memory of the host, and which does nothing earlier than it must.

Work on a stream is kept until somebody waits for it, and then runs in order. So whoever reads a result too early finds
poison, whoever changes a source too early copies the change, and whoever forgets that one stream must wait for another
gets what was there before. Page-locked memory that a copy will write is poisoned when the copy is queued; memory that
was freed is poisoned and no longer known. Names and enumerations are those of `cuda.bindings.runtime`.
"""

# ruff: noqa: N801, N802, N815
from __future__ import annotations

import contextlib
import ctypes
import enum
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from algm_trt.plugins import interface
from algm_trt.runtime.cuda import Bindings, Device

FRESH, FREED, UNREAD = 0xA5, 0xDD, 0xEE
ALIGNMENT = 256
"""Bytes: memory begins at odd multiples of what CUDA promises."""


class cudaError_t(enum.IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35
    cudaErrorNoDevice = 100
    cudaErrorInvalidResourceHandle = 400
    cudaErrorNotReady = 600
    cudaErrorIllegalAddress = 700
    cudaErrorLaunchFailure = 719


class cudaMemcpyKind(enum.IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2
    cudaMemcpyDeviceToDevice = 3


class cudaDeviceAttr(enum.IntEnum):
    cudaDevAttrComputeCapabilityMajor = 75
    cudaDevAttrComputeCapabilityMinor = 76
    cudaDevAttrMemoryPoolsSupported = 115


class cudaMemoryType(enum.IntEnum):
    cudaMemoryTypeUnregistered = 0
    cudaMemoryTypeHost = 1
    cudaMemoryTypeDevice = 2
    cudaMemoryTypeManaged = 3


@dataclass(eq=False)
class Memory:
    """A piece of memory; nobody may use it before `born`."""

    bytes: NDArray[np.uint8]
    on_device: int | None
    born: bool = True

    @property
    def address(self) -> int:
        return int(self.bytes.ctypes.data)


@dataclass(eq=False)
class Queue:
    """What a stream has still to do."""

    device: int
    work: deque[Callable[[], None]] = field(default_factory=deque)


class HostCuda:
    """The functions of `cuda.bindings.runtime` that `algm_trt.runtime.cuda` calls.

    Attributes:
        calls: names of all calls so far.
        limit: bytes of device memory that there are.
        lost: the error that every call answers from now on.
    """

    cudaError_t = cudaError_t
    cudaMemcpyKind = cudaMemcpyKind
    cudaDeviceAttr = cudaDeviceAttr
    cudaMemoryType = cudaMemoryType
    cudaMemPoolAttr = SimpleNamespace(cudaMemPoolAttrReleaseThreshold=4)
    cudaMemAllocationType = SimpleNamespace(cudaMemAllocationTypePinned=1)
    cudaMemLocationType = SimpleNamespace(cudaMemLocationTypeDevice=1)
    cudaMemLocation = SimpleNamespace
    cudaMemPoolProps = SimpleNamespace
    cudaStreamNonBlocking = 1
    cudaEventDefault = 0
    cudaEventDisableTiming = 2

    def __init__(self, devices: int = 1, capability: tuple[int, int] = (8, 9), pools: bool = True) -> None:
        self.calls: list[str] = []
        self.limit = 2**40
        self.lost: cudaError_t | None = None
        self._devices, self._capability, self._pools = devices, capability, pools
        self._failures: dict[str, list[tuple[int, cudaError_t]]] = {}
        self._memory: dict[int, Memory] = {}
        self._queues: dict[int, Queue] = {1: Queue(0), 2: Queue(0)}
        self._times: dict[int, float | None] = {}
        self._events: dict[int, tuple[int, Callable[[], None]] | None] = {}
        self._handles = 1000
        self._current = threading.local()
        self.lock = threading.RLock()

    # What tests ask and do.

    def fail(self, name: str, error: str = "cudaErrorMemoryAllocation", at: int = 1) -> None:
        """Let the `at`-th call of a function from now on answer an error."""
        seen = self.calls.count(name)
        self._failures.setdefault(name, []).append((seen + at, cudaError_t[error]))

    @property
    def live(self) -> int:
        """Bytes of device memory in use."""
        return sum(memory.bytes.size for memory in self._memory.values() if memory.on_device is not None)

    @property
    def open_streams(self) -> int:
        return len(self._queues) - 2

    def queue(self, stream: int, work: Callable[[], None]) -> None:
        """Queue a kernel."""
        with self.lock:
            queue = self._queues[stream]
            assert queue.device == self.device, "launched onto a stream of another device"
            queue.work.append(work)

    @property
    def device(self) -> int:
        """The calling thread's current device."""
        return int(getattr(self._current, "ordinal", 0))

    def view(self, address: int, size: int, *, pinned: bool = False) -> NDArray[np.uint8]:
        """The bytes at an address, which must be in use."""
        for memory in self._memory.values():
            start = address - memory.address
            if start >= 0 and start + size <= memory.bytes.size:
                assert memory.born, "memory used before the stream that allocates it came to it"
                assert (memory.on_device is None) == pinned, "host memory taken for the device's, or the other way"
                return memory.bytes[start : start + size]
        raise AssertionError(f"{size} bytes at {address:#x} are not in use{' or not page-locked' if pinned else ''}")

    def foreign(self, array: NDArray[Any], device: int = 0) -> int:
        """Device memory of somebody else that holds an array, and its address."""
        memory = self._new(array.nbytes, device)
        memory.bytes[: array.nbytes] = np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8)
        return memory.address

    # The functions of CUDA: a tuple of the status and the values.

    def __getattribute__(self, name: str) -> Any:
        found = object.__getattribute__(self, name)
        if not name.startswith("cuda") or not callable(found) or isinstance(found, type):
            return found
        return lambda *arguments: self._answer(name, found, arguments)

    def _answer(self, name: str, function: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        with self.lock:
            self.calls.append(name)
            if self.lost is not None and name not in ("cudaGetErrorString", "cudaGetDevice", "cudaSetDevice"):
                return (self.lost, None)
            for number, error in self._failures.get(name, []):
                if number == self.calls.count(name):
                    return (error, None)
            value = function(*arguments)
            if isinstance(value, cudaError_t):
                return (value, None)
            return (cudaError_t.cudaSuccess,) if value is None else (cudaError_t.cudaSuccess, value)

    def cudaGetErrorString(self, error: cudaError_t) -> bytes:
        return {2: b"out of memory", 700: b"an illegal memory access was encountered"}.get(error, error.name.encode())

    def cudaDriverGetVersion(self) -> int:
        return 12080

    def cudaRuntimeGetVersion(self) -> int:
        return 13000

    def cudaGetDeviceCount(self) -> int:
        return self._devices

    def cudaGetDeviceProperties(self, device: int) -> Any:
        return SimpleNamespace(name=b"Host device" + bytes(20))

    def cudaDeviceGetAttribute(self, attribute: cudaDeviceAttr, device: int) -> int:
        return {75: self._capability[0], 76: self._capability[1], 115: int(self._pools)}[attribute]

    def cudaGetDevice(self) -> int:
        return self.device

    def cudaSetDevice(self, device: int) -> None:
        self._current.ordinal = device

    def cudaDeviceSynchronize(self) -> None:
        for handle in list(self._queues):
            self._drain(handle)

    def cudaPointerGetAttributes(self, address: int) -> Any:
        for memory in self._memory.values():
            if memory.on_device is not None and memory.address <= address < memory.address + memory.bytes.size:
                return SimpleNamespace(type=cudaMemoryType.cudaMemoryTypeDevice, device=memory.on_device)
        return SimpleNamespace(type=cudaMemoryType.cudaMemoryTypeUnregistered, device=-2)

    def cudaMemPoolCreate(self, properties: Any) -> int:
        assert properties.location.id < self._devices
        return self._handle()

    def cudaMemPoolSetAttribute(self, pool: int, attribute: int, value: int) -> None:
        assert value == 2**64 - 1

    def cudaMemPoolTrimTo(self, pool: int, size: int) -> None:
        pass

    def cudaMemPoolDestroy(self, pool: int) -> None:
        pass

    def cudaMalloc(self, size: int) -> int | cudaError_t:
        if self.live + size > self.limit:
            return cudaError_t.cudaErrorMemoryAllocation
        return self._new(size, self.device).address

    def cudaMallocFromPoolAsync(self, size: int, pool: int, stream: int) -> int | cudaError_t:
        if self.live + size > self.limit:
            return cudaError_t.cudaErrorMemoryAllocation
        memory = self._new(size, self._queues[stream].device)
        memory.born = False

        def bear() -> None:
            memory.born = True

        self._queues[stream].work.append(bear)
        return memory.address

    def cudaFree(self, address: int) -> None:
        self.cudaDeviceSynchronize()
        self._forget(address)

    def cudaFreeAsync(self, address: int, stream: int) -> None:
        assert address in self._memory, "freed twice"
        self._queues[stream].work.append(lambda: self._forget(address))

    def cudaHostAlloc(self, size: int, flags: int) -> int:
        return self._new(size, None).address

    def cudaFreeHost(self, address: int) -> None:
        self.cudaDeviceSynchronize()
        self._forget(address)

    def cudaMemcpyAsync(self, target: int, source: int, size: int, kind: cudaMemcpyKind, stream: int) -> None:
        to_host = kind == cudaMemcpyKind.cudaMemcpyDeviceToHost
        from_host = kind == cudaMemcpyKind.cudaMemcpyHostToDevice
        if to_host:
            self.view(target, size, pinned=True)[:] = UNREAD

        def copy() -> None:
            self.view(target, size, pinned=to_host)[:] = self.view(source, size, pinned=from_host)

        self._queues[stream].work.append(copy)

    def cudaMemsetAsync(self, address: int, value: int, size: int, stream: int) -> None:
        def fill() -> None:
            self.view(address, size)[:] = value

        self._queues[stream].work.append(fill)

    def cudaStreamCreateWithFlags(self, flags: int) -> int:
        assert flags == self.cudaStreamNonBlocking
        handle = self._handle()
        self._queues[handle] = Queue(self.device)
        return handle

    def cudaStreamDestroy(self, stream: int) -> None:
        self._drain(stream)
        del self._queues[stream]

    def cudaStreamSynchronize(self, stream: int) -> None:
        self._drain(stream)

    def cudaEventCreateWithFlags(self, flags: int) -> int:
        handle = self._handle()
        self._events[handle] = None
        if flags == self.cudaEventDefault:
            self._times[handle] = None
        return handle

    def cudaEventElapsedTime(self, start: int, end: int) -> float | cudaError_t:
        begin, ready = self._times[start], self._times[end]  # KeyError: made without timing
        if begin is None or ready is None:
            return cudaError_t.cudaErrorNotReady
        return (ready - begin) * 1000

    def cudaEventRecord(self, event: int, stream: int) -> None:
        def mark() -> None:
            if event in self._times:
                self._times[event] = time.perf_counter()

        self._queues[stream].work.append(mark)
        self._events[event] = (stream, mark)

    def cudaEventSynchronize(self, event: int) -> None:
        self._drain_to(self._events[event])

    def cudaStreamWaitEvent(self, stream: int, event: int, flags: int) -> None:
        recorded = self._events[event]
        self._queues[stream].work.append(lambda: self._drain_to(recorded))

    def cudaEventDestroy(self, event: int) -> None:
        del self._events[event]
        self._times.pop(event, None)

    def _handle(self) -> int:
        self._handles += 1
        return self._handles

    def _new(self, size: int, on_device: int | None) -> Memory:
        whole = np.full(size + 2 * ALIGNMENT, FRESH, np.uint8)
        start = (ALIGNMENT - int(whole.ctypes.data)) % (2 * ALIGNMENT)
        memory = Memory(whole[start : start + size], on_device)
        self._memory[memory.address] = memory
        return memory

    def _forget(self, address: int) -> None:
        self._memory.pop(address).bytes[:] = FREED

    def _drain(self, stream: int) -> None:
        work = self._queues[stream].work
        while work:
            work.popleft()()

    def _drain_to(self, recorded: tuple[int, Callable[[], None]] | None) -> None:
        if recorded is None or recorded[0] not in self._queues:
            return
        work = self._queues[recorded[0]].work
        while recorded[1] in work:
            work.popleft()()


def host_device(cuda: HostCuda | None = None, ordinal: int = 0) -> Device:
    """A device of the stand-in."""
    return Device(ordinal, Bindings(cuda or HostCuda(), SimpleNamespace(cuuint64_t=int)))


class DeferredLibrary:
    """The CPU twin of the kernels, whose launches wait in the stand-in's streams as those of a GPU do.

    Attributes:
        refuse: statuses that functions answer at once, by name.
    """

    def __init__(self, library: ctypes.CDLL, cuda: HostCuda) -> None:
        self._library = interface.declare(library)
        self._cuda = cuda
        self.refuse: dict[str, int] = {}

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._library, name)
        if name not in interface.FUNCTIONS:
            return function

        def launch(params: Any, *arguments: Any) -> int:
            if name in self.refuse:
                return self.refuse[name]
            kept = type(params._obj).from_buffer_copy(params._obj)  # the caller's struct is gone when the kernel runs

            def run() -> None:
                status = function(ctypes.byref(kept), *arguments)
                assert status == interface.STATUS_OK, self._library.algm_status_string(status).decode()

            self._cuda.queue(arguments[-1], run)
            return interface.STATUS_OK

        return launch


@contextlib.contextmanager
def other_device(cuda: HostCuda, ordinal: int) -> Any:
    """The calling thread has another current device, as in a program that uses several."""
    cuda.cudaSetDevice(ordinal)
    try:
        yield
    finally:
        cuda.cudaSetDevice(0)
