"""The cases of `algm_trt.plugins.cases` through the C interface of the kernels (rung L4).

Memory is a GPU's, or the host's for the library that the tests compile for the CPU.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from algm_trt.plugins import interface, spec
from algm_trt.plugins.cases import Case
from algm_trt.plugins.errors import AlgmError
from algm_trt.runtime.cuda import Device

Array = NDArray[Any]

_DTYPES: Final = {"float32": interface.FLOAT32, "float16": interface.FLOAT16}
_GARBAGE: Final = 0xC3
"""What outputs hold before a kernel writes them."""


class KernelError(AlgmError):
    """A kernel returned another status than ALGM_OK."""


class Memory(Protocol):
    """Where kernels run.

    Attributes:
        stream: handle of the stream that kernels are queued on.
    """

    stream: int

    def current(self) -> AbstractContextManager[None]:
        """Make it the device that kernels are launched on."""
        ...

    def put(self, array: Array) -> int:
        """Address of a copy; it lives as long as the memory object."""
        ...

    def get(self, address: int, array: Array) -> None:
        """Fill an array from an address, once all that is queued is done."""
        ...


class DeviceMemory:
    """Memory and a stream of a GPU. Not run by us on a GPU."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._stream = device.stream()
        self._buffers: list[Any] = []
        self.stream = self._stream.handle

    def current(self) -> AbstractContextManager[None]:
        """See `Memory.current`."""
        return self._device.current()

    def put(self, array: Array) -> int:
        """See `Memory.put`."""
        buffer = self._device.allocate(max(1, array.nbytes), "a check of the kernels")
        self._buffers.append(buffer)
        staged = self._device.pinned(array.shape, array.dtype)
        staged[...] = array
        self._stream.upload(staged, buffer.address)
        self._stream.synchronize()
        return buffer.address

    def get(self, address: int, array: Array) -> None:
        """See `Memory.get`."""
        staged = self._device.pinned(array.shape, array.dtype)
        self._stream.download(address, staged)
        self._stream.synchronize()
        array[...] = staged


def run_case(library: ctypes.CDLL, memory: Memory, case: Case, dtype: str) -> tuple[Array, ...]:
    """Outputs of a kernel for a case, the merges' cut to the rows in use.

    Args:
        library: the plugin library, declared (`interface.declare`).
        memory: where it runs.
        case: the case.
        dtype: "float32" or "float16".

    Raises:
        KernelError: the kernel refused or failed.
    """
    inputs = case.inputs_as(dtype)
    outputs = [
        np.frombuffer(bytes([_GARBAGE]) * max(1, room.nbytes), room.dtype).copy().reshape(room.shape)
        for room in _rooms(case, dtype)
    ]
    function, make = _CALLS[case.op.name]
    params = make(case, _DTYPES[dtype])
    size = int(getattr(library, f"{function}_workspace")(ctypes.byref(params)))
    with memory.current():
        workspace = memory.put(np.zeros(max(1, size), np.uint8))
        addresses = [memory.put(array) for array in (*inputs, *outputs)]
        status = getattr(library, function)(ctypes.byref(params), *addresses, workspace, size, memory.stream)
        if status != interface.STATUS_OK:
            said = library.algm_status_string(status).decode()
            cuda = library.algm_last_cuda_error().decode()
            raise KernelError(f"{case.name}, {dtype}: {said} ({cuda})")
        for address, array in zip(addresses[len(inputs) :], outputs, strict=True):
            memory.get(address, array)
    if case.op.size_outputs:
        y, sizes, cu_seqlens, token_map, count = outputs
        rows = min(max(0, int(count)), len(y))
        return y[:rows], sizes[:rows], cu_seqlens, token_map, count
    return tuple(outputs)


def _rooms(case: Case, dtype: str) -> list[Array]:
    """Arrays of the outputs' types and shapes; the merges' for the upper bound of rows."""
    expected = list(case.expected(dtype))
    if case.op.size_outputs:
        x = case.inputs[0]
        rows = int(np.prod(x.shape[:-1]))
        expected[0] = np.empty((rows, x.shape[-1]), expected[0].dtype)
        expected[1] = np.empty((rows,), np.int32)
    return expected


def _local_merge(case: Case, dtype: int) -> ctypes.Structure:
    batch, _, channels = case.inputs[0].shape
    a = case.attributes
    return interface.AlgmLocalMergeParams(dtype, batch, channels, *a["grid"], *a["window"], a["extra_tokens"])


def _global_merge(case: Case, dtype: int) -> ctypes.Structure:
    (rows, channels), (batch, patches) = case.inputs[0].shape, case.inputs[3].shape
    a = case.attributes
    return interface.AlgmGlobalMergeParams(
        dtype, batch, rows, channels, patches, a["layer"], a["extra_tokens"], a["max_tokens"]
    )


def _packed_attention(case: Case, dtype: int) -> ctypes.Structure:
    (rows, width), batch = case.inputs[0].shape, len(case.inputs[1]) - 1
    a = case.attributes
    return interface.AlgmPackedAttentionParams(dtype, batch, rows, width // 3, a["heads"], a["max_tokens"])


def _append_tokens(case: Case, dtype: int) -> ctypes.Structure:
    (rows, channels), batch = case.inputs[0].shape, len(case.inputs[1]) - 1
    return interface.AlgmAppendTokensParams(dtype, batch, rows, channels, len(case.inputs[2]), case.attributes["drop"])


def _unmerge(case: Case, dtype: int) -> ctypes.Structure:
    (rows, channels), (batch, patches) = case.inputs[0].shape, case.inputs[2].shape
    a = case.attributes
    return interface.AlgmUnmergeParams(dtype, batch, rows, channels, patches, a["appended"], a["drop"])


def _labels(case: Case, dtype: int) -> ctypes.Structure:
    return interface.AlgmLabelsParams(dtype, *case.inputs[0].shape, *case.attributes["size"])


_CALLS: Final[dict[str, tuple[str, Callable[[Case, int], ctypes.Structure]]]] = {
    spec.LOCAL_MERGE.name: ("algm_local_merge", _local_merge),
    spec.GLOBAL_MERGE.name: ("algm_global_merge", _global_merge),
    spec.PACKED_ATTENTION.name: ("algm_packed_attention", _packed_attention),
    spec.APPEND_TOKENS.name: ("algm_append_tokens", _append_tokens),
    spec.UNMERGE.name: ("algm_unmerge", _unmerge),
    spec.LABELS.name: ("algm_labels", _labels),
}
"""Function of the C interface and maker of its parameters."""
