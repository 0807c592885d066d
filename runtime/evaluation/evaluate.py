"""Run a model over a data set and score its labels: one pass, in bounded memory, with every failure named."""

from __future__ import annotations

import math
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Final

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from algm_trt.plugins.errors import AlgmError, UsageError
from algm_trt.runtime.decode import decode_image, picture_size
from algm_trt.runtime.engine import Engine
from algm_trt.runtime.evaluation.boundary import BoundaryScores, boundary_counts
from algm_trt.runtime.evaluation.drift import Labels
from algm_trt.runtime.evaluation.figures import Evaluation, Failure, ScoredPicture
from algm_trt.runtime.evaluation.label_files import LabelError, Truth
from algm_trt.runtime.evaluation.metrics import Scores, areas_of, confusion, mean_iou_of
from algm_trt.runtime.evaluation.multiscale import Protocol, View, labels_of_views
from algm_trt.runtime.evaluation.samples import Sample
from algm_trt.runtime.evaluation.sets import EvaluationSet
from algm_trt.runtime.field import LogitField
from algm_trt.runtime.limits import DEFAULT_MAX_PIXELS
from algm_trt.runtime.pipeline import Inferred, Item, Outcome, run_pipeline
from algm_trt.runtime.pipeline_options import PipelineOptions
from algm_trt.runtime.watched_engine import WatchedEngine

WINDOWS_COUPLED: Final = 4
"""Windows that the official evaluation gives its model at a time."""

MOST_AREAS: Final = 2**22
"""Classes times pictures up to which the areas of every picture are kept: 48 MiB."""


@dataclass(frozen=True)
class EvaluationOptions:
    """How an evaluation runs.

    Attributes:
        protocol: how pictures are shown to the model.
        pipeline: how they go through it from there; its threshold is that of the run, and it resizes nothing more.
        window_batch_coupled: a batch holds the windows of one view of one picture only, as in the official evaluation;
            matters to models whose result depends on the batch.
        max_pixels: larger pictures are refused.
        quiet: no progress bar.
    """

    protocol: Protocol = field(default_factory=Protocol)
    pipeline: PipelineOptions = field(default_factory=PipelineOptions)
    window_batch_coupled: bool = False
    max_pixels: int = DEFAULT_MAX_PIXELS
    quiet: bool = False

    def __post_init__(self) -> None:
        if self.pipeline.mode == "whole" and (self.protocol.scales != (1.0,) or self.protocol.short_side is not None):
            raise UsageError("mode whole resizes every picture to the model's input: it takes no scales and short side")


def evaluate(
    engine: Engine,
    data: EvaluationSet,
    options: EvaluationOptions,
    on_labels: Callable[[int, Labels], None] | None = None,
    title: str = "",
) -> Evaluation:
    """Score a model on a data set.

    Args:
        engine: the model.
        data: pictures and ground truth.
        options: how.
        on_labels: called in a thread with the number of each scored picture and its labels (H, W).
        title: in front of the progress bar.

    Raises:
        UsageError: the model does not have the data set's number of classes, or options that it cannot serve.
        AlgmError: not one picture could be scored.
    """
    classes = len(engine.card.classes)
    if classes != data.coding.classes:
        raise UsageError(f"the model has {classes} classes, but {data.dataset} has {data.coding.classes}")
    clock = _Clock()
    watched = WatchedEngine(engine, clock.watch)
    total = _Total(classes, keeps_areas=classes * len(data.samples) <= MOST_AREAS)
    begin = time.perf_counter()
    bar = tqdm(
        total=len(data.samples),
        desc=title or None,
        unit="image",
        disable=options.quiet or None,
        file=sys.stderr,
        leave=False,
    )
    with bar, closing(_outcomes(watched, data, options, on_labels)) as outcomes:
        for picture, views in groupby(outcomes, key=lambda outcome: outcome.key[0]):
            total.add(picture, list(views))
            bar.update()
            if total.failures:
                bar.set_postfix(failed=len(total.failures), refresh=False)
    if not total.pictures:
        raise AlgmError(f"none of {len(data.samples)} pictures could be scored; the first: {total.failures[0].error}")
    return total.evaluation(time.perf_counter() - begin, clock.seconds)


@dataclass(frozen=True, eq=False)
class _PictureScore:
    """What one picture adds to the total."""

    confusion: NDArray[np.int64]
    areas: NDArray[np.int64]
    boundary: NDArray[np.int64]
    windows: int
    tokens: NDArray[np.int64]


