"""Pictures through a model: decode, windows, batches across pictures, model, and a last step of the caller's choice.

The calling thread forms batches; reading, the model and finishing run in threads, the model in as many as its runner
has lanes. Two rules make a run repeatable: pictures enter and leave in order, and, as long as no batch fails, which
windows share a batch depends on the sizes of the pictures alone, never on timing.

Memory is bounded twice: by the number of pictures on their way, and by their pixels, counted from the file headers
before anything is decoded. A picture above that bound travels alone.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Final, Generic, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from algm_trt.plugins.errors import AlgmError
from algm_trt.runtime.engine import Engine, EngineClosedError
from algm_trt.runtime.pipeline_options import PipelineOptions
from algm_trt.runtime.window_runner import PictureScores, WindowRequest, runner_for
from algm_trt.runtime.windows import WindowPlan, canvas_image

PIXELS_ON_THE_WAY: Final = 100_000_000
_FAILURES_BEFORE_GIVING_UP = 3

K = TypeVar("K")
T = TypeVar("T")


class BatchFailedError(AlgmError):
    """The model cannot do one batch."""


class EngineFailedError(AlgmError):
    """The model cannot do any batch."""


class NoThreadError(AlgmError):
    """The system starts no more threads."""


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
        scores: the logits; released after the last step, which takes from them what it wants to keep.
        token_counts: (n, 3) int32.
        token_maps: (n, gh, gw) int32.
    """

    image: NDArray[np.uint8]
    plan: WindowPlan
    scores: PictureScores
    token_counts: NDArray[np.int32]
    token_maps: NDArray[np.int32]


@dataclass(frozen=True)
class Work:
    """Seconds of work on one picture, in all threads together.

    Attributes:
        decoding: from the file to pixels.
        cutting: from pixels to the canvas that windows are cut from, where the runner wants it.
        model: its share of the batches that its windows were in.
        finishing: the caller's last step.
    """

    decoding: float = 0.0
    cutting: float = 0.0
    model: float = 0.0
    finishing: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(
            self.decoding + other.decoding,
            self.cutting + other.cutting,
            self.model + other.model,
            self.finishing + other.finishing,
        )

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.decoding + self.cutting + self.model + self.finishing


@dataclass(frozen=True)
class Outcome(Generic[K, T]):
    """One finished picture.

    Attributes:
        key: of its item.
        value: what the caller's last step returned; None where an error stopped it.
        error: what stopped it, or None.
        work: seconds spent on it.
    """

    key: K
    value: T | None
    error: Exception | None
    work: Work

    def result(self) -> T:
        """The value.

        Raises:
            Exception: what stopped it.
        """
        if self.error is not None:
            try:
                raise self.error
            finally:
                del self  # the error, which knows this frame, would keep itself; see `_failure`
        return cast("T", self.value)


def run_pipeline(
    engine: Engine, options: PipelineOptions, items: Iterable[Item[K]], finish: Callable[[K, Inferred], T]
) -> Outcomes[K, T]:
    """Run pictures through a model.

    Args:
        engine: the model; it is called from threads of its own, from one at a time unless its runner has more lanes.
        options: how.
        items: the pictures; taken one by one as there is room for them.
        finish: last step, run in a thread: what it raises fails this picture alone.

    Returns:
        One outcome per item, in the order of the items.

    Raises:
        UsageError: options that the model cannot serve.
    """
    options.check_against(engine.card)
    return Outcomes(_Run(engine, options, finish), iter(items))


