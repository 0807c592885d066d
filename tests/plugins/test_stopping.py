"""Ctrl-C and SIGTERM: tidied up after once, however often they come within a second, and at once after that."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest

from algm_trt.plugins.stopping import Terminated, exit_code, stops_cleanly, stops_deferred

PROGRAM = """
import sys, time
from algm_trt.plugins.stopping import exit_code, stops_cleanly

def wait(seconds):
    print("waiting", flush=True)
    time.sleep(seconds)

with stops_cleanly():
    try:
        wait(60)
    except KeyboardInterrupt as stop:
        wait(float(sys.argv[1]))
        print("tidy", flush=True)
        code = exit_code(stop)
sys.exit(code)
"""
BOTH = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])


def start(seconds: float) -> subprocess.Popen[str]:
    """A program that waits, and when it is stopped tidies up for a time."""
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(seconds)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    return process


@BOTH
def test_repeats_within_a_second_are_one(number: signal.Signals) -> None:
    process = start(0.5)
    for _ in range(10):
        process.send_signal(number)
        time.sleep(0.02)
    said, _ = process.communicate(timeout=60)
    assert (process.returncode, said) == (128 + number, "waiting\ntidy\n")


@BOTH
def test_a_repeat_after_a_second_ends_it_at_once(number: signal.Signals) -> None:
    process = start(60)
    process.send_signal(number)
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    time.sleep(1.2)
    process.send_signal(number)
    said, _ = process.communicate(timeout=30)
    assert (process.returncode, said) == (-number, "")


@BOTH
def test_handlers_are_put_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt) as stop, stops_cleanly():
        signal.raise_signal(number)
    assert exit_code(stop.value) == 128 + number
    assert isinstance(stop.value, Terminated) == (number == signal.SIGTERM)
    assert signal.getsignal(number) is before


@BOTH
@pytest.mark.parametrize("handler", [signal.SIG_IGN, lambda *_: None])
def test_what_others_decided_stays(number: signal.Signals, handler: signal.Handlers | Callable[..., None]) -> None:
    before = signal.signal(number, handler)
    try:
        with stops_cleanly():
            signal.raise_signal(number)
            assert signal.getsignal(number) is handler
    finally:
        signal.signal(number, before)


@BOTH
def test_deferred_until_the_block_ends(number: signal.Signals) -> None:
    steps = []

    def work() -> None:
        with stops_cleanly(), stops_deferred():
            signal.raise_signal(number)
            steps.append("after the signal")

    with pytest.raises(KeyboardInterrupt) as stop:
        work()
    assert steps == ["after the signal"]
    assert exit_code(stop.value) == 128 + number


def test_handlers_that_python_does_not_know_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal, "getsignal", lambda number: None)
    monkeypatch.setattr(signal, "signal", lambda *_: pytest.fail("a handler was replaced"))
    with stops_cleanly(), stops_deferred():
        pass


def test_other_threads_change_nothing() -> None:
    before, inside = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)], []

    def work() -> None:
        with stops_cleanly(), stops_deferred():
            inside.extend(signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert inside == before
