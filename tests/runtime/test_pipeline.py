"""The pipeline: order, batches, bounds, and failures that stay where they belong."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from helpers.fake_engine import FakeEngine, color_picture, make_card
from numpy.typing import NDArray

from algm_trt.plugins.errors import UsageError
from algm_trt.runtime import pipeline
from algm_trt.runtime.decode import DecodeError
from algm_trt.runtime.engine import EngineClosedError, EngineOutput
from algm_trt.runtime.field import LogitField
from algm_trt.runtime.pipeline import EngineFailedError, Inferred, Item, NoThreadError, Outcome, run_pipeline
from algm_trt.runtime.pipeline_options import PipelineOptions
from algm_trt.runtime.window_runner import HostScores, HostWindowRunner, WindowRequest
from algm_trt.runtime.windows import WindowPlan, plan_slide

PICTURE = color_picture(32, 32)
SIZES = [(32, 32), (70, 101), (1, 1), (20, 90), (33, 32), (128, 40), (7, 3), (31, 31)]


def item(key: Any, picture: NDArray[np.uint8]) -> Item[Any]:
    return Item(key, load=lambda: picture, size=lambda: picture.shape[:2])


def labels_of(_: Any, inferred: Inferred) -> NDArray[Any]:
    return LogitField(inferred.plan, inferred.scores.logits(), 8).labels()


def pictures() -> list[NDArray[np.uint8]]:
    return [color_picture(*size, seed) for seed, size in enumerate(SIZES)]


def run(
    engine: FakeEngine,
    items: list[Item[Any]] | Iterator[Item[Any]],
    finish: Callable[[Any, Inferred], Any] = labels_of,
    **options: Any,
) -> list[Outcome[Any, Any]]:
    return list(run_pipeline(engine, PipelineOptions(**options), items, finish))


def test_every_picture_comes_out_in_order_at_its_size() -> None:
    outcomes = run(FakeEngine(), [item(index, picture) for index, picture in enumerate(pictures())])
    assert [outcome.key for outcome in outcomes] == list(range(len(SIZES)))
    assert [outcome.value.shape for outcome in outcomes] == SIZES
    assert all(outcome.error is None for outcome in outcomes)
    for work in (outcome.work for outcome in outcomes):
        stages = (work.decoding, work.cutting, work.model, work.finishing)
        assert min(stages) > 0
        assert work.seconds == sum(stages)


@pytest.mark.parametrize("batch_size", [2, 3, 8, 64])
@pytest.mark.parametrize("mode", ["slide", "whole"])
def test_results_do_not_depend_on_batches_or_order(batch_size: int, mode: str) -> None:
    def everything(_: Any, inferred: Inferred) -> tuple[NDArray[Any], ...]:
        return inferred.scores.logits(), inferred.token_counts, inferred.token_maps

    alone = [run(FakeEngine(), [item(0, picture)], everything, mode=mode)[0].value for picture in pictures()]
    order = np.random.default_rng(batch_size).permutation(len(SIZES))
    mixed = run(
        FakeEngine(),
        [item(index, pictures()[index]) for index in order],
        everything,
        mode=mode,
        batch_size=batch_size,
        workers=3,
    )
    for outcome in mixed:
        for value, expected in zip(outcome.value, alone[outcome.key], strict=True):
            assert np.array_equal(value, expected)


def test_windows_of_several_pictures_share_full_batches() -> None:
    engine = FakeEngine()
    run(engine, [item(index, color_picture(32, 32)) for index in range(11)], batch_size=4)
    assert engine.batches == [4, 4, 3]


def test_batches_are_the_same_whatever_the_timing() -> None:
    batches = []
    for seed in range(3):
        engine = FakeEngine()
        rng = np.random.default_rng(seed)

        def slow_item(index: int, picture: NDArray[np.uint8], delay: float) -> Item[int]:
            def load() -> NDArray[np.uint8]:
                time.sleep(delay)
                return picture

            return Item(index, load, size=lambda: (picture.shape[0], picture.shape[1]))

        items = [slow_item(i, picture, rng.uniform(0, 0.02)) for i, picture in enumerate(pictures())]
        run(engine, items, batch_size=5, workers=4)
        batches.append(engine.batches)
    assert batches[0] == batches[1] == batches[2]
    assert set(batches[0][:-1]) == {5}


def test_options_reach_the_model() -> None:
    engine = FakeEngine()
    run(engine, [item(0, color_picture(70, 70))], threshold=0.5, stride=32)
    assert engine.thresholds[0] == 0.5
    assert len(engine.batches) == 9
    run(engine, [item(0, color_picture(70, 70))], mode="whole")
    assert engine.thresholds[-1] is None
    assert len(engine.batches) == 10


@pytest.mark.parametrize(
    "options",
    [
        {"mode": "tile"},
        {"mode": "whole", "stride": 8},
        {"stride": 0},
        {"stride": 33},
        {"batch_size": 0},
        {"workers": 0},
        {"threshold": float("nan")},
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        run(FakeEngine(), [], **options)


def test_a_threshold_for_a_dense_model_is_refused() -> None:
    with pytest.raises(UsageError, match="without merging"):
        run(FakeEngine(make_card(merge=False)), [], threshold=0.9)


def test_a_picture_that_fails_does_not_stop_the_others() -> None:
    def broken() -> NDArray[np.uint8]:
        raise DecodeError("the file is truncated")

    def finish(key: int, inferred: Inferred) -> int:
        if key == 2:
            raise OSError("disk full")
        return key

    picture = color_picture(40, 40)
    items = [item(0, picture), Item(1, broken, lambda: None), item(2, picture), item(3, picture)]
    outcomes = run(FakeEngine(), items, finish, batch_size=3)
    assert [outcome.value for outcome in outcomes] == [0, None, None, 3]
    assert [str(outcome.error) for outcome in outcomes[1:3]] == ["the file is truncated", "disk full"]


def test_a_canvas_too_large_fails_the_picture_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("algm_trt.runtime.windows.MAX_CANVAS_PIXELS", 10_000)
    outcomes = run(FakeEngine(), [item(0, color_picture(1, 400)), item(1, color_picture(32, 32))])
    assert "use --mode whole" in str(outcomes[0].error)
    assert outcomes[1].error is None


def test_a_batch_that_the_model_fails_on_fails_its_pictures_alone() -> None:
    def marked(red: int) -> NDArray[np.uint8]:
        return np.full((32, 32, 3), red, np.uint8)

    items = [item(red, marked(red)) for red in (1, 2, 13, 4, 5, 6)]
    outcomes = run(FakeEngine(fail_on=13), items, batch_size=2)
    assert [outcome.key for outcome in outcomes if outcome.error] == [13, 4]
    assert str(outcomes[2].error) == "the model failed on a batch of 2 windows: the fake engine fails on purpose"


@pytest.mark.parametrize("failing", ["reading", "model", "finishing"])
def test_a_failed_picture_leaves_memory_without_the_garbage_collector(failing: str) -> None:
    pixels: list[weakref.ref[NDArray[np.uint8]]] = []

    def load() -> NDArray[np.uint8]:
        picture = np.full((32, 32, 3), len(pixels), np.uint8)
        pixels.append(weakref.ref(picture))
        if failing == "reading" and len(pixels) > 1:
            raise DecodeError("the file is truncated")
        return picture

    def finish(index: int, inferred: Inferred) -> int:
        if failing == "finishing" and index:
            raise OSError("disk full")
        return len(inferred.image)

    engine = FakeEngine(fail_on=1 if failing == "model" else None)
    gc.disable()
    try:
        items = (Item(index, load=load, size=lambda: (32, 32)) for index in range(2))
        outcomes = run_pipeline(engine, PipelineOptions(workers=1), items, finish)
        assert [outcome.error is None for outcome in outcomes] == [True, False]
        assert [pixel() for pixel in pixels] == [None, None]
    finally:
        gc.enable()


def test_a_large_picture_stops_at_its_first_failing_batch() -> None:
    engine = FakeEngine(fail_on=13)
    picture = np.full((200, 200, 3), 13, np.uint8)
    outcomes = run(engine, [item(0, color_picture(32, 32)), item(1, picture), item(2, color_picture(32, 32))])
    assert [outcome.error is None for outcome in outcomes] == [True, False, True]
    # the batch that fails, and what was on its way to the model behind it: far from all 64 windows
    assert 3 <= len(engine.batches) <= 5


def test_a_model_that_never_works_ends_the_run() -> None:
    engine = FakeEngine(fail_on=13)
    items = (item(index, np.full((32, 32, 3), 13, np.uint8)) for index in range(10_000))
    with pytest.raises(EngineFailedError, match="on every batch: the fake engine fails on purpose"):
        run(engine, items)
    assert 3 <= len(engine.batches) <= 5  # two may be on their way behind the third


def test_values_that_are_no_numbers_are_a_failure() -> None:
    class BrokenEngine(FakeEngine):
        def run(self, images: NDArray[np.uint8], threshold: float | None = None) -> EngineOutput:
            output = super().run(images, threshold)
            output.logits[0, 0, 0, 0] = np.nan
            return output

    (outcome,) = run(BrokenEngine(), [item(0, color_picture(32, 32))])
    assert "not finite" in str(outcome.error)


class Gauge:
    """Counts the pictures between load and outcome."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.now = 0
        self.most = 0

    def add(self, amount: int) -> None:
        with self.lock:
            self.now += amount
            self.most = max(self.most, self.now)