class Outcomes(Iterator[Outcome[K, T]]):
    """The outcomes of a run, as they are ready.

    Close them if they are left early: that waits for the threads. Where they are dropped instead, nothing is waited
    for: the garbage collector drops them in whichever thread it runs, while that holds whatever lock.
    """

    def __init__(self, run: _Run[K, T], items: Iterator[Item[K]]) -> None:
        self._run: _Run[K, T] | None = run
        self._outcomes = run.outcomes(items)

    def __next__(self) -> Outcome[K, T]:
        """The next one.

        Raises:
            EngineFailedError: the model raises for every batch.
            EngineClosedError: the model is closed.
            NoThreadError: the system starts no thread, by its limit of processes or of memory.
        """
        if self._run is None:
            raise StopIteration
        try:
            return next(self._outcomes)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Cancel what has not begun and wait for the rest."""
        run, self._run = self._run, None
        if run is not None:
            self._outcomes.close()
            run.close()

    def __del__(self) -> None:
        if self._run is not None:
            self._run.close(wait=False)


@dataclass(frozen=True, eq=False)
class _Loaded:
    """A picture ready to be cut into windows.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        canvas: the resized picture, as the runner placed it.
        plan: where the windows lie.
        scores: where their logits go.
        work: so far.
    """

    image: NDArray[np.uint8]
    canvas: Any
    plan: WindowPlan
    scores: PictureScores
    work: Work


class _Picture(Generic[K, T]):
    """A picture on its way. The calling thread alone changes it.

    Attributes:
        cost: pixels that it is counted with.
        loading: until it is cut into windows.
        finishing: from when the model is done with it.
        error: what stopped it before the last step.
        work: on it so far.
    """

    def __init__(self, item: Item[K], cost: int, loading: Future[_Loaded]):
        self.item = item
        self.cost = cost
        self.loading: Future[_Loaded] | None = loading
        self.finishing: Future[tuple[T, float]] | None = None
        self.error: Exception | None = None
        self.work = Work()
        self._inferred: Inferred | None = None
        self._missing = 0

    def take_loaded(self) -> _Loaded | None:
        """Wait for the reader and release what it holds; None where it failed, which is noted."""
        assert self.loading is not None
        loading, self.loading = self.loading, None
        error = _failure(loading)
        if error is not None:
            self.fail(error)
            return None
        loaded = loading.result()
        self.work = loaded.work
        self._missing = len(loaded.plan)
        return loaded

    def receive(
        self, window: _Window[K, T], counts: NDArray[np.int32], token_map: NDArray[np.int32], seconds: float
    ) -> Inferred | None:
        """Store what the model said about a window; return the whole when it was the last one.

        Args:
            window: of this picture; its logits are in the scores already.
            counts: (3,) int32.
            token_map: (gh, gw) int32.
            seconds: the window's share of its batch.
        """
        self.work = replace(self.work, model=self.work.model + seconds)
        if self.error is not None:
            return None
        if self._inferred is None:
            loaded, windows = window.loaded, len(window.loaded.plan)
            self._inferred = Inferred(
                loaded.image,
                loaded.plan,
                loaded.scores,
                *(np.empty((windows, *values.shape), values.dtype) for values in (counts, token_map)),
            )
        self._inferred.token_counts[window.index] = counts
        self._inferred.token_maps[window.index] = token_map
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
            self.error = _failure(self.finishing)
            if self.error is None:
                value, seconds = self.finishing.result()
                return Outcome(self.item.key, value, None, replace(self.work, finishing=seconds))
        return Outcome(self.item.key, None, self.error, self.work)

    @property
    def is_inferred(self) -> bool:
        """Whether the model has nothing more to do with it."""
        return self.error is not None or self.finishing is not None

    @property
    def is_through(self) -> bool:
        return self.error is not None or (self.finishing is not None and self.finishing.done())


@dataclass(frozen=True, eq=False)
class _Window(Generic[K, T]):
    """One window waiting for its batch, or in it."""

    picture: _Picture[K, T]
    loaded: _Loaded
    index: int

    @property
    def request(self) -> WindowRequest:
        return WindowRequest(self.loaded.canvas, self.loaded.plan, self.index, self.loaded.scores)


@dataclass(frozen=True)
class _BatchOutput:
    """What the model said about a batch: (B, 3) and (B, gh, gw) int32, and the seconds that it took."""

    token_counts: NDArray[np.int32]
    token_map: NDArray[np.int32]
    seconds: float


class _Run(Generic[K, T]):
    """The state of one call of `run_pipeline`.

    Waiting never blocks forever: before the calling thread waits for a picture to leave, it runs the unfinished batch
    if that is what the picture needs; all others finish without it.
    """

    def __init__(self, engine: Engine, options: PipelineOptions, finish: Callable[[K, Inferred], T]):
        self.engine = engine
        self.options = options
        self.finish = finish
        self.runner = runner_for(engine, options.batch_size)
        threads = options.threads
        # batches being read, waiting for the model, in each lane of it, and being finished
        self.places = (2 + 2 * self.runner.lanes) * options.batch_size + 2 * threads
        self.readers = ThreadPoolExecutor(threads, "algm-read")
        self.models = ThreadPoolExecutor(self.runner.lanes, "algm-model")
        self.finishers = ThreadPoolExecutor(threads, "algm-finish")
        self.announced: deque[tuple[Item[K], Future[int]]] = deque()
        self.on_the_way: deque[_Picture[K, T]] = deque()
        self.to_cut: deque[_Picture[K, T]] = deque()
        self.batch: list[_Window[K, T]] = []
        self.running: deque[tuple[list[_Window[K, T]], Future[_BatchOutput]]] = deque()
        self.failures = 0
        self.any_success = False

    def outcomes(self, items: Iterator[Item[K]]) -> Generator[Outcome[K, T], None, None]:
        while True:
            self._announce(items)
            self._admit()
            if self.on_the_way and self.on_the_way[0].is_through:
                yield self._leave()
            elif self.to_cut:
                self._cut(self.to_cut.popleft())
            elif self.announced:
                self._infer_before(self.announced[0][1].result())
                self._infer_oldest()
                yield self._leave()
            else:
                break
        self._infer()
        while self.on_the_way:
            yield self._leave()

    def close(self, wait: bool = True) -> None:
        """Cancel what has not begun."""
        for pool in (self.readers, self.models, self.finishers):
            pool.shutdown(wait=wait, cancel_futures=True)

    def _announce(self, items: Iterator[Item[K]]) -> None:
        """Begin to read the headers of the next pictures."""
        for _ in range(self.places - len(self.announced) - len(self.to_cut)):
            item = next(items, None)
            if item is None:
                return
            self.announced.append((item, _begin(self.readers, self._cost_of, item)))

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
            picture: _Picture[K, T] = _Picture(item, cost, _begin(self.readers, self._load, item))
            self.on_the_way.append(picture)
            self.to_cut.append(picture)

    def _cost_of(self, item: Item[K]) -> int:
        """Pixels of the picture and, where it is resized, of its canvas; 0 where the header does not say."""
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
        decoded = time.perf_counter()
        plan = self.options.plan((image.shape[0], image.shape[1]), self.engine.card)
        canvas = self.runner.place(canvas_image(image, plan))
        work = Work(decoding=decoded - begin, cutting=time.perf_counter() - decoded)
        return _Loaded(image, canvas, plan, self.runner.room(plan), work)

    def _cut(self, picture: _Picture[K, T]) -> None:
        """Put the picture's windows into batches, and run those that are full."""
        self._infer_before(picture.cost)
        loaded = picture.take_loaded()
        if loaded is None:
            return
        for index in range(len(loaded.plan)):
            self.batch.append(_Window(picture, loaded, index))
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
        if any(window.picture is self.on_the_way[0] for window in self.batch):
            self._infer()

    def _infer(self) -> None:
        """Give the batch, whole or not, to the model; behind each that is in a lane of it one may wait."""
        if not self.batch:
            return
        windows, self.batch = self.batch, []
        self.running.append((windows, _begin(self.models, self._run_batch, windows)))
        while len(self.running) > 2 * self.runner.lanes:
            self._collect()

    def _collect(self) -> None:
        """Wait for the oldest batch, and send the pictures that it completes to the last step."""
        windows, running = self.running.popleft()
        error = _failure(running)
        if error is not None:
            self._give_up_on(windows, error)
            return
        output = running.result()
        self.any_success = True
        share = output.seconds / len(windows)
        for window, counts, token_map in zip(windows, output.token_counts, output.token_map, strict=True):
            picture = window.picture
            inferred = picture.receive(window, counts, token_map, share)
            if inferred is not None:
                picture.finishing = _begin(self.finishers, self._finish, picture.item.key, inferred)

    def _run_batch(self, windows: list[_Window[K, T]]) -> _BatchOutput:
        begin = time.perf_counter()
        counts, token_map = self.runner.run([window.request for window in windows], self.options.threshold)
        return _BatchOutput(counts, token_map, time.perf_counter() - begin)

    def _give_up_on(self, windows: list[_Window[K, T]], error: Exception) -> None:
        """Fail the pictures of a batch; raise when the model is closed, or seems not to work at all."""
        if isinstance(error, EngineClosedError):
            raise error
        reason = " ".join(str(error).split()) or type(error).__name__
        self.failures += 1
        if not self.any_success and self.failures == _FAILURES_BEFORE_GIVING_UP:
            raise EngineFailedError(f"the model fails on every batch: {reason}") from error
        for window in windows:
            window.picture.fail(BatchFailedError(f"the model failed on a batch of {len(windows)} windows: {reason}"))

    def _finish(self, key: K, inferred: Inferred) -> tuple[T, float]:
        begin = time.perf_counter()
        try:
            value = self.finish(key, inferred)
        finally:
            inferred.scores.release()
        return value, time.perf_counter() - begin

    def _leave(self) -> Outcome[K, T]:
        """Take the oldest picture off the way, waiting for it if need be."""
        picture = self.on_the_way[0]
        while not picture.is_inferred:
            self._collect()
        self.on_the_way.popleft()
        return picture.outcome()


def _begin(pool: ThreadPoolExecutor, work: Callable[..., T], *arguments: Any) -> Future[T]:
    """Have work done in a pool, which starts its threads as they are needed."""
    try:
        return pool.submit(work, *arguments)
    except RuntimeError as error:
        if "interpreter shutdown" in str(error):
            raise NoThreadError("Python is coming to its end: no more pictures can be segmented") from error
        if "start new thread" not in str(error):
            raise
        raise NoThreadError(
            "the system starts no more threads: raise its limit of processes or of memory, or take fewer workers"
        ) from error


def _failure(future: Future[Any]) -> Exception | None:
    """Wait for work; what it raised, if anything, which is not raised again.

    Raised, the error would know the frames here, and they know the error: the picture, whose pixels the frames of the
    work hold, would stay in memory until Python looks for such cycles.
    """
    error = future.exception()
    if error is None or isinstance(error, Exception):
        return error
    raise error
