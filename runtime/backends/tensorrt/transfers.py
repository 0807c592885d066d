"""Copies between ordinary arrays and device memory, through page-locked pieces; any thread, any size."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from queue import Empty, LifoQueue
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from algm_trt.plugins.errors import AlgmError
from algm_trt.runtime.cuda import Device, Event

PIECE_BYTES: Final = 2 * 2**20


class Link:
    """A stream with two page-locked pieces: while one is on its way, the other is filled or emptied.

    Attributes:
        stream: its copies run on it, and what else must come before or after them.
    """

    def __init__(self, device: Device) -> None:
        self.stream = device.stream()
        self._pieces = [device.pinned((PIECE_BYTES,), np.uint8) for _ in range(2)]

    def upload(self, array: NDArray[Any], address: int) -> None:
        """Copy an array to the device; it is there when this returns."""
        source = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        under_way: list[Event] = []
        for number, start in enumerate(range(0, source.size, PIECE_BYTES)):
            if number >= 2:
                under_way[number - 2].synchronize()
            part = source[start : start + PIECE_BYTES]
            piece = self._pieces[number % 2][: part.size]
            piece[:] = part
            self.stream.upload(piece, address + start)
            under_way.append(self.stream.event())
        self.stream.synchronize()

    def download(self, address: int, array: NDArray[Any]) -> None:
        """Copy from the device into a contiguous array, behind what the stream has queued; done when this returns."""
        target = array.reshape(-1).view(np.uint8)
        under_way: list[tuple[Event, NDArray[Any], NDArray[Any]]] = []
        for number, start in enumerate(range(0, target.size, PIECE_BYTES)):
            if number >= 2:
                _empty(*under_way.pop(0))
            part = target[start : start + PIECE_BYTES]
            piece = self._pieces[number % 2][: part.size]
            self.stream.download(address + start, piece)
            under_way.append((self.stream.event(), piece, part))
        for entry in under_way:
            _empty(*entry)

    def close(self) -> None:
        """Free the stream; the pieces go with the last array."""
        self.stream.close()


class Transfers:
    """As many links as there are threads that copy at the same time."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._idle: LifoQueue[Link] = LifoQueue()

    @contextmanager
    def link(self) -> Iterator[Link]:
        """A link for one thread, for a while."""
        try:
            link = self._idle.get_nowait()
        except Empty:
            link = Link(self._device)
        try:
            yield link
        finally:
            # After an error some copies may still be under way: nobody may get the pieces before they are through.
            with contextlib.suppress(AlgmError):
                link.stream.synchronize()
            self._idle.put(link)

    def close(self) -> None:
        """Free the links; none may be in use."""
        with contextlib.suppress(Empty):
            while True:
                self._idle.get_nowait().close()


def _empty(event: Event, piece: NDArray[Any], part: NDArray[Any]) -> None:
    event.synchronize()
    part[:] = piece