@pytest.mark.parametrize("slow", ["finish", "engine", "load", "consumer"])
def test_the_number_of_pictures_on_their_way_is_bounded(slow: str) -> None:
    gauge = Gauge()
    taken = 0

    def load() -> NDArray[np.uint8]:
        gauge.add(1)
        time.sleep(0.002 * (slow == "load"))
        return np.zeros((32, 32, 3), np.uint8)

    def finish(key: int, inferred: Inferred) -> int:
        time.sleep(0.002 * (slow == "finish"))
        return key

    class SlowEngine(FakeEngine):
        def run(self, images: NDArray[np.uint8], threshold: float | None = None) -> EngineOutput:
            time.sleep(0.002 * (slow == "engine"))
            return super().run(images, threshold)

    def items() -> Iterator[Item[int]]:
        nonlocal taken
        for index in range(300):
            taken += 1
            yield Item(index, load, lambda: (32, 32))

    options = PipelineOptions(batch_size=2, workers=2)
    places = 4 * 2 + 2 * 2
    seen = 0
    for outcome in run_pipeline(SlowEngine(), options, items(), finish):
        assert outcome.value == seen
        seen += 1
        assert taken <= seen + 2 * places
        time.sleep(0.001 * (slow == "consumer"))
        gauge.add(-1)
    assert seen == 300
    assert gauge.most <= places + 1


