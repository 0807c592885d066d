"""Pictures side by side on a CPU: one picture cannot keep many cores busy, several together can."""

from __future__ import annotations

import _thread
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, Generic, TypeVar

from algm_trt.runtime.cores import physical_cores, restricted
from algm_trt.runtime.engine import EngineClosedError

UNASKED_STREAMS: Final = 8
"""Streams taken where none are asked for, at most: each holds the activations of a picture."""

T = TypeVar("T")
R = TypeVar("R")

_ALL: Final[weakref.WeakSet[Streams[Any]]] = weakref.WeakSet()


def shared_threads(streams: int | None, threads: int | None) -> tuple[int, int | None]:
    """Divide threads among streams.

    Args:
        streams: pictures that run at the same time; None takes one per thread, at most UNASKED_STREAMS.
        threads: of all streams together, at least one each; None takes one per physical core.

    Returns:
        Streams, and the threads of each; None leaves a single stream's to the library, unless cores are kept from it.
    """
    if threads is None and restricted():
        threads = physical_cores()
    if streams == 1:
        return 1, threads
    total = threads or physical_cores()
    count = streams or min(total, UNASKED_STREAMS)
    return (1, threads) if count == 1 else (count, max(1, total // count))


class Streams(Generic[T]):
    """What a library runs pictures in, one picture at a time in each; any number of threads may ask for work.

    In a process that is forked while nothing runs, they can be used as before; otherwise they say there that they
    cannot.
    """

    def __init__(self, places: Sequence[T]) -> None:
        """Take what pictures run in; the same object may stand for several streams."""
        self._count = len(places)
        self._free: list[T] | None = list(places)
        self._why_none = "the engine is closed"
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        _ALL.add(self)

    def map(self, work: Callable[[T, int], R], count: int) -> list[R]:
        """Call `work` with a stream and each of 0..count-1, side by side; the results in order.

        Raises:
            EngineClosedError: the streams are closed.
            Exception: what `work` raised first in order; what has not begun by then is left out.
        """
        waiting = list(range(count))[::-1]
        results: dict[int, R] = {}
        failures: dict[int, BaseException] = {}
        turn = threading.Lock()

        def run() -> None:
            while True:
                with turn:
                    if failures or not waiting:
                        return
                    index = waiting.pop()
                try:
                    with self._taken() as place:
                        results[index] = work(place, index)
                except BaseException as error:
                    failures[index] = error

        side_by_side = _wait_for if threading.current_thread() is threading.main_thread() else _join_in
        try:
            side_by_side(run, min(self._count, count), waiting.clear)
            if failures:
                raise failures[min(failures)]
            return [results[index] for index in range(count)]
        finally:
            failures.clear()  # an error that knows this frame would keep all that it holds

    def close(self) -> None:
        """Let go of what pictures run in, as soon as it is free."""
        with self._lock:  # not the condition, whose methods what a signal handler raises could interrupt
            self._free = None
            self._changed.notify_all()

    def start_anew_in_child(self) -> None:
        """Make the best of a process that was just forked: threads that held a place or the lock are not there."""
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        if self._free is not None and len(self._free) < self._count:
            self._free = None
            self._why_none = "the model was in use when this process was forked: open it in this process"

    @contextmanager
    def _taken(self) -> Iterator[T]:
        with self._changed:
            self._changed.wait_for(lambda: self._free != [])
            if self._free is None:
                raise EngineClosedError(self._why_none)
            place = self._free.pop()
        try:
            yield place
        finally:
            with self._changed:
                if self._free is not None:
                    self._free.append(place)
                    self._changed.notify()


def _join_in(work: Callable[[], None], count: int, stop: Callable[[], None]) -> None:
    """Do work in this thread and in as many others as make `count`.

    Args:
        work: in each of them.
        count: of threads.
        stop: is called where an error comes between, so that the others come to their end.
    """
    # Plain threads: an executor takes no more work once the main thread has come to its end.
    others = [threading.Thread(target=work, name="algm-stream") for _ in range(count - 1)]
    started = []
    try:
        for thread in others:
            thread.start()
            started.append(thread)
        work()
    except BaseException:
        stop()
        raise
    finally:
        for thread in started:
            thread.join()


def _wait_for(work: Callable[[], None], count: int, stop: Callable[[], None]) -> None:
    """Do work in `count` other threads; for the main thread, which must not do it.

    What handlers of signals raise in the main thread, Ctrl-C for one, comes between any two steps: between taking a
    stream and giving it back, or inside `threading.Thread.start`, whose thread then waits forever. Here every step that
    counts is one call into C.

    Args:
        work: in each of them.
        count: of threads.
        stop: is called where an error comes between, so that they come to their end.
    """
    ends = [threading.Lock() for _ in range(count)]

    def to_the_end(end: threading.Lock) -> None:
        try:
            work()
        finally:
            end.release()

    for end in ends:
        end.acquire()
    started = []
    try:
        for end in ends:
            _thread.start_new_thread(to_the_end, (end,))
            started.append(end)
    except BaseException:
        stop()
        raise
    finally:
        for end in started:
            with end:  # it comes once the thread has let go of it, and stays free for who waits again
                pass


def _start_all_anew() -> None:
    for streams in _ALL:
        streams.start_anew_in_child()


os.register_at_fork(after_in_child=_start_all_anew)