class _Picture:
    """A picture on its way: its views go through the model one by one, and the last to arrive scores all of them."""

    def __init__(
        self,
        index: int,
        sample: Sample,
        data: EvaluationSet,
        options: EvaluationOptions,
        on_labels: Callable[[int, Labels], None] | None,
    ):
        self.index = index
        self.sample = sample
        self._data = data
        self._options = options
        self._on_labels = on_labels
        self._lock = threading.Lock()
        self._truth: Truth | None = None
        self._fields: dict[View, LogitField] = {}
        self._tokens = np.zeros(3, np.int64)
        self._windows = 0

    def item(self, view: View) -> Item[tuple[_Picture, View]]:
        """One view of it for the pipeline."""
        return Item((self, view), load=lambda: self._load(view), size=lambda: self._size(view))

    def finish(self, view: View, inferred: Inferred) -> _PictureScore | None:
        """Take a view's logits; the score when it was the last view."""
        views = self._options.protocol.views
        truth = self._truth
        if truth is None:  # the first view, which brings it, has failed, and with it the picture
            return None
        logits = inferred.scores.field().at((truth.shape[0], truth.shape[1]))
        with self._lock:
            self._fields[view] = logits
            self._tokens += inferred.token_counts.sum(axis=0, dtype=np.int64)
            self._windows += len(inferred.token_counts)
            if len(self._fields) < len(views):
                return None
        labels = labels_of_views(views, [self._fields[view] for view in views])
        self._fields.clear()
        counts = confusion(truth, labels, self._data.coding.classes)
        score = _PictureScore(
            counts,
            areas_of(counts),
            boundary_counts(truth, labels, self._data.coding.classes),
            self._windows,
            self._tokens,
        )
        if self._on_labels is not None:
            self._on_labels(self.index, labels)
        self._truth = None
        return score

    def _load(self, view: View) -> NDArray[np.uint8]:
        if self.sample.problem:
            raise AlgmError(self.sample.problem)
        picture = decode_image(self.sample.image, max_pixels=self._options.max_pixels)
        if view == self._options.protocol.views[0]:
            self._truth = self._data.truth(self.sample, (picture.shape[0], picture.shape[1]))
        return view.image(picture)

    def _size(self, view: View) -> tuple[int, int] | None:
        size = picture_size(self.sample.image, max_pixels=self._options.max_pixels)
        return size and view.size(size)


_Views = Outcome[tuple[_Picture, View], _PictureScore | None]


def _outcomes(
    engine: Engine,
    data: EvaluationSet,
    options: EvaluationOptions,
    on_labels: Callable[[int, Labels], None] | None,
) -> Generator[_Views, None, None]:
    """All views of all pictures, in order; the views of a picture follow each other."""

    def items() -> Iterator[Item[tuple[_Picture, View]]]:
        for index, sample in enumerate(data.samples):
            picture = _Picture(index, sample, data, options, on_labels)
            for view in options.protocol.views:
                yield picture.item(view)

    def finish(key: tuple[_Picture, View], inferred: Inferred) -> _PictureScore | None:
        return key[0].finish(key[1], inferred)

    # A run of its own for every view keeps batches from crossing pictures.
    runs = ([item] for item in items()) if options.window_batch_coupled else iter([items()])
    pipeline = replace(options.pipeline, short_side=0, max_ratio=None)
    for run in runs:
        with closing(run_pipeline(engine, pipeline, run, finish)) as outcomes:
            yield from outcomes


class _Total:
    """Sums over the pictures so far."""

    def __init__(self, classes: int, *, keeps_areas: bool):
        self.pictures = 0
        self.failures: list[Failure] = []
        self._scored: list[ScoredPicture] = []
        self._keeps_areas = keeps_areas
        self._confusion = np.zeros((classes, classes), np.int64)
        self._boundary = np.zeros((classes, 4), np.int64)
        self._boundary_sum = 0.0
        self._boundary_pictures = 0
        self._tokens = np.zeros(3, np.int64)
        self._windows = 0

    def add(self, picture: _Picture, views: Sequence[_Views]) -> None:
        """Add a picture, or note why it cannot be added; `views` are the outcomes of all its views."""
        error = next((view.error for view in views if view.error is not None), None)
        if error is not None:
            kind = "label" if isinstance(error, LabelError) else "picture"
            reason = str(error) if isinstance(error, AlgmError) else f"{type(error).__name__}: {error}"
            self.failures.append(Failure(picture.sample.name, kind, " ".join(reason.split())))
            return
        for score in (view.value for view in views if view.value is not None):
            self.pictures += 1
            self._confusion += score.confusion
            self._scored.append(self._kept(picture.index, score))
            self._boundary += score.boundary
            outlines = BoundaryScores(score.boundary).mean_f_score
            if not math.isnan(outlines):
                self._boundary_sum += outlines
                self._boundary_pictures += 1
            self._tokens += score.tokens
            self._windows += score.windows

    def _kept(self, index: int, score: _PictureScore) -> ScoredPicture:
        before, local, last = score.tokens.tolist()
        return ScoredPicture(
            index=index,
            pixels=int(score.areas[:, 1].sum()),
            mean_iou=float(mean_iou_of(score.areas)),
            windows=score.windows,
            tokens=(before, local, last),
            areas=score.areas.astype(np.int32) if self._keeps_areas else None,
        )

    def evaluation(self, seconds: float, model_seconds: float) -> Evaluation:
        before, local, last = self._tokens.tolist()
        return Evaluation(
            scores=Scores(self._confusion),
            boundary=BoundaryScores(self._boundary),
            boundary_of_pictures=self._boundary_sum / self._boundary_pictures if self._boundary_pictures else math.nan,
            pictures=self.pictures,
            failures=tuple(self.failures),
            scored=tuple(self._scored),
            windows=self._windows,
            tokens=(before, local, last),
            seconds=seconds,
            model_seconds=model_seconds,
        )


class _Clock:
    """Seconds during which the model has work, in whichever of its lanes."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._lock = threading.Lock()
        self._batches = 0
        self._begin = 0.0

    @contextmanager
    def watch(self, size: int) -> Iterator[None]:
        """Run while a batch is in the model."""
        with self._lock:
            if not self._batches:
                self._begin = time.perf_counter()
            self._batches += 1
        try:
            yield
        finally:
            with self._lock:
                self._batches -= 1
                if not self._batches:
                    self.seconds += time.perf_counter() - self._begin
