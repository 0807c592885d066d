"""The one place that calls CUDA: memory, streams, events and copies of one device, through cuda-python.

Errors are exceptions with a cure, never numbers. Every class is safe to use from several threads, and a thread that has
another device as its current one keeps it. Run by us against a stand-in of the CUDA runtime, not on a GPU.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import DTypeLike, NDArray

from algm_trt.plugins.errors import AlgmError, MissingDependencyError

CUDA_CURE: Final = "pip install cuda-python, version 12 or 13 to match the driver's CUDA (nvidia-smi shows it)"
_NO_GPU: Final = "a plan runs on an NVIDIA GPU only; for a CPU take the .onnx that it was built from"

# By name, because versions of CUDA add and remove some.
_NO_DEVICE: Final = (
    *("cudaErrorInsufficientDriver", "cudaErrorNoDevice", "cudaErrorStubLibrary", "cudaErrorSystemDriverMismatch"),
    *("cudaErrorCompatNotSupportedOnDevice", "cudaErrorInitializationError", "cudaErrorInvalidDevice"),
)
_LOST: Final = (
    *("cudaErrorIllegalAddress", "cudaErrorIllegalInstruction", "cudaErrorMisalignedAddress", "cudaErrorAssert"),
    *("cudaErrorInvalidAddressSpace", "cudaErrorInvalidPc", "cudaErrorLaunchFailure", "cudaErrorLaunchTimeout"),
    *("cudaErrorECCUncorrectable", "cudaErrorNvlinkUncorrectable", "cudaErrorHardwareStackError", "cudaErrorContained"),
    *("cudaErrorDevicesUnavailable", "cudaErrorContextIsDestroyed", "cudaErrorTensorMemoryLeak"),
    *("cudaErrorMpsClientTerminated", "cudaErrorMpsRpcFailure", "cudaErrorExternalDevice", "cudaErrorUnknown"),
)


class CudaError(AlgmError):
    """A call of the CUDA runtime failed."""


class OutOfDeviceMemoryError(CudaError):
    """The device has no memory left; what was asked for before stays valid."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"the GPU has no memory left for {what}: take a smaller --batch-size or fewer --workers, or stop what else "
            "uses the GPU (nvidia-smi lists it)"
        )


class DeviceLostError(CudaError):
    """The device does no more work for this process."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"the GPU stopped working for this process ({reason}): start the program again, and if it comes back look "
            "for Xid lines in dmesg"
        )


@dataclass(frozen=True)
class Bindings:
    """The two modules of cuda-python that are used.

    Attributes:
        runtime: `cuda.bindings.runtime`.
        driver: `cuda.bindings.driver`, for one integer type.
    """

    runtime: Any
    driver: Any

    def call(self, name: str, *arguments: Any, what: str = "") -> Any:
        """Call a function of the CUDA runtime and return its value.

        Args:
            name: of the function.
            *arguments: of the function.
            what: what it is for; part of the message when it fails.

        Raises:
            CudaError, MissingDependencyError: it failed.
        """
        status, *values = getattr(self.runtime, name)(*arguments)
        if status != self.runtime.cudaError_t.cudaSuccess:
            raise self._error(status, what or name)
        return values[0] if values else None

    def _error(self, status: Any, what: str) -> AlgmError:
        if status.name == "cudaErrorMemoryAllocation":
            return OutOfDeviceMemoryError(what)
        text = self.runtime.cudaGetErrorString(status)[1]
        reason = text.decode() if isinstance(text, bytes) else str(text)
        if status.name in _LOST:
            return DeviceLostError(reason)
        if status.name in _NO_DEVICE:
            return MissingDependencyError(self._missing(reason))
        return CudaError(f"{what} failed on the GPU: {reason}")

    def _missing(self, reason: str) -> str:
        """Why there is no device: no driver, an old one, or nothing that it can use."""
        # These two answer without a driver; they report CUDA 12.8 as 12080 and no driver as 0.
        has, needs = (self.runtime.cudaDriverGetVersion()[1], self.runtime.cudaRuntimeGetVersion()[1])
        if not has:
            return f"no NVIDIA driver is on this machine: {_NO_GPU}"
        if has // 1000 < needs // 1000:
            return (
                f"the NVIDIA driver knows CUDA {_dotted(has)} and cuda-python needs {_dotted(needs)}: update the "
                f"driver, or pip install 'cuda-python<{needs // 1000}'"
            )
        return f"CUDA finds no GPU that it can use ({reason}): check nvidia-smi and CUDA_VISIBLE_DEVICES; {_NO_GPU}"


def load_bindings() -> Bindings:
    """Import cuda-python.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        from cuda.bindings import driver, runtime
    except (ImportError, OSError) as error:
        raise MissingDependencyError(f"cuda-python is not installed ({error}): {CUDA_CURE}") from error
    return Bindings(runtime, driver)


