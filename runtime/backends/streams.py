"""Pictures side by side on a CPU: one picture cannot keep many cores busy, several together can."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
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
        self._changed = threading.Condition()
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

        # The main thread only waits: what handlers of signals raise there, Ctrl-C for one, could come between taking a
        # place and giving it back. Plain threads: an executor takes no more work once the main thread has ended.
        here = threading.current_thread() is not threading.main_thread()
        others = [threading.Thread(target=run, name="algm-stream") for _ in range(min(self._count, count) - here)]
        try:
            for thread in others:
                thread.start()
            if here:
                run()
            for thread in others:
                thread.join()
        finally:
            waiting.clear()
            for thread in others:
                with suppress(RuntimeError):  # never started
                    thread.join()
        if failures:
            try:
                raise failures[min(failures)]
            finally:
                failures.clear()  # an error that knows this frame would keep all that it holds
        return [results[index] for index in range(count)]

    def close(self) -> None:
        """Let go of what pictures run in, as soon as it is free."""
        with self._changed:
            self._free = None
            self._changed.notify_all()

    def start_anew_in_child(self) -> None:
        """Make the best of a process that was just forked: threads that held a place or the lock are not there."""
        self._changed = threading.Condition()
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


def _start_all_anew() -> None:
    for streams in _ALL:
        streams.start_anew_in_child()


os.register_at_fork(after_in_child=_start_all_anew)
