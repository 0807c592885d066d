"""How a command is stopped: Ctrl-C, and SIGTERM as `kill`, batch systems and service managers send it."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

SAME_WISH_SECONDS: Final = 1.0
SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


class Terminated(KeyboardInterrupt):
    """SIGTERM came; whatever tidies up after Ctrl-C does so after this."""


def exit_code(stop: KeyboardInterrupt) -> int:
    """130 after Ctrl-C, 143 after SIGTERM: what a shell reports of a program that the signal ended."""
    return 128 + (signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT)


def stop_behind(error: BaseException) -> KeyboardInterrupt | None:
    """The Ctrl-C that an error came from, if any: a compiled module that it hits while it is imported seems missing."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, KeyboardInterrupt):
        cause = cause.__cause__
    return cause


@contextmanager
def stops_cleanly() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end the block by an exception, so that it can tidy up.

    One that comes again within a second is the same wish (`timeout` sends two, people press keys twice); after that it
    ends the process at once. Signals that are ignored (`nohup`) or handled by somebody else stay as they are.

    Raises:
        KeyboardInterrupt: Ctrl-C came.
        Terminated: SIGTERM came.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    first: list[float] = []

    def stop(number: int, _: FrameType | None) -> None:
        if not first:
            first.append(time.monotonic())
            raise Terminated if number == signal.SIGTERM else KeyboardInterrupt
        if time.monotonic() - first[0] > SAME_WISH_SECONDS:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    unhandled = (signal.SIG_DFL, signal.default_int_handler)
    previous = {number: signal.getsignal(number) for number in SIGNALS if signal.getsignal(number) in unhandled}
    try:
        for number in previous:
            signal.signal(number, stop)
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def stops_deferred() -> Iterator[None]:
    """Hold Ctrl-C and SIGTERM back until the block ends: an exception inside a callback of TensorRT ends the process.

    Raises:
        KeyboardInterrupt: at the end of the block, if one of them came meanwhile and is not handled otherwise.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    # None: of a program in another language that Python is a part of; it could not be put back.
    previous = {number: handler for number in SIGNALS if (handler := signal.getsignal(number)) is not None}
    try:
        for number in previous:
            signal.signal(number, lambda number, _: came.append(number))
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if came:
        signal.raise_signal(came[0])
