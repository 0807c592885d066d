"""Pictures through a model: decode, windows, batches across pictures, model, and a last step of the caller's choice.

The calling thread forms batches and runs the model; reading and finishing run in threads on either side of it. Two
rules make a run repeatable: pictures enter and leave in order, and which windows share a batch depends on the sizes of
the pictures alone, never on timing.

Memory is bounded twice: by the number of pictures on their way, and by their pixels, counted from the file headers
before anything is decoded. A picture above that bound travels alone.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from algm_trt.plugins.errors import AlgmError, UsageError
from algm_trt.runtime.card import ModelCard
from algm_trt.runtime.engine import Engine, EngineOutput
from algm_trt.runtime.windows import WindowPlan, canvas_image, crops, plan_slide, plan_whole

MODES: Final = ("slide", "whole")
MAX_WORKERS: Final = 8
PIXELS_ON_THE_WAY: Final = 100_000_000
_FAILURES_BEFORE_GIVING_UP = 3

K = TypeVar("K")
T = TypeVar("T")


class BatchFailedError(AlgmError):
    """The model cannot do one batch."""


class EngineFailedError(AlgmError):
    """The model cannot do any batch."""


@dataclass(frozen=True)
class PipelineOptions:
    """How pictures go through the model.

    Attributes:
        mode: "slide" (windows of the model's size over the picture) or "whole" (the picture resized to that size).
        stride: step of the windows in pixels; None takes the model card's.
        threshold: similarity at or above which a window of tokens merges; None takes the model card's.
        batch_size: windows that the model gets at a time.
        workers: threads that read, and as many that finish; None takes the number of cores, at most MAX_WORKERS.
    """

    mode: str = "slide"
    stride: int | None = None
    threshold: float | None = None
    batch_size: int = 1
    workers: int | None = None

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise UsageError(f"mode must be one of {', '.join(MODES)}, got {self.mode!r}")
        if self.mode == "whole" and self.stride is not None:
            raise UsageError("a stride makes sense in mode slide only")
        if self.threshold is not None and not np.isfinite(self.threshold):
            raise UsageError(f"threshold must be a finite number, got {self.threshold}")
        if self.batch_size < 1:
            raise UsageError(f"batch size must be at least 1, got {self.batch_size}")
        if self.workers is not None and self.workers < 1:
            raise UsageError(f"workers must be at least 1, got {self.workers}")

    @property
    def threads(self) -> int:
        """Number of threads that read, and of those that finish."""
        return self.workers or min(MAX_WORKERS, os.cpu_count() or 1)

    def check_against(self, card: ModelCard) -> None:
        """Compare with what the model can do.

        Raises:
            UsageError: a stride beyond the window, or a threshold for a model without merging.
        """
        if self.stride is not None and not 1 <= self.stride <= min(card.size):
            raise UsageError(f"stride must be between 1 and the window's {min(card.size)} pixels, got {self.stride}")
        if self.threshold is not None and card.merge is None:
            raise UsageError("this model was exported without merging: a threshold has no effect on it")

    def plan(self, source: tuple[int, int], card: ModelCard) -> WindowPlan:
        """Windows for a picture of `source` = (height, width) pixels."""
        if self.mode == "whole":
            return plan_whole(source, card.size)
        return plan_slide(source, card.size, self.stride or card.stride)


@dataclass(frozen=True)
class Item(Generic[K]):
    """One picture to come.

    Attributes:
        key: what the caller knows it by.
        load: returns (H, W, 3) uint8 RGB; runs in a thread, and what it raises fails this picture alone.
        size: returns height and width without decoding, or None if they cannot be told.
    """

    key: K
    load: Callable[[], NDArray[np.uint8]]
    size: Callable[[], tuple[int, int] | None]


@dataclass(frozen=True, eq=False)
class Inferred:
    """What the model said about one picture in n windows.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        plan: where the windows lie.
        logits: (n, K, gh, gw) float32.
        token_counts: (n, 3) int32.
        token_maps: (n, gh, gw) int32.
    """

    image: NDArray[np.uint8]
    plan: WindowPlan
    logits: NDArray[np.float32]
    token_counts: NDArray[np.int32]
    token_maps: NDArray[np.int32]


@dataclass(frozen=True)
class Outcome(Generic[K, T]):
    """One picture that is through: the value of the caller's last step, or the error that stopped it.

    `seconds` is the work on this picture: reading, its share of the model's batches, and the last step.
    """

    key: K
    value: T | None
    error: Exception | None
    seconds: float


def run_pipeline(
    engine: Engine, options: PipelineOptions, items: Iterable[Item[K]], finish: Callable[[K, Inferred], T]
) -> Generator[Outcome[K, T], None, None]:
    """Take pictures through a model.

    Args:
        engine: the model; it is called from the calling thread only.
        options: how.
        items: the pictures; taken one by one as there is room for them.
        finish: last step, run in a thread: what it raises fails this picture alone.

    Close the generator if it is left early: that waits for the threads.

    Yields:
        One outcome per item, in the order of the items.

    Raises:
        UsageError: options that the model cannot serve.
        EngineFailedError: the model raises for every batch.
    """
    options.check_against(engine.card)
    run = _Run(engine, options, finish)
    try:
        yield from run.outcomes(iter(items))
    finally:
        run.close()


@dataclass(frozen=True, eq=False)
class _Loaded:
    """A picture ready to be cut into windows."""

    image: NDArray[np.uint8]
    canvas: NDArray[np.uint8]
    plan: WindowPlan
    seconds: float


class _Picture(Generic[K, T]):
    """A picture on its way. The calling thread alone changes it.

    Attributes:
        cost: pixels that it is counted with.
        loading: until it is cut into windows.
        finishing: from when the model is through with it.
        error: what stopped it before the last step.
        seconds: work on it so far.
    """

    def __init__(self, item: Item[K], cost: int, loading: Future[_Loaded]):
        self.item = item
        self.cost = cost
        self.loading: Future[_Loaded] | None = loading
        self.finishing: Future[tuple[T, float]] | None = None
        self.error: Exception | None = None
        self.seconds = 0.0
        self._inferred: Inferred | None = None
        self._missing = 0

    def take_loaded(self) -> _Loaded:
        """Wait for the reader and release what it holds."""
        assert self.loading is not None
        loading, self.loading = self.loading, None
        loaded = loading.result()
        self.seconds += loaded.seconds
        self._missing = len(loaded.plan)
        return loaded

    def receive(self, loaded: _Loaded, index: int, output: EngineOutput, position: int) -> Inferred | None:
        """Store the model's output at `position` as window `index`; return the whole when it was the last window."""
        if self._inferred is None:
            windows = len(loaded.plan)
            self._inferred = Inferred(
                loaded.image,
                loaded.plan,
                *(
                    np.empty((windows, *values.shape[1:]), values.dtype)
                    for values in (output.logits, output.token_counts, output.token_map)
                ),
            )
        self._inferred.logits[index] = output.logits[position]
        self._inferred.token_counts[index] = output.token_counts[position]
        self._inferred.token_maps[index] = output.token_map[position]
        self._missing -= 1
        if self._missing:
            return None
        inferred, self._inferred = self._inferred, None
        return inferred

    def fail(self, error: Exception) -> None:
        self.error = error
        self.cost = 0
        self._inferred = None

    def outcome(self) -> Outcome[K, T]:
        """Wait for the last step."""
        if self.error is None:
            assert self.finishing is not None
            try:
                value, seconds = self.finishing.result()
                return Outcome(self.item.key, value, None, self.seconds + seconds)
            except Exception as error:
                self.error = error
        return Outcome(self.item.key, None, self.error, self.seconds)

    @property
    def is_through(self) -> bool:
        return self.error is not None or (self.finishing is not None and self.finishing.done())


@dataclass(frozen=True, eq=False)
class _Window(Generic[K, T]):
    """One window waiting for its batch."""

    picture: _Picture[K, T]
    loaded: _Loaded
    index: int
    crop: NDArray[np.uint8]


class _Run(Generic[K, T]):
    """The state of one call of `run_pipeline`.

    Waiting never blocks for ever: before the calling thread waits for a picture to leave, it runs the unfinished batch
    if that is what the picture needs; all others finish without it.
    """

    def __init__(self, engine: Engine, options: PipelineOptions, finish: Callable[[K, Inferred], T]):
        self.engine = engine
        self.options = options
        self.finish = finish
        # one batch being read, one in the model, one being finished
        self.places = 3 * options.batch_size + 2 * options.threads
        self.readers = ThreadPoolExecutor(options.threads, "algm-read")
        self.finishers = ThreadPoolExecutor(options.threads, "algm-finish")
        self.announced: deque[tuple[Item[K], Future[int]]] = deque()
        self.on_the_way: deque[_Picture[K, T]] = deque()
        self.to_cut: deque[_Picture[K, T]] = deque()
        self.batch: list[_Window[K, T]] = []
        self.buffer = np.empty((options.batch_size, *engine.card.size, 3), np.uint8)
        self.failures = 0
        self.any_success = False

    def outcomes(self, items: Iterator[Item[K]]) -> Iterator[Outcome[K, T]]:
        while True:
            self._announce(items)
            self._admit()
            if self.on_the_way and self.on_the_way[0].is_through:
                yield self._leave()
            elif self.to_cut:
                self._cut(self.to_cut.popleft())
            elif self.announced:
                self._infer_before(self.announced[0][1].result())
                if self.on_the_way:
                    self._infer_oldest()
                    yield self._leave()
            else:
                break
        self._infer()
        while self.on_the_way:
            yield self._leave()

    def close(self) -> None:
        """Drop what has not begun and wait for the rest."""
        for pool in (self.readers, self.finishers):
            pool.shutdown(wait=True, cancel_futures=True)

    def _announce(self, items: Iterator[Item[K]]) -> None:
        """Begin to read the headers of the next pictures."""
        for _ in range(self.places - len(self.announced) - len(self.to_cut)):
            item = next(items, None)
            if item is None:
                return
            self.announced.append((item, self.readers.submit(self._cost_of, item)))

    def _admit(self) -> None:
        """Begin to read the pictures there is room for, in order."""
        while self.announced and len(self.on_the_way) < self.places:
            item, header = self.announced[0]
            if self.to_cut and not header.done():
                return
            cost = header.result()
            if self.on_the_way and cost + sum(picture.cost for picture in self.on_the_way) > PIXELS_ON_THE_WAY:
                return
            self.announced.popleft()
            picture: _Picture[K, T] = _Picture(item, cost, self.readers.submit(self._load, item))
            self.on_the_way.append(picture)
            self.to_cut.append(picture)

    def _cost_of(self, item: Item[K]) -> int:
        """Pixels of the picture and, where it is resized, of its canvas; 0 where the header does not tell."""
        try:
            size = item.size()
            if size is None:
                return 0
            canvas = self.options.plan(size, self.engine.card).canvas
        except Exception:  # whatever it is, loading the picture meets it again and reports it
            return 0
        pixels = size[0] * size[1]
        return pixels if canvas == size else pixels + canvas[0] * canvas[1]

    def _load(self, item: Item[K]) -> _Loaded:
        begin = time.perf_counter()
        image = item.load()
        plan = self.options.plan((image.shape[0], image.shape[1]), self.engine.card)
        return _Loaded(image, canvas_image(image, plan), plan, time.perf_counter() - begin)

    def _cut(self, picture: _Picture[K, T]) -> None:
        """Put the picture's windows into batches, and run those that are full."""
        self._infer_before(picture.cost)
        try:
            loaded = picture.take_loaded()
        except Exception as error:
            picture.fail(error)
            return
        for index, crop in enumerate(crops(loaded.canvas, loaded.plan)):
            self.batch.append(_Window(picture, loaded, index, crop))
            if len(self.batch) == self.options.batch_size:
                self._infer()
            if picture.error:
                return

    def _infer_before(self, cost: int) -> None:
        """Run the batch as it is if its pictures and the next one would be too large together."""
        if self.batch and cost + sum({w.picture: w.picture.cost for w in self.batch}.values()) > PIXELS_ON_THE_WAY:
            self._infer()

    def _infer_oldest(self) -> None:
        """Run the batch as it is if the oldest picture is in it: those that failed behind it take all places."""
        if self.batch and self.batch[0].picture is self.on_the_way[0]:
            self._infer()

    def _infer(self) -> None:
        """Run the batch, whole or not, and send the pictures that it completes to the last step."""
        if not self.batch:
            return
        windows, self.batch = self.batch, []
        begin = time.perf_counter()
        try:
            output = self._run_engine(windows)
        except Exception as error:
            self._give_up_on(windows, error)
            return
        self.any_success = True
        share = (time.perf_counter() - begin) / len(windows)
        for position, window in enumerate(windows):
            picture = window.picture
            picture.seconds += share
            inferred = picture.receive(window.loaded, window.index, output, position)
            if inferred is not None:
                picture.finishing = self.finishers.submit(self._finish, picture.item.key, inferred)

    def _run_engine(self, windows: list[_Window[K, T]]) -> EngineOutput:
        for place, window in zip(self.buffer, windows, strict=False):
            place[:] = window.crop
        output = self.engine.run(self.buffer[: len(windows)], threshold=self.options.threshold)
        if not np.isfinite(output.logits).all():
            raise BatchFailedError("it gave values that are not finite numbers")
        return output

    def _give_up_on(self, windows: list[_Window[K, T]], error: Exception) -> None:
        """Fail the pictures of a batch; raise when the model seems not to work at all."""
        reason = " ".join(str(error).split()) or type(error).__name__
        self.failures += 1
        if not self.any_success and self.failures == _FAILURES_BEFORE_GIVING_UP:
            raise EngineFailedError(f"the model fails on every batch: {reason}") from error
        for window in windows:
            window.picture.fail(BatchFailedError(f"the model failed on a batch of {len(windows)} windows: {reason}"))

    def _finish(self, key: K, inferred: Inferred) -> tuple[T, float]:
        begin = time.perf_counter()
        value = self.finish(key, inferred)
        return value, time.perf_counter() - begin

    def _leave(self) -> Outcome[K, T]:
        """Take the oldest picture off the way, waiting for it if need be."""
        return self.on_the_way.popleft().outcome()
