"""What a variant does when it is its turn: the model alone on batches in memory, or a whole job on files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from algm_trt.plugins.errors import AlgmError
from algm_trt.runtime.bench.figures import JobFigures, ModelFigures, TokenFigures
from algm_trt.runtime.bench.models import Contender, EngineWithDeviceClock
from algm_trt.runtime.engine import Engine, EngineOutput
from algm_trt.runtime.job import STAGES, JobOptions, JobReport, run_job
from algm_trt.runtime.model_argument import model_title
from algm_trt.runtime.segmenter import Segmenter
from algm_trt.runtime.sources import Source
from algm_trt.runtime.timing import Call, Samples
from algm_trt.runtime.watched_engine import WatchedEngine


@dataclass(frozen=True)
class Variant:
    """What is measured against the others.

    Attributes:
        model: name of the contender.
        threshold: similarity it merges at; None for a dense model.
        batch: windows that the model gets at a time.
    """

    model: str
    threshold: float | None
    batch: int

    @property
    def title(self) -> str:
        """Model and threshold."""
        return model_title(self.model, self.threshold)


class ModelTurn:
    """The model alone: all windows once, in batches.

    Attributes:
        calls: one per batch.
        tokens: of the windows; known after `probe`.
    """

    def __init__(self, contender: Contender, variant: Variant, windows: NDArray[np.uint8]):
        self._engine = contender.engine
        self._threshold = variant.threshold
        self._batch = variant.batch
        starts = range(0, len(windows), variant.batch)
        self._batches = [windows[start : start + variant.batch] for start in starts]
        self._device: list[tuple[float, ...]] = []
        self._device_turn: list[float] = []
        self._rounds: list[tuple[float, ...]] = []
        self.calls: list[Call] = [partial(self._timed_run, batch) for batch in self._batches]
        self.tokens: TokenFigures | None = None

    def probe(self) -> None:
        """Run all batches once without a clock, and note the tokens."""
        self.tokens = TokenFigures(np.concatenate([self._run(batch).token_counts for batch in self._batches]))

    def add(self, seconds: tuple[float, ...]) -> None:
        """Take the times of a turn."""
        self._rounds.append(seconds)
        if self._device_turn:
            self._device.append(tuple(self._device_turn))
            self._device_turn.clear()

    def figures(self) -> ModelFigures | None:
        """Of all turns so far; None before the first."""
        if not self._rounds:
            return None
        sizes = tuple(len(batch) for batch in self._batches)
        device = Samples(tuple(self._device)) if self._device else None
        return ModelFigures(self._batch, Samples(tuple(self._rounds)), sizes, device)

    def _timed_run(self, batch: NDArray[np.uint8]) -> None:
        _ = self._run(batch).labels  # some engines make them when they are asked for
        if isinstance(self._engine, EngineWithDeviceClock):
            self._device_turn.append(self._engine.device_seconds)

    def _run(self, batch: NDArray[np.uint8]) -> EngineOutput:
        return self._engine.run(batch, threshold=self._threshold, logits=False)


class JobTurn:
    """The whole job: picture files through the model to files, in a folder that is removed afterwards."""

    def __init__(
        self, contender: Contender, variant: Variant, sources: Sequence[Source], folder: Path, options: JobOptions
    ):
        self._contender = contender
        self._batch = variant.batch
        self._sources = sources
        self._folder = folder
        pipeline = replace(options.pipeline, threshold=variant.threshold, batch_size=variant.batch)
        self._options = replace(options, pipeline=pipeline, engine=contender.argument.options, quiet=True)
        self._sizes: tuple[int, ...] = ()
        self._last: JobReport | None = None
        self._seconds: list[float] = []
        self._stages = dict.fromkeys(STAGES, 0.0)
        self._latencies: list[tuple[float, ...]] = []

    def __call__(self) -> None:
        """One job; `add` takes its times, which leave out the folder's making and removal."""
        self._run(self._contender.job_engine)

    def probe(self) -> None:
        """One job without a clock, to note the sizes of its batches; they are the same every time."""
        sizes: list[int] = []

        @contextmanager
        def note(size: int) -> Iterator[None]:
            sizes.append(size)
            yield

        self._run(WatchedEngine(self._contender.job_engine, note))
        self._sizes = tuple(sizes)

    def add(self) -> None:
        """Take the times of the last job."""
        assert self._last is not None
        self._seconds.append(self._last.seconds)
        self._latencies.append(tuple(self._last.latencies))
        for stage, seconds in self._last.stages.items():
            self._stages[stage] += seconds

    def figures(self) -> JobFigures | None:
        """Of all jobs taken so far; None before the first."""
        if not self._seconds:
            return None
        latencies = Samples(tuple(self._latencies))
        return JobFigures(
            self._batch, len(self._sources), self._sizes, tuple(self._seconds), dict(self._stages), latencies
        )

    def _run(self, engine: Engine) -> None:
        with TemporaryDirectory(dir=self._folder) as target:
            file = self._contender.argument.file
            report = run_job(Segmenter(engine), file, self._sources, Path(target), self._options)
            if report.failures:
                raise AlgmError(f"{self._contender.name}: {report.failures} pictures failed while being measured")
        self._last = report