def test_the_pixels_on_their_way_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "PIXELS_ON_THE_WAY", 10_000)
    sides = [60, 60, 60, 90, 32, 200, 32, 32, 300, 40, 60, 60]
    present: dict[int, int] = {}
    too_many = []

    def sized(index: int, side: int) -> Item[int]:
        def load() -> NDArray[np.uint8]:
            present[index] = side * side
            if len(present) > 1 and sum(present.values()) > 10_000:
                too_many.append(dict(present))
            return np.zeros((side, side, 3), np.uint8)

        return Item(index, load, lambda: (side, side))

    for batch_size in (1, 4, 32):
        items = (sized(index, side) for index, side in enumerate(sides))
        outcomes = run_pipeline(FakeEngine(), PipelineOptions(batch_size=batch_size, workers=4), items, labels_of)
        for outcome in outcomes:
            assert outcome.value is not None
            del present[outcome.key]
    assert too_many == []


@pytest.mark.parametrize("seed", range(12))
def test_no_mix_of_sizes_speeds_and_bounds_gets_stuck(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(seed)
    monkeypatch.setattr(pipeline, "PIXELS_ON_THE_WAY", int(rng.integers(1_000, 30_000)))

    def sized(index: int) -> Item[int]:
        side, delay, known = int(rng.integers(1, 150)), rng.uniform(0, 0.003), rng.random() < 0.8

        def load() -> NDArray[np.uint8]:
            time.sleep(delay)
            if index % 11 == 3:
                raise DecodeError("broken")
            return np.zeros((side, side, 3), np.uint8)

        return Item(index, load, lambda: (side, side) if known else None)

    def finish(key: int, inferred: Inferred) -> int:
        time.sleep(0.002 * (key % 3))
        return key

    items = [sized(index) for index in range(60)]
    outcomes = run(FakeEngine(), items, finish, batch_size=int(rng.integers(1, 12)), workers=int(rng.integers(1, 6)))
    assert [outcome.key for outcome in outcomes] == list(range(60))
    assert [outcome.key for outcome in outcomes if outcome.error] == list(range(3, 60, 11))


def test_many_failures_behind_a_waiting_picture_do_not_block_it() -> None:
    def broken() -> NDArray[np.uint8]:
        raise DecodeError("broken")

    items = [item(0, color_picture(32, 32)), *(Item(key, broken, lambda: None) for key in range(1, 200))]
    outcomes = run(FakeEngine(), items, batch_size=2)
    assert [outcome.error is None for outcome in outcomes] == [True] + [False] * 199


def test_pictures_of_unknown_size_pass() -> None:
    outcomes = run(FakeEngine(), [Item(0, lambda: color_picture(50, 50), lambda: None)])
    assert outcomes[0].value.shape == (50, 50)


def test_a_size_that_cannot_be_told_fails_nothing() -> None:
    def size() -> tuple[int, int]:
        raise RuntimeError("odd header")

    assert run(FakeEngine(), [Item(0, lambda: color_picture(50, 50), size)])[0].error is None


def test_no_pictures_are_no_outcomes() -> None:
    assert run(FakeEngine(), []) == []


@pytest.mark.parametrize("name", ["algm-read", "algm-model", "algm-finish"])
def test_a_system_without_threads_is_a_message(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name.startswith(name):
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(NoThreadError, match=r"starts no more threads: raise its limit"):
        run(FakeEngine(), [item(index, picture) for index, picture in enumerate(pictures())])
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("algm-")]


def test_closing_early_stops_the_threads_and_drops_the_rest() -> None:
    loaded = []

    def load(index: int) -> NDArray[np.uint8]:
        loaded.append(index)
        return np.zeros((32, 32, 3), np.uint8)

    items = (Item(index, lambda index=index: load(index), lambda: (32, 32)) for index in range(1000))
    outcomes = run_pipeline(FakeEngine(), PipelineOptions(workers=2), items, labels_of)
    next(outcomes)
    outcomes.close()
    count = len(loaded)
    assert count < 20
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("algm-")]
    assert len(loaded) == count


