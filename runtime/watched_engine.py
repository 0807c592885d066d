"""An engine that lets every batch of its window runner be watched: to time it, or to note its size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from algm_trt.runtime.engine import Engine, EngineOutput
from algm_trt.runtime.window_runner import PictureScores, WindowRequest, WindowRunner, runner_for, usual_batch
from algm_trt.runtime.windows import WindowPlan

Watch = Callable[[int], AbstractContextManager[None]]
"""From the number of windows of a batch to what it runs within; called from as many threads as there are lanes."""


class WatchedEngine:
    """Another engine, unchanged but for the watch on its runners.

    Attributes:
        card: the engine's.
        description: the engine's.
        usual_batch: the engine's.
    """

    def __init__(self, engine: Engine, watch: Watch):
        self._engine = engine
        self._watch = watch
        self.card = engine.card
        self.description = engine.description
        self.usual_batch = usual_batch(engine)

    def run(self, images: NDArray[np.uint8], threshold: float | None = None, *, logits: bool = True) -> EngineOutput:
        """See `Engine.run`; not watched."""
        return self._engine.run(images, threshold=threshold, logits=logits)

    def close(self) -> None:
        """Close the engine."""
        self._engine.close()

    def window_runner(self, batch_size: int) -> WindowRunner:
        """The engine's runner, watched."""
        return _WatchedRunner(runner_for(self._engine, batch_size), self._watch)


class _WatchedRunner:
    """A runner whose batches run within what the watch returns."""

    def __init__(self, runner: WindowRunner, watch: Watch):
        self._runner = runner
        self._watch = watch
        self.lanes = runner.lanes

    def place(self, canvas: NDArray[np.uint8]) -> Any:
        return self._runner.place(canvas)

    def room(self, plan: WindowPlan) -> PictureScores:
        return self._runner.room(plan)

    def run(
        self, requests: Sequence[WindowRequest], threshold: float | None
    ) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        with self._watch(len(requests)):
            return self._runner.run(requests, threshold)
