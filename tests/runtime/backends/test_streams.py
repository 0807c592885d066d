"""Streams: work side by side, in order, and what becomes of it when something fails or is closed."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from algm_trt.runtime.backends import streams as module
from algm_trt.runtime.backends.streams import UNASKED_STREAMS, Streams, shared_threads
from algm_trt.runtime.engine import EngineClosedError, EngineError

PATIENCE = 10.0


@pytest.mark.parametrize(
    ("streams", "threads", "shared"),
    [
        (1, None, (1, None)),
        (1, 6, (1, 6)),
        (2, 6, (2, 3)),
        (4, 6, (4, 1)),
        (8, 2, (8, 1)),
        (None, 1, (1, 1)),
        (None, 3, (3, 1)),
        (None, 32, (UNASKED_STREAMS, 4)),
        (2, None, (2, 6)),
        (None, None, (UNASKED_STREAMS, 1)),
    ],
)
def test_threads_are_shared_out(
    monkeypatch: pytest.MonkeyPatch, streams: int | None, threads: int | None, shared: tuple[int, int | None]
) -> None:
    monkeypatch.setattr(module, "physical_cores", lambda: 12)
    monkeypatch.setattr(module, "restricted", lambda: False)
    assert shared_threads(streams, threads) == shared


def test_a_single_core_leaves_its_thread_to_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "physical_cores", lambda: 1)
    monkeypatch.setattr(module, "restricted", lambda: False)
    assert shared_threads(None, None) == (1, None)


@pytest.mark.parametrize(
    ("streams", "threads", "shared"),
    [(1, None, (1, 3)), (None, None, (3, 1)), (2, None, (2, 1)), (1, 8, (1, 8)), (None, 4, (4, 1))],
)
def test_a_limited_container_is_not_left_to_the_library(
    monkeypatch: pytest.MonkeyPatch, streams: int | None, threads: int | None, shared: tuple[int, int]
) -> None:
    monkeypatch.setattr(module, "physical_cores", lambda: 3)
    monkeypatch.setattr(module, "restricted", lambda: True)
    assert shared_threads(streams, threads) == shared


def test_work_runs_side_by_side_and_comes_back_in_order() -> None:
    together = threading.Barrier(3)

    def work(place: str, index: int) -> tuple[str, int]:
        together.wait(PATIENCE)
        time.sleep(0.01 * (3 - index % 3))
        return place, index

    found = Streams(["a", "b", "c"]).map(work, 6)
    assert [index for _, index in found] == list(range(6))
    assert {place for place, _ in found} == {"a", "b", "c"}


def test_no_stream_does_two_things_at_once() -> None:
    streams = Streams([threading.Lock(), threading.Lock()])

    def work(place: threading.Lock, index: int) -> int:
        assert place.acquire(blocking=False)
        time.sleep(0.001)
        place.release()
        return index

    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda count: streams.map(work, count), [1, 5, 2, 7, 1, 3]):
            assert found == list(range(len(found)))


def test_a_failure_is_the_first_in_order_and_leaves_the_streams_usable() -> None:
    begun = []

    def work(_: int, index: int) -> int:
        begun.append(index)
        time.sleep(0.03 if index == 1 else 0.005)
        if index in (1, 2):
            raise ValueError(f"number {index}")
        return index

    streams = Streams([0, 0])
    with pytest.raises(ValueError, match="number 1"):
        streams.map(work, 50)
    assert len(begun) < 50
    assert streams.map(lambda _, index: index, 4) == [0, 1, 2, 3]


def test_work_goes_on_when_the_main_thread_has_come_to_its_end() -> None:
    code = (
        "import threading, time\nfrom algm_trt.runtime.backends.streams import Streams\n"
        "def late():\n    time.sleep(0.5)\n    print(Streams([1, 2]).map(lambda place, index: index, 5))\n"
        "threading.Thread(target=late).start()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "[0, 1, 2, 3, 4]\n", done.stderr


def test_closing_ends_what_waits_and_not_what_runs() -> None:
    streams = Streams(["only"])
    running, go_on = threading.Event(), threading.Event()

    def slow(place: str, _: int) -> str:
        running.set()
        assert go_on.wait(PATIENCE)
        return place

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(streams.map, slow, 1)
        assert running.wait(PATIENCE)
        second = pool.submit(streams.map, slow, 1)
        time.sleep(0.02)
        assert not second.done()
        streams.close()
        with pytest.raises(EngineError, match=r"^the engine is closed$"):
            second.result(PATIENCE)
        go_on.set()
        assert first.result(PATIENCE) == ["only"]
    with pytest.raises(EngineError, match=r"^the engine is closed$"):
        streams.map(slow, 1)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it may come inside a destructor too
def test_what_a_signal_handler_raises_loses_no_stream() -> None:
    """As Ctrl-C in a notebook, or the time limit of a task queue: at any moment, on the main thread."""

    class TimeIsUpError(Exception):
        pass

    def handler(*_: object) -> None:
        raise TimeIsUpError

    moments = random.Random(0)
    streams = Streams(["a", "b"])
    before, interrupted = signal.signal(signal.SIGALRM, handler), 0

    def interrupted_call() -> None:
        try:
            signal.setitimer(signal.ITIMER_REAL, moments.uniform(1e-5, 1.5e-3))
            streams.map(lambda _, index: index, 3)
            time.sleep(1e-3)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    try:
        for _ in range(400):
            try:
                interrupted_call()
            except TimeIsUpError:
                interrupted += 1
    finally:
        signal.signal(signal.SIGALRM, before)
    assert interrupted > 50
    end = time.monotonic() + PATIENCE
    while sorted(streams._free or ()) != ["a", "b"]:
        assert time.monotonic() < end
        time.sleep(0.001)
    assert streams.map(lambda _, index: index, 3) == [0, 1, 2]


def test_a_process_that_is_forked_while_a_stream_is_in_use_says_so() -> None:
    program = (
        "import os, threading\n"
        "from algm_trt.runtime.backends.streams import Streams\n"
        "busy, idle, go_on, begun = Streams(['a']), Streams(['a']), threading.Event(), threading.Event()\n"
        "def work(place, index):\n"
        "    begun.set()\n"
        "    go_on.wait(60)\n"
        "thread = threading.Thread(target=busy.map, args=(work, 1))\n"
        "thread.start()\n"
        "begun.wait(60)\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    try:\n"
        "        print(idle.map(lambda place, index: place, 1), flush=True)\n"
        "        busy.map(lambda place, index: place, 1)\n"
        "    except Exception as error:\n"
        "        print(error, flush=True)\n"
        "    os._exit(0)\n"
        "print(os.waitpid(child, 0)[1])\n"
        "go_on.set()\n"
        "thread.join()\n"
        "print(busy.map(lambda place, index: place, 1))\n"
    )
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "['a']",
        "the model was in use when this process was forked: open it in this process",
        "0",
        "['a']",
    ]


def test_closed_streams_say_that_they_are_closed() -> None:
    streams = Streams(["a"])
    streams.close()
    with pytest.raises(EngineClosedError, match=r"^the engine is closed$"):
        streams.map(lambda place, index: place, 1)