def test_outcomes_that_are_dropped_end_their_threads_and_wait_for_nothing() -> None:
    """The garbage collector drops them in any thread, also in one that holds what theirs wait for."""
    first, go_on = threading.Event(), threading.Event()

    class StuckEngine(FakeEngine):
        def run(self, images: NDArray[np.uint8], threshold: float | None = None) -> EngineOutput:
            if first.is_set():
                go_on.wait(60)
            first.set()
            return super().run(images, threshold)

    outcomes = run_pipeline(StuckEngine(), PipelineOptions(workers=1), [item(n, PICTURE) for n in range(2)], labels_of)
    assert next(outcomes).error is None
    cycle = [outcomes]
    cycle.append(cycle)  # type: ignore[arg-type]
    del outcomes, cycle
    begin = time.monotonic()
    gc.collect()
    assert time.monotonic() - begin < 5
    go_on.set()
    end = time.monotonic() + 60
    while any(thread.name.startswith("algm-") for thread in threading.enumerate()):
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_closed_model_says_so_and_nothing_else() -> None:
    class ClosedEngine(FakeEngine):
        def run(self, images: NDArray[np.uint8], threshold: float | None = None) -> EngineOutput:
            raise EngineClosedError("the engine is closed")

    with pytest.raises(EngineClosedError, match=r"^the engine is closed$"):
        run(ClosedEngine(), [item(0, PICTURE)])


def test_pictures_after_the_end_of_the_main_thread_are_an_error() -> None:
    program = (
        "import threading\n"
        "from algm_trt.engines.sample import SAMPLE_MODEL, recorded\n"
        "from algm_trt.runtime import load\n"
        "segmenter, picture = load(SAMPLE_MODEL), recorded().images[0]\n"
        "def late():\n"
        "    threading.main_thread().join()\n"
        "    try:\n"
        "        segmenter(picture)\n"
        "    except Exception as error:\n"
        "        print(type(error).__name__, error, flush=True)\n"
        "threading.Thread(target=late).start()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    said = "NoThreadError Python is coming to its end: no more pictures can be segmented\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, said, "")


def test_an_interrupt_in_the_model_ends_the_run() -> None:
    class InterruptedEngine(FakeEngine):
        def run(self, images: NDArray[np.uint8], threshold: float | None = None) -> EngineOutput:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(InterruptedEngine(), [item(0, color_picture(32, 32))])
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("algm-")]