class Device:
    """One GPU.

    Attributes:
        ordinal: its number among those that CUDA_VISIBLE_DEVICES leaves visible.
        name: as the driver reports it.
        compute_capability: such as "8.9".
        bindings: of cuda-python.
    """

    def __init__(self, ordinal: int = 0, bindings: Bindings | None = None) -> None:
        """Open a device.

        Raises:
            MissingDependencyError: no cuda-python, no driver, or no such device.
        """
        self.bindings = bindings or load_bindings()
        self.ordinal = ordinal
        if ordinal >= self.call("cudaGetDeviceCount"):
            raise MissingDependencyError(f"there is no GPU {ordinal}: check nvidia-smi and CUDA_VISIBLE_DEVICES")
        self.name = self.call("cudaGetDeviceProperties", ordinal).name.split(b"\0")[0].decode()
        major = self._attribute("cudaDevAttrComputeCapabilityMajor")
        minor = self._attribute("cudaDevAttrComputeCapabilityMinor")
        self.compute_capability = f"{major}.{minor}"
        with self.current():
            self._memory = Stream(self)
            self._pool = self._make_pool()
        self._closed = False

    def call(self, name: str, *arguments: Any, what: str = "") -> Any:
        """See `Bindings.call`."""
        return self.bindings.call(name, *arguments, what=what)

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make it the calling thread's device for a while: launching kernels and TensorRT need that."""
        before = self.call("cudaGetDevice")
        if before == self.ordinal:
            yield
            return
        self.call("cudaSetDevice", self.ordinal)
        try:
            yield
        finally:
            self.call("cudaSetDevice", before)

    def stream(self) -> Stream:
        """A stream of its own, which does not wait for the default stream."""
        return Stream(self)

    def allocate(self, size: int, what: str) -> DeviceBuffer:
        """Device memory that any stream may use at once.

        Args:
            size: bytes, at least 1; they are uninitialised and begin at a multiple of 256.
            what: it is for; part of the message when there is none left.

        Raises:
            OutOfDeviceMemoryError: there is none, also after the pool has given back what it kept.
        """
        try:
            address = self.allocate_on(size, self._memory.handle, what)
        except OutOfDeviceMemoryError:
            self.call("cudaDeviceSynchronize")
            self.trim()
            address = self.allocate_on(size, self._memory.handle, what)
        buffer = DeviceBuffer(self, address, size)
        self._memory.synchronize()
        return buffer

    def allocate_on(self, size: int, stream: int, what: str) -> int:
        """Address of memory that is there in the order of a stream; `free_on` takes it back.

        Raises:
            OutOfDeviceMemoryError: there is none.
        """
        if self._pool is None:
            with self.current():
                return int(self.call("cudaMalloc", size, what=what))
        return int(self.call("cudaMallocFromPoolAsync", size, self._pool, stream, what=what))

    def free_on(self, address: int, stream: int) -> None:
        """Take memory back when a stream comes to it."""
        if self._pool is None:
            self.call("cudaFree", address)
        else:
            self.call("cudaFreeAsync", address, stream)

    def free(self, address: int) -> None:
        """Take back memory that nothing on the device uses any more."""
        self.free_on(address, self._memory.handle)

    def trim(self) -> None:
        """Give what the pool keeps for later back to the system."""
        if self._pool is not None:
            self.call("cudaMemPoolTrimTo", self._pool, 0)

    def pinned(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """An uninitialised array in page-locked host memory, which copies to and from the device without a detour.

        The memory is freed with the last view of the array.

        Raises:
            OutOfDeviceMemoryError: the machine has none.
        """
        kind = np.dtype(dtype)
        size = math.prod(shape) * kind.itemsize
        with self.current():
            address = int(self.call("cudaHostAlloc", max(1, size), 0, what="page-locked memory of the host"))
        memory = (ctypes.c_uint8 * size).from_address(address)
        weakref.finalize(memory, _free_pinned, self.bindings, address).atexit = False
        array: NDArray[Any] = np.ctypeslib.as_array(memory).view(kind).reshape(shape)
        return array

    def owner_of(self, address: int) -> int | None:
        """Ordinal of the device whose memory an address lies in, or None for memory of the host."""
        found = self.call("cudaPointerGetAttributes", address)
        kinds = self.bindings.runtime.cudaMemoryType
        on_device = found.type in (kinds.cudaMemoryTypeDevice, kinds.cudaMemoryTypeManaged)
        return int(found.device) if on_device else None

    def _attribute(self, name: str) -> int:
        return int(
            self.call("cudaDeviceGetAttribute", getattr(self.bindings.runtime.cudaDeviceAttr, name), self.ordinal)
        )

    def _make_pool(self) -> int | None:
        """A pool that keeps what is freed, or None where the driver has no pools (some virtual GPUs)."""
        runtime = self.bindings.runtime
        if not self._attribute("cudaDevAttrMemoryPoolsSupported"):
            return None
        location = runtime.cudaMemLocation()
        location.type, location.id = runtime.cudaMemLocationType.cudaMemLocationTypeDevice, self.ordinal
        properties = runtime.cudaMemPoolProps()
        properties.allocType = runtime.cudaMemAllocationType.cudaMemAllocationTypePinned
        properties.location = location
        pool = int(self.call("cudaMemPoolCreate", properties))
        keep_all = self.bindings.driver.cuuint64_t(2**64 - 1)
        self.call("cudaMemPoolSetAttribute", pool, runtime.cudaMemPoolAttr.cudaMemPoolAttrReleaseThreshold, keep_all)
        return pool

    def close(self) -> None:
        """Give back what the device object itself holds; buffers that are left can still be released."""
        if self._closed:
            return
        self._closed = True
        if self._pool is not None:
            self.call("cudaMemPoolDestroy", self._pool)  # lives on until its last buffer is freed
            self._pool = None
        self._memory.close()


class DeviceBuffer:
    """Device memory with an owner.

    Attributes:
        address: in the memory of the device.
        size: in bytes.
    """

    def __init__(self, device: Device, address: int, size: int) -> None:
        self.address = address
        self.size = size
        self._device = device
        self._free = weakref.finalize(self, _free_quietly, device, address)
        self._free.atexit = False  # the process takes its memory along

    def release(self) -> None:
        """Free it; nothing on the device may be using it any more. A second call does nothing."""
        self._free()


class Stream:
    """A queue of work on the device.

    Attributes:
        handle: what CUDA knows it by.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        with device.current():
            flags = device.bindings.runtime.cudaStreamNonBlocking
            self.handle = int(device.call("cudaStreamCreateWithFlags", flags, what="a stream"))

    def synchronize(self) -> None:
        """Wait until all of its work is done.

        Raises:
            CudaError: some of it, or of any other work of the process, failed.
        """
        self._device.call("cudaStreamSynchronize", self.handle, what="work")

    def upload(self, array: NDArray[Any], address: int) -> None:
        """Queue a copy of a contiguous host array to the device.

        A page-locked array must stay as it is until the copy is done.
        """
        self._copy(address, array.ctypes.data, array.nbytes, "cudaMemcpyHostToDevice")

    def download(self, address: int, array: NDArray[Any]) -> None:
        """Queue a copy from the device to a contiguous host array, which has it after `synchronize`."""
        self._copy(array.ctypes.data, address, array.nbytes, "cudaMemcpyDeviceToHost")

    def copy(self, source: int, target: int, size: int) -> None:
        """Queue a copy of `size` bytes within the device."""
        self._copy(target, source, size, "cudaMemcpyDeviceToDevice")

    def zero(self, address: int, size: int) -> None:
        """Queue zeros for `size` bytes of the device."""
        self._device.call("cudaMemsetAsync", address, 0, size, self.handle)

    def wait_for(self, other: int) -> None:
        """Let work that is queued from now on wait for what another stream, given by its handle, has queued so far."""
        call, runtime = self._device.call, self._device.bindings.runtime
        event = int(call("cudaEventCreateWithFlags", runtime.cudaEventDisableTiming, what="an event"))
        try:
            call("cudaEventRecord", event, other, what="waiting for the stream of the images")
            call("cudaStreamWaitEvent", self.handle, event, 0)
        finally:
            call("cudaEventDestroy", event)  # takes effect when the event has happened

    def event(self, *, timed: bool = False) -> Event:
        """An event that happens when the work queued so far is done; a timed one can tell when."""
        return Event(self._device, self, timed)

    def close(self) -> None:
        """Destroy the stream once its work is done."""
        self._device.call("cudaStreamDestroy", self.handle)

    def _copy(self, target: int, source: int, size: int, kind: str) -> None:
        if size:
            direction = getattr(self._device.bindings.runtime.cudaMemcpyKind, kind)
            self._device.call("cudaMemcpyAsync", target, source, size, direction, self.handle, what="a copy")


class Event:
    """A point in a stream that the host can wait for."""

    def __init__(self, device: Device, stream: Stream, timed: bool) -> None:
        self._device = device
        runtime = device.bindings.runtime
        with device.current():
            flags = runtime.cudaEventDefault if timed else runtime.cudaEventDisableTiming
            self._handle = int(device.call("cudaEventCreateWithFlags", flags, what="an event"))
        weakref.finalize(self, _destroy_event, device, self._handle).atexit = False
        device.call("cudaEventRecord", self._handle, stream.handle)

    def synchronize(self) -> None:
        """Wait until the stream has come here."""
        self._device.call("cudaEventSynchronize", self._handle, what="work")

    def seconds_since(self, earlier: Event) -> float:
        """Seconds on the device between two timed events that have both happened."""
        return float(self._device.call("cudaEventElapsedTime", earlier._handle, self._handle)) / 1000


def _free_quietly(device: Device, address: int) -> None:
    # A lost device raises here as everywhere; what it has lost need not be freed.
    with contextlib.suppress(AlgmError):
        device.free(address)


def _free_pinned(bindings: Bindings, address: int) -> None:
    with contextlib.suppress(AlgmError):
        bindings.call("cudaFreeHost", address)


def _destroy_event(device: Device, handle: int) -> None:
    with contextlib.suppress(AlgmError):
        device.call("cudaEventDestroy", handle)


def _dotted(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"
