"""Kernels on the CPU whose loads and stores are searched for races by plugins/native/cpu_twin/races.cpp."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

from helpers.kernels import Array, Buffer, HostMemory, Kernels


class WatchedMemory(HostMemory):
    """Host memory whose accesses are looked at."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library

    def put(self, array: Array) -> Buffer:
        buffer = super().put(array)
        self._library.algm_twin_watch(ctypes.c_void_p(buffer.address), ctypes.c_size_t(array.nbytes))
        return buffer


class WatchedKernels(Kernels):
    """Kernels none of whose calls may have a race."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, HostMemory())

    def _call(self, *arguments: Any, **options: Any) -> list[Array]:
        self.memory = WatchedMemory(self.library)
        results = super()._call(*arguments, **options)
        assert self.library.algm_twin_races() == 0
        return results
