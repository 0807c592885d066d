"""TensorRT backend: runs `model.plan` of algm-build-engine, through TensorRT or TensorRT-RTX.

Checked without a GPU against a stand-in of CUDA and TensorRT that runs the ONNX model; not run by us on a GPU.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from threading import Lock
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from algm_trt.runtime.backends.tensorrt.kernels import load_kernels
from algm_trt.runtime.backends.tensorrt.lane import Lane
from algm_trt.runtime.backends.tensorrt.lanes import Lanes
from algm_trt.runtime.backends.tensorrt.plan import (
    check_gpu,
    check_plugins,
    check_processor,
    check_profiles,
    open_plan,
    read_plan,
    tensorrt_for,
)
from algm_trt.runtime.backends.tensorrt.profiles import Piece
from algm_trt.runtime.backends.tensorrt.transfers import Transfers
from algm_trt.runtime.backends.tensorrt.windows import (
    DeviceWindowRunner,
    HostCutWindowRunner,
    SlideParts,
    tokens,
)
from algm_trt.runtime.cuda import Device
from algm_trt.runtime.device_array import DeviceArray, as_array, stream_handle
from algm_trt.runtime.engine import EngineOutput, check_batch, checked_images, checked_threshold, joined
from algm_trt.runtime.window_runner import WindowRunner

LANES: Final = 2


class TensorRTEngine:
    """A plan on the first visible GPU; any number of threads may call it, `lanes` of them run at the same time.

    Attributes:
        card: what the model expects and means.
        description: backend and device, for people.
        usual_batch: the largest batch that a profile was optimised for.
        device_seconds: between events on the GPU around the last `run` that ended: copies to and from it, the model.
    """

    def __init__(self, path: Path, *, device: Device | None = None, lanes: int = LANES) -> None:
        """Open a plan.

        Args:
            path: the plan; its record lies beside it.
            device: that runs it and is closed with it, or where it cannot be opened; None takes the first that
                CUDA_VISIBLE_DEVICES leaves visible.
            lanes: execution contexts on streams of their own.

        Raises:
            EngineRecordError: no record, or one of another version.
            EngineError: the plan is damaged, or not for this machine or this version; the message has the cure.
            MissingDependencyError: TensorRT, cuda-python, a GPU or the plugin library is missing.
        """
        record, content = read_plan(path)
        check_profiles(path, record)
        check_plugins(path, record)
        check_processor(path, record)
        tensorrt = tensorrt_for(path, record)
        self.card = record.card
        self.usual_batch = max(usual for _, usual, _ in record.profiles)
        self.device_seconds = 0.0
        self._closing = Lock()
        with ExitStack() as opened:
            self._device = device or Device()
            opened.callback(self._device.close)
            check_gpu(path, record, self._device.name, self._device.compute_capability)
            self._transfers = Transfers(self._device)
            opened.callback(self._transfers.close)
            with self._device.current():
                self._lanes = Lanes(open_plan(path, record, content, tensorrt), self._device, lanes)
            opened.callback(self._lanes.close)  # closed before the others: it waits for who uses them
            self._kernels = load_kernels()
            self._opened = opened.pop_all()
        where = "" if self._kernels else " (windows and labels on the CPU: no plugin library here)"
        self.description = f"{tensorrt.name} on {self._device.name}{where}"

    def run(
        self,
        images: NDArray[np.uint8] | Any,
        threshold: float | None = None,
        stream: Any = None,
        *,
        logits: bool = True,
    ) -> EngineOutput:
        """Segment pictures of the model's input size; see `algm_trt.runtime.engine.Engine.run`.

        Args:
            images: (B, H, W, 3) uint8 RGB: a NumPy array, or an array on the engine's GPU (torch, cupy, PyCUDA, or
                anything with DLPack or `__cuda_array_interface__`), which is not copied to the host and back.
            threshold: similarity at which windows merge; None takes the model card's.
            stream: CUDA stream on which images on the GPU were made, or its handle; work queued there so far is waited
                for. None: what the array itself says.
            logits: False leaves them on the GPU: labels, token counts and token map come back.

        Raises:
            UsageError: images of another shape or type, or on another device.
            CudaError, EngineError: the GPU or TensorRT failed; the engine may be used again, unless the GPU is lost.
        """
        limit = checked_threshold(threshold, self.card)
        with self._lanes.lane() as lane:
            array = as_array(images, self._device, lane.stream)
            if stream is not None:
                lane.stream.wait_for(stream_handle(stream))
            if isinstance(array, DeviceArray):
                check_batch(array.dtype, array.shape, self.card)
            else:
                array = checked_images(array, self.card)
            batch = array.shape[0]
            lane.reserve(self._lanes.capacity(batch))
            begin = lane.stream.event(timed=True)
            pieces = self._lanes.pieces(batch)
            parts = [self._run_piece(lane, array, piece, limit, logits=logits) for piece in pieces]
            end = lane.stream.event(timed=True)
            end.synchronize()
            self.device_seconds = end.seconds_since(begin)
        *scores, labels, counts, token_map = joined(parts)
        return EngineOutput(scores[0] if logits else None, labels, counts, token_map)

    def window_runner(self, batch_size: int) -> WindowRunner:
        """See `algm_trt.runtime.window_runner.EngineWithRunner`."""
        if self._kernels is None:
            return HostCutWindowRunner(self.card, self._lanes, batch_size)
        parts = SlideParts(self.card, self._device, self._transfers, self._kernels)
        return DeviceWindowRunner(parts, self._lanes, batch_size)

    def close(self) -> None:
        """Wait for what is running and free everything."""
        with self._closing:
            self._opened.close()

    def _run_piece(
        self, lane: Lane, array: NDArray[np.uint8] | DeviceArray, piece: Piece, threshold: float, *, logits: bool
    ) -> tuple[NDArray[Any], ...]:
        """Logits if asked for, labels, token counts and token map of a part of the batch."""
        if isinstance(array, DeviceArray):
            item = int(np.prod(array.shape[1:]))
            lane.execute(piece, threshold, array.address + piece.start * item)
        else:
            staged = lane.pinned("images")[: piece.count]
            staged[:] = array[piece.start : piece.stop]
            lane.stream.upload(staged, lane.address("images"))
            lane.execute(piece, threshold)
        names = ("logits", "labels") if logits else ("labels",)
        outputs = [lane.download(name, piece.count) for name in names]
        counts, token_map = tokens(lane, piece.count)
        return *(output.copy() for output in outputs), counts, token_map
