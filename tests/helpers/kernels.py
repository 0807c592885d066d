"""The C interface of the kernels through ctypes, on CUDA tensors or, for the CPU twin, on guarded host memory.

Every output is poisoned before the call, and rows that the kernel must not touch are checked to be poison after it.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from algm_trt.plugins import interface

if TYPE_CHECKING:  # needs OpenCV, which a machine that only tests the kernels may lack
    from algm_trt.runtime.field import AxisOperator

Array = NDArray[Any]
INT32 = np.dtype(np.int32)
_CUDA_ERROR = 4  # ALGM_CUDA_ERROR
_DTYPES = {np.dtype(np.float32): interface.FLOAT32, np.dtype(np.float16): interface.FLOAT16}
_POISON = {np.dtype(np.float32): np.nan, np.dtype(np.float16): np.nan, INT32: -7}
_POISON |= {np.dtype(np.uint8): 0xFF, np.dtype(np.uint16): 0xFFFF}


class Buffer(Protocol):
    """Memory that a kernel may use: its address and a copy of its contents."""

    @property
    def address(self) -> int: ...

    def array(self) -> Array: ...


class Memory(Protocol):
    """Where kernels run: makes buffers and names the stream."""

    stream: int

    def put(self, array: Array) -> Buffer: ...


class GuardedBuffer:
    """Host memory between two pages that nobody may touch; the array ends within 16 bytes of the second one."""

    def __init__(self, array: Array, alignment: int) -> None:
        page = mmap.PAGESIZE
        size = -(-array.nbytes // alignment) * alignment
        inner = max(-(-size // page), 1) * page
        self._map = mmap.mmap(-1, inner + 2 * page)
        start = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        libc = ctypes.CDLL(None, use_errno=True)
        for guard in (start, start + page + inner):
            if libc.mprotect(ctypes.c_void_p(guard), ctypes.c_size_t(page), 0) != 0:
                raise OSError(ctypes.get_errno(), "mprotect failed")
        offset = page + inner - size
        self.address = start + offset
        self._array = np.frombuffer(self._map, array.dtype, array.size, offset).reshape(array.shape)
        self._array[...] = array

    def array(self) -> Array:
        return self._array.copy()


class HostMemory:
    """Guarded host memory for the CPU twin: reading or writing outside a buffer ends the process at once."""

    stream = 0

    def put(self, array: Array) -> Buffer:
        return GuardedBuffer(array, 256 if array.dtype == np.uint8 else 16)


@dataclass(frozen=True)
class Outputs:
    """What a merge kernel wrote, cut to `count` rows; the same fields as `reference.Merged`."""

    y: Array
    sizes: Array
    cu_seqlens: Array
    token_map: Array
    count: int


class KernelError(RuntimeError):
    """A kernel returned another status than ALGM_OK."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"status {status}: {text}")
        self.status = status


