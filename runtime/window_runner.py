"""How the pipeline sees an engine: canvases in, windows of many pictures per batch, scores kept where the model runs.

Any engine runs through `HostWindowRunner`: windows are copied into one array per batch, logits come back as arrays. An
engine that says how many threads should call it is called by as many; one that keeps pictures and logits in the memory
of a GPU brings a runner of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from algm_trt.plugins.errors import AlgmError, UsageError
from algm_trt.runtime.card import ModelCard
from algm_trt.runtime.engine import Engine
from algm_trt.runtime.field import LogitField
from algm_trt.runtime.windows import WindowPlan, crop


class NotFiniteError(AlgmError):
    """The model gave values that are not finite numbers."""

    def __init__(self) -> None:
        super().__init__("the model gave values that are not finite numbers")


class PictureScores(Protocol):
    """Logits of the n windows of one picture, wherever they lie."""

    def labels(self) -> NDArray[np.uint8] | NDArray[np.uint16]:
        """Winning class of each source pixel: (H, W), uint8 up to 256 classes, else uint16; see `LogitField.labels`.

        Raises:
            NotFiniteError: logits that are not finite.
        """
        ...

    def logits(self) -> NDArray[np.float32]:
        """(n, K, gh, gw) float32 in the memory of the host, a copy."""
        ...

    def field(self) -> LogitField:
        """The logits in the memory of the host, evaluated at the source size on demand.

        Once asked for, it is kept and can be asked for again after `release`.
        """
        ...

    def release(self) -> None:
        """Free what lies outside the memory of the host; nothing but a `field` that is kept can be asked afterwards."""
        ...


@dataclass(frozen=True, eq=False)
class WindowRequest:
    """One window to run.

    Attributes:
        canvas: what `place` returned for its picture.
        plan: the windows of its picture.
        index: of the window in the plan.
        scores: of its picture: where its logits go.
    """

    canvas: Any
    plan: WindowPlan
    index: int
    scores: Any


class WindowRunner(Protocol):
    """Runs batches of windows.

    Attributes:
        lanes: how many threads may call `run` at the same time.
    """

    lanes: int

    def place(self, canvas: NDArray[np.uint8]) -> Any:
        """Take the (H, W, 3) canvas of a picture to where windows are cut from; any thread may call it."""
        ...

    def room(self, plan: WindowPlan) -> PictureScores:
        """Room for the logits of a picture; any thread may call it."""
        ...

    def run(
        self, requests: Sequence[WindowRequest], threshold: float | None
    ) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Run one batch; logits go to the scores of each request.

        Args:
            requests: B windows, at least one.
            threshold: similarity at which windows merge; None takes the model card's.

        Returns:
            token_counts (B, 3) and token_map (B, gh, gw), int32.

        Raises:
            Exception: the batch failed; none of its logits can be used.
        """
        ...


@runtime_checkable
class EngineWithRunner(Protocol):
    """An engine that runs windows in its own way.

    Attributes:
        usual_batch: batch size that suits it best.
    """

    usual_batch: int

    def window_runner(self, batch_size: int) -> WindowRunner:
        """A runner for batches of up to `batch_size` windows."""
        ...


@runtime_checkable
class EngineWithLanes(Protocol):
    """An engine that does more when several threads call it.

    Attributes:
        lanes: how many.
    """

    lanes: int


def lanes_of(engine: Engine) -> int:
    """How many threads should call an engine."""
    return engine.lanes if isinstance(engine, EngineWithLanes) else 1


def runner_for(engine: Engine, batch_size: int) -> WindowRunner:
    """The runner that an engine brings, or one for any engine."""
    if isinstance(engine, EngineWithRunner):
        return engine.window_runner(batch_size)
    return HostWindowRunner(engine, batch_size)


def usual_batch(engine: Engine) -> int:
    """Batch size that suits an engine best: 1 where it runs windows one by one anyway."""
    return engine.usual_batch if isinstance(engine, EngineWithRunner) else 1


class HostScores:
    """Logits of one picture as an array; windows may be put from several threads at a time."""

    def __init__(self, plan: WindowPlan, card: ModelCard):
        self._plan = plan
        self._patch_size = card.patch_size
        self._logits: NDArray[np.float32] | None = np.empty((len(plan), len(card.classes), *card.grid), np.float32)
        self._field: LogitField | None = None

    def put(self, index: int, logits: NDArray[np.float32]) -> None:
        """Store the logits (K, gh, gw) of one window; all of them are there before anything is asked."""
        assert self._logits is not None
        self._logits[index] = logits

    def labels(self) -> NDArray[np.uint8] | NDArray[np.uint16]:
        """See `PictureScores.labels`."""
        return self.field().labels()

    def logits(self) -> NDArray[np.float32]:
        """See `PictureScores.logits`."""
        return self.field().logits()

    def release(self) -> None:
        """Nothing: all of it lies in the memory of the host."""

    def field(self) -> LogitField:
        """See `PictureScores.field`."""
        if self._field is None:
            assert self._logits is not None
            self._field = LogitField(self._plan, self._logits, self._patch_size)
            self._logits = None  # the field has a copy
        return self._field


class HostWindowRunner:
    """Windows through any engine, one batch at a time in each of its lanes.

    Attributes:
        lanes: the engine's, or 1.
    """

    def __init__(self, engine: Engine, batch_size: int):
        self._engine = engine
        self.lanes = lanes_of(engine)
        self._buffers: SimpleQueue[NDArray[np.uint8]] = SimpleQueue()
        shape = (batch_size, *engine.card.size, 3)
        try:
            for _ in range(self.lanes):
                self._buffers.put(np.empty(shape, np.uint8))
        except (MemoryError, ValueError) as error:
            raise UsageError(f"{batch_size} windows do not fit in memory: take a smaller batch size") from error

    def place(self, canvas: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The canvas itself."""
        return canvas

    def room(self, plan: WindowPlan) -> HostScores:
        """See `WindowRunner.room`."""
        return HostScores(plan, self._engine.card)

    def run(
        self, requests: Sequence[WindowRequest], threshold: float | None
    ) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """See `WindowRunner.run`."""
        buffer = self._buffers.get()
        try:
            images = buffer[: len(requests)]
            cut_windows(requests, images)
            output = self._engine.run(images, threshold=threshold)
        finally:
            self._buffers.put(buffer)
        keep_logits(requests, output.logits)
        return output.token_counts, output.token_map


def cut_windows(requests: Sequence[WindowRequest], images: NDArray[np.uint8]) -> None:
    """Copy the windows (B, h, w, 3) out of the canvases of their pictures, which lie in the memory of the host."""
    for image, request in zip(images, requests, strict=True):
        image[:] = crop(request.canvas, request.plan, request.index)


def keep_logits(requests: Sequence[WindowRequest], logits: NDArray[np.float32]) -> None:
    """Give the logits (B, K, gh, gw) of a batch to the `HostScores` of their pictures.

    Raises:
        NotFiniteError: some are not finite; none is kept.
    """
    if not np.isfinite(logits).all():
        raise NotFiniteError
    for request, of_window in zip(requests, logits, strict=True):
        request.scores.put(request.index, of_window)
