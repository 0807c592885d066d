"""CUDA memory for tests of the kernels: guarded buffers from PyTorch, work on PyTorch's current stream.

Where PyTorch is told to make an allocation of every tensor, compute-sanitizer is watching: it sees every access outside
of an allocation, and buffers are then as long as their contents, without guards.
"""

from __future__ import annotations

import os

import numpy as np
import torch
from helpers.kernels import Array

_WATCHED = bool(os.environ.get("PYTORCH_NO_CUDA_MEMORY_CACHING"))
_GUARD = 0 if _WATCHED else 512


class DeviceBuffer:
    """Device memory between two zones of 512 bytes that must keep their pattern."""

    def __init__(self, array: Array) -> None:
        self._shape, self._dtype, self._bytes = array.shape, array.dtype, array.nbytes
        padded = max(1, array.nbytes) if _WATCHED else -(-array.nbytes // 256) * 256
        self._memory = torch.full((padded + 2 * _GUARD,), 0xA5, dtype=torch.uint8, device="cuda")
        contents = np.frombuffer(np.asarray(array, order="C").tobytes(), np.uint8).copy()
        self._memory[_GUARD : _GUARD + self._bytes] = torch.from_numpy(contents).cuda()
        self.address = self._memory.data_ptr() + _GUARD

    def array(self) -> Array:
        contents = self._memory.cpu().numpy()
        outside = np.concatenate([contents[:_GUARD], contents[_GUARD + self._bytes :]])
        assert (outside == 0xA5).all(), "the kernel wrote outside its buffer"
        return np.frombuffer(contents[_GUARD : _GUARD + self._bytes].tobytes(), self._dtype).reshape(self._shape).copy()


class DeviceMemory:
    """CUDA memory from PyTorch, kernels on PyTorch's current stream."""

    @property
    def stream(self) -> int:
        return int(torch.cuda.current_stream().cuda_stream)

    def put(self, array: Array) -> DeviceBuffer:
        return DeviceBuffer(array)