class Kernels:
    """The functions of a kernel library, NumPy arrays in and out."""

    def __init__(self, path: Path, memory: Memory) -> None:
        self.library = interface.declare(ctypes.CDLL(str(path)))
        self.memory = memory

    def local_merge(
        self, x: Array, threshold: float, *, grid: tuple[int, int], window: tuple[int, int], extra_tokens: int = 1
    ) -> Outputs:
        batch, per_image, channels = x.shape
        params = interface.AlgmLocalMergeParams(_DTYPES[x.dtype], batch, channels, *grid, *window, extra_tokens)
        inputs = [x, np.asarray(threshold, np.float32)]
        rows = batch * per_image
        outputs = self._merge_outputs(x.dtype, rows, channels, batch, per_image - extra_tokens)
        return self._merged(self._call("algm_local_merge", params, inputs, outputs))

    def global_merge(
        self,
        x: Array,
        sizes: Array,
        cu_seqlens: Array,
        token_map: Array,
        *,
        layer: int,
        extra_tokens: int = 1,
        max_tokens: int | None = None,
        checked: bool = True,
    ) -> Outputs:
        (rows, channels), (batch, patches) = x.shape, token_map.shape
        longest = max_tokens or int(np.diff(cu_seqlens).max())
        params = interface.AlgmGlobalMergeParams(
            _DTYPES[x.dtype], batch, rows, channels, patches, layer, extra_tokens, longest
        )
        outputs = self._merge_outputs(x.dtype, rows, channels, batch, patches)
        results = self._call("algm_global_merge", params, [x, sizes, cu_seqlens, token_map], outputs)
        return self._merged(results) if checked else Outputs(*results[:4], int(results[4]))

    def packed_attention(self, qkv: Array, cu_seqlens: Array, *, heads: int, max_tokens: int | None = None) -> Array:
        (rows, width), batch = qkv.shape, len(cu_seqlens) - 1
        longest = max_tokens or int(np.diff(cu_seqlens).max())
        params = interface.AlgmPackedAttentionParams(_DTYPES[qkv.dtype], batch, rows, width // 3, heads, longest)
        outputs = [_poisoned((rows, width // 3), qkv.dtype)]
        return self._call("algm_packed_attention", params, [qkv, cu_seqlens], outputs)[0]

    def append_tokens(self, x: Array, cu_seqlens: Array, tokens: Array, *, drop: int) -> tuple[Array, Array]:
        (rows, channels), batch = x.shape, len(cu_seqlens) - 1
        params = interface.AlgmAppendTokensParams(_DTYPES[x.dtype], batch, rows, channels, len(tokens), drop)
        outputs = [
            _poisoned((rows + batch * (len(tokens) - drop), channels), x.dtype),
            _poisoned((batch + 1,), INT32),
        ]
        y, new_cu_seqlens = self._call("algm_append_tokens", params, [x, cu_seqlens, tokens], outputs)
        return y, new_cu_seqlens

    def unmerge(
        self, x: Array, cu_seqlens: Array, token_map: Array, *, appended: int = 0, drop: int = 0
    ) -> tuple[Array, Array]:
        (rows, channels), (batch, patches) = x.shape, token_map.shape
        params = interface.AlgmUnmergeParams(_DTYPES[x.dtype], batch, rows, channels, patches, appended, drop)
        outputs = [
            _poisoned((batch, patches, channels), x.dtype),
            _poisoned((batch, appended, channels), x.dtype),
        ]
        grid, tail = self._call("algm_unmerge", params, [x, cu_seqlens, token_map], outputs)
        return grid, tail

    def labels(self, logits: Array, size: tuple[int, int]) -> Array:
        batch, height, width, classes = logits.shape
        params = interface.AlgmLabelsParams(_DTYPES[logits.dtype], batch, height, width, classes, *size)
        return self._call("algm_labels", params, [logits], [_poisoned((batch, *size), INT32)])[0]

    def cut_windows(
        self, canvas: Array, anchors: Array, window: tuple[int, int], *, offsets: tuple[int, int] = (0, 0)
    ) -> Array:
        """Windows of a canvas; `offsets`: bytes between a 256-byte boundary and the canvas, and the windows."""
        params = interface.AlgmCutWindowsParams(*canvas.shape[:2], len(anchors), *window)
        windows = _poisoned((len(anchors), *window, 3), canvas.dtype)
        shifts = (offsets[0], 0, offsets[1])
        return self._call("algm_cut_windows", params, [canvas, anchors], [windows], shifts)[0]

    def slide_labels(
        self, logits: Array, windows_down: int, rows: AxisOperator, columns: AxisOperator
    ) -> tuple[Array, Array]:
        """Labels at the source, those of 8 bits ending where their memory ends; whether all logits are finite."""
        count, classes, *grid = logits.shape
        size = len(rows.shares), len(columns.shares)
        tiles = rows.nodes.shape[0], columns.nodes.shape[0]
        support = rows.nodes.shape[1], columns.nodes.shape[1]
        params = interface.AlgmSlideLabelsParams(
            _DTYPES[logits.dtype], windows_down, count // windows_down, classes, *grid, *size, *tiles, *support
        )
        labels = _poisoned(size, np.uint8 if classes <= 256 else np.uint16)
        inputs = [logits, *(array for axis in (rows, columns) for array in _arrays(axis))]
        shifts = (*(0 for _ in inputs), -labels.nbytes % 256 if labels.itemsize == 1 else 0, 0)
        labels, finite = self._call("algm_slide_labels", params, inputs, [labels, _poisoned((), INT32)], shifts)
        return labels, finite

    def _merge_outputs(self, dtype: Any, rows: int, channels: int, batch: int, patches: int) -> list[Array]:
        return [
            _poisoned((rows, channels), dtype),
            _poisoned((rows,), INT32),
            _poisoned((batch + 1,), INT32),
            _poisoned((batch, patches), INT32),
            _poisoned((), INT32),
        ]

    def _merged(self, results: list[Array]) -> Outputs:
        y, sizes, cu_seqlens, token_map, count = results
        rows = int(count)
        assert 0 <= rows <= len(y)
        assert np.isnan(y[rows:]).all(), "rows beyond the count were written"
        assert (sizes[rows:] == _POISON[INT32]).all(), "sizes beyond the count were written"
        return Outputs(y[:rows], sizes[:rows], cu_seqlens, token_map, rows)

    def _call(
        self,
        name: str,
        params: ctypes.Structure,
        inputs: list[Array],
        outputs: list[Array],
        shifts: Sequence[int] | None = None,
    ) -> list[Array]:
        size = getattr(self.library, f"{name}_workspace")(ctypes.byref(params))
        workspace = self.memory.put(np.full(max(size, 1), 0xFF, np.uint8))
        arrays = inputs + outputs
        buffers = [_Shifted(self.memory, *pair) for pair in zip(arrays, shifts or [0] * len(arrays), strict=True)]
        status = getattr(self.library, name)(
            ctypes.byref(params),
            *(buffer.address for buffer in buffers),
            *(workspace.address, size, self.memory.stream),
        )
        if status != 0:
            cause = self.library.algm_last_cuda_error().decode() if status == _CUDA_ERROR else ""
            raise KernelError(status, f"{self.library.algm_status_string(status).decode()}{cause and f' ({cause})'}")
        for buffer, array in zip(buffers, inputs, strict=False):
            np.testing.assert_array_equal(buffer.array(), array, "the kernel wrote into an input")
        return [buffer.array() for buffer in buffers[len(inputs) :]]


class _Shifted:
    """A buffer some bytes behind the boundary where the memory puts it; the bytes before it must stay as they are."""

    def __init__(self, memory: Memory, array: Array, shift: int) -> None:
        array = np.asarray(array, order="C")
        self._like, self._shift = array, shift
        if shift:
            array = np.concatenate([np.full(shift, 0xA5, np.uint8), np.frombuffer(array.tobytes(), np.uint8)])
        self._buffer = memory.put(array)
        self.address = self._buffer.address + shift

    def array(self) -> Array:
        contents = self._buffer.array()
        if not self._shift:
            return contents
        assert (contents[: self._shift] == 0xA5).all(), "the kernel wrote before its buffer"
        return np.frombuffer(contents[self._shift :].tobytes(), self._like.dtype).reshape(self._like.shape)


def _arrays(axis: AxisOperator) -> list[Array]:
    return [axis.starts, axis.supports, axis.nodes, axis.shares]


def _poisoned(shape: tuple[int, ...], dtype: Any) -> Array:
    return np.full(shape, _POISON[np.dtype(dtype)], dtype)
