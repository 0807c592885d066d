"""Slide mode where the pictures and logits stay on the GPU: canvases go up once, labels come back.

Without the kernels of the plugin library the windows are cut and the labels computed on the CPU, with the same results.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from algm_trt.runtime.backends.tensorrt.kernels import SlideKernels
from algm_trt.runtime.backends.tensorrt.lane import Lane
from algm_trt.runtime.backends.tensorrt.lanes import Lanes
from algm_trt.runtime.backends.tensorrt.profiles import Piece
from algm_trt.runtime.backends.tensorrt.transfers import Transfers
from algm_trt.runtime.card import ModelCard
from algm_trt.runtime.cuda import Device
from algm_trt.runtime.engine import checked_threshold, joined
from algm_trt.runtime.field import LogitField
from algm_trt.runtime.window_runner import (
    HostScores,
    NotFiniteError,
    PictureScores,
    WindowRequest,
    cut_windows,
    keep_logits,
)
from algm_trt.runtime.windows import WindowPlan

_ANCHOR_BYTES: Final = 8


@dataclass(frozen=True, eq=False)
class SlideParts:
    """The parts of an engine that slide mode uses beside its lanes."""

    card: ModelCard
    device: Device
    transfers: Transfers
    kernels: SlideKernels


class DeviceCanvas:
    """The canvas of one picture on the device; its memory goes with it.

    Attributes:
        address: of (H, W, 3) uint8.
        size: (H, W).
    """

    def __init__(self, parts: SlideParts, canvas: NDArray[np.uint8]) -> None:
        self._buffer = parts.device.allocate(canvas.nbytes, "a picture")
        self.address = self._buffer.address
        self.size = (canvas.shape[0], canvas.shape[1])
        with parts.device.current(), parts.transfers.link() as link:
            link.upload(canvas, self.address)


class DeviceScores:
    """Logits of one picture on the device."""

    def __init__(self, parts: SlideParts, plan: WindowPlan) -> None:
        self._parts = parts
        self._plan = plan
        self._shape = (len(plan), len(parts.card.classes), *parts.card.grid)
        self._window_bytes = int(np.prod(self._shape[1:])) * 4
        self._buffer = parts.device.allocate(len(plan) * self._window_bytes, "the scores of a picture")
        self._field: LogitField | None = None

    def address(self, index: int) -> int:
        """Where the logits of window `index` begin."""
        return self._buffer.address + index * self._window_bytes

    def labels(self) -> NDArray[np.uint8] | NDArray[np.uint16]:
        """See `PictureScores.labels`."""
        parts = self._parts
        with parts.device.current(), parts.transfers.link() as link:
            labels = parts.kernels.labels(parts.device, link, self._plan, self.address(0), parts.card)
        return self.field().labels() if labels is None else labels

    def logits(self) -> NDArray[np.float32]:
        """See `PictureScores.logits`."""
        return self.field().logits()

    def field(self) -> LogitField:
        """See `PictureScores.field`.

        Raises:
            NotFiniteError: some logits are not finite.
        """
        if self._field is None:
            logits = np.empty(self._shape, np.float32)
            with self._parts.device.current(), self._parts.transfers.link() as link:
                link.download(self.address(0), logits)
            # Both are NaN if any value is.
            if not (np.isfinite(logits.max()) and np.isfinite(logits.min())):
                raise NotFiniteError
            self._field = LogitField(self._plan, logits, self._parts.card.patch_size)
        return self._field

    def release(self) -> None:
        """See `PictureScores.release`."""
        self._buffer.release()


class _LaneRunner(ABC):
    """What both runners share: a batch runs in one lane of the engine, piece by piece.

    Attributes:
        lanes: of the engine.
    """

    def __init__(self, card: ModelCard, lanes: Lanes, batch_size: int) -> None:
        self.lanes = lanes.count
        self._card = card
        self._lanes = lanes
        self._capacity = lanes.capacity(batch_size)

    def run(
        self, requests: Sequence[WindowRequest], threshold: float | None
    ) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """See `WindowRunner.run`."""
        limit = checked_threshold(threshold, self._card)
        with self._lanes.lane() as lane:
            lane.reserve(self._capacity)
            pieces = self._lanes.pieces(len(requests))
            found = [self._run_piece(lane, piece, requests[piece.start : piece.stop], limit) for piece in pieces]
        counts, token_map = joined(found)
        return counts, token_map

    @abstractmethod
    def _run_piece(
        self, lane: Lane, piece: Piece, requests: Sequence[WindowRequest], threshold: float
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Token counts and token map of a piece, whose logits have gone to the scores of its requests."""