def test_first_windows_of_a_picture_from_two_lanes_are_both_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is made for the scores of a picture is made once, also where the first two windows come together."""
    card = FakeEngine().card
    plan = plan_slide((32, 56), card.size, card.stride)
    assert len(plan) == 2
    make = np.empty

    def slowly(*arguments: Any, **options: Any) -> Any:
        time.sleep(0.05)
        return make(*arguments, **options)

    monkeypatch.setattr(np, "empty", slowly)
    scores, together = HostScores(plan, card), threading.Barrier(2)

    def put(index: int) -> None:
        together.wait(10)
        scores.put(index, np.full((len(card.classes), *card.grid), index, np.float32))

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(put, range(2)))
    assert [set(window.ravel()) for window in scores.logits()] == [{0.0}, {1.0}]


class LaneScores(HostScores):
    """Scores that tell whether they were released."""

    released = False

    def release(self) -> None:
        assert not self.released
        self.released = True


class LaneRunner(HostWindowRunner):
    """Two lanes that only go on together, for as long as there are two batches."""

    def __init__(self, engine: Lanes, batch_size: int):
        super().__init__(engine, batch_size)
        self.lanes = 2
        self.engine = engine
        self.together = threading.Barrier(2)
        self.rooms: list[LaneScores] = []

    def room(self, plan: WindowPlan) -> LaneScores:
        self.rooms.append(LaneScores(plan, self.engine.card))
        return self.rooms[-1]

    def run(self, requests: Sequence[WindowRequest], threshold: float | None) -> Any:
        try:
            self.together.wait(2)
            self.engine.meetings += 1
        except threading.BrokenBarrierError:
            pass  # the last batch of an odd number is alone
        return super().run(requests, threshold)


class Lanes(FakeEngine):
    """An engine with a runner of its own."""

    usual_batch = 4
    meetings = 0

    def window_runner(self, batch_size: int) -> LaneRunner:
        self.runner = LaneRunner(self, batch_size)
        return self.runner


def test_lanes_run_at_the_same_time_and_change_no_result() -> None:
    expected = run(FakeEngine(), [item(index, picture) for index, picture in enumerate(pictures())])
    engine = Lanes()
    found = run(engine, [item(index, picture) for index, picture in enumerate(pictures())], batch_size=3)
    assert engine.meetings >= 2
    assert [outcome.key for outcome in found] == [outcome.key for outcome in expected]
    for ours, theirs in zip(found, expected, strict=True):
        assert np.array_equal(ours.value, theirs.value)
    assert all(scores.released for scores in engine.runner.rooms)


class Meeting(FakeEngine):
    """An engine without a runner of its own, of which two calls only go on together."""

    lanes = 2

    def __init__(self) -> None:
        super().__init__()
        self.together = threading.Barrier(2)

    def run(self, images: NDArray[np.uint8], threshold: float | None = None) -> EngineOutput:
        self.together.wait(10)
        return super().run(images, threshold)


def test_an_engine_with_lanes_is_called_by_as_many_threads() -> None:
    given = pictures()[:2] * 3
    expected = run(FakeEngine(), [item(index, picture) for index, picture in enumerate(given)], mode="whole")
    found = run(Meeting(), [item(index, picture) for index, picture in enumerate(given)], mode="whole")
    for ours, theirs in zip(found, expected, strict=True):
        assert np.array_equal(ours.value, theirs.value)


def test_a_failing_batch_spares_the_pictures_of_the_other_lane() -> None:
    engine = Lanes(fail_on=13)
    bad = np.full((32, 32, 3), 13, np.uint8)
    given = [color_picture(32, 32, 1), bad, color_picture(32, 32, 2), color_picture(32, 32, 3)]
    outcomes = run(engine, [item(index, picture) for index, picture in enumerate(given)])
    assert [outcome.error is None for outcome in outcomes] == [True, False, True, True]
    assert str(outcomes[1].error) == "the model failed on a batch of 1 windows: the fake engine fails on purpose"


def test_scores_are_released_when_the_last_step_fails() -> None:
    def broken(_: Any, inferred: Inferred) -> None:
        raise OSError("disk full")

    engine = Lanes()
    outcomes = run(engine, [item(0, color_picture(40, 40))], broken)
    assert isinstance(outcomes[0].error, OSError)
    assert [scores.released for scores in engine.runner.rooms] == [True]