class DeviceWindowRunner(_LaneRunner):
    """Windows cut from canvases on the device, logits left there."""

    def __init__(self, parts: SlideParts, lanes: Lanes, batch_size: int) -> None:
        super().__init__(parts.card, lanes, batch_size)
        self._parts = parts

    def place(self, canvas: NDArray[np.uint8]) -> DeviceCanvas:
        """See `WindowRunner.place`.

        Raises:
            OutOfDeviceMemoryError: the device has no room for it.
        """
        return DeviceCanvas(self._parts, canvas)

    def room(self, plan: WindowPlan) -> DeviceScores:
        """See `WindowRunner.room`.

        Raises:
            OutOfDeviceMemoryError: the device has no room for it.
        """
        return DeviceScores(self._parts, plan)

    def _run_piece(
        self, lane: Lane, piece: Piece, requests: Sequence[WindowRequest], threshold: float
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        self._cut(lane, requests)
        lane.execute(piece, threshold)
        self._keep(lane, requests)
        return tokens(lane, piece.count)

    def _cut(self, lane: Lane, requests: Sequence[WindowRequest]) -> None:
        """Queue the windows into the lane's images."""
        anchors = lane.upload_anchors([request.plan.anchor(request.index) for request in requests])
        for start, stop in _runs(requests):
            canvas: DeviceCanvas = requests[start].canvas
            self._parts.kernels.cut(
                canvas.address,
                canvas.size,
                anchors + start * _ANCHOR_BYTES,
                lane.address("images", start),
                requests[start].plan.window,
                count=stop - start,
                stream=lane.stream.handle,
            )

    def _keep(self, lane: Lane, requests: Sequence[WindowRequest]) -> None:
        """Queue copies of the logits to the scores of their pictures."""
        for start, stop in _runs(requests):
            scores: DeviceScores = requests[start].scores
            source = lane.address("logits", start)
            size = lane.address("logits", stop) - source
            lane.stream.copy(source, scores.address(requests[start].index), size)


class HostCutWindowRunner(_LaneRunner):
    """Windows cut by the CPU, logits kept by it."""

    def place(self, canvas: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The canvas itself."""
        return canvas

    def room(self, plan: WindowPlan) -> PictureScores:
        """See `WindowRunner.room`."""
        return HostScores(plan, self._card)

    def _run_piece(
        self, lane: Lane, piece: Piece, requests: Sequence[WindowRequest], threshold: float
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        images = lane.pinned("images")[: piece.count]
        cut_windows(requests, images)
        lane.stream.upload(images, lane.address("images"))
        lane.execute(piece, threshold)
        logits = lane.download("logits", piece.count)
        found = tokens(lane, piece.count)
        keep_logits(requests, logits)
        return found


def tokens(lane: Lane, count: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Token counts and token map of a batch, once everything that the lane has queued is done."""
    parts = [lane.download(name, count) for name in ("token_counts", "token_map")]
    lane.stream.synchronize()
    return parts[0].copy(), parts[1].copy()


def _runs(requests: Sequence[WindowRequest]) -> Iterator[tuple[int, int]]:
    """Start and stop of neighbours that are successive windows of one picture."""
    start = 0
    for stop in range(1, len(requests) + 1):
        first, end = requests[start], requests[stop] if stop < len(requests) else None
        if end is None or end.scores is not first.scores or end.index != first.index + stop - start:
            yield start, stop
            start = stop
