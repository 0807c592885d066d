"""Progress of a build: a share that only grows, phases from several threads, cancelling."""

from __future__ import annotations

import threading

import pytest

from algm_trt.engines.progress import BuildProgress


def test_a_bar_shows_phases_and_goes_away(capsys: pytest.CaptureFixture[str]) -> None:
    progress = BuildProgress(visible=True)
    progress.start("Building engine", None, 2)
    progress.start("Timing nodes", "Building engine", 4)
    assert [progress.step("Timing nodes", index) for index in range(4)] == [True] * 4
    progress.finish("Timing nodes")
    progress.step("Building engine", 0)
    progress.step("Building engine", 1)
    progress.close()
    shown = capsys.readouterr().err
    assert "Building engine" in shown
    assert shown.endswith("\r")


def test_share_only_grows(capsys: pytest.CaptureFixture[str]) -> None:
    progress = BuildProgress(visible=True)
    progress.start("outer", None, 4)
    bar = progress._bar
    assert bar is not None
    seen = []
    for index in range(4):
        progress.start("inner", "outer", 3)
        for step in range(3):
            progress.step("inner", step)
            seen.append(bar.n)
        progress.finish("inner")
        progress.step("outer", index)
        seen.append(bar.n)
    assert seen == sorted(seen)
    assert seen[:4] == [83, 166, 250, 250]
    assert seen[-1] == 1000
    progress.close()


def test_invisible_progress_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    progress = BuildProgress(visible=False)
    progress.start("a", None, 0)
    progress.step("a", 0)
    progress.step("unknown", 3)
    progress.finish("unknown")
    progress.close()
    assert capsys.readouterr() == ("", "")


def test_cancelled_build_is_told_to_stop() -> None:
    progress = BuildProgress(visible=False)
    progress.start("a", None, 10)
    assert progress.step("a", 0)
    progress.cancelled.set()
    assert not progress.step("a", 1)


def test_phases_may_come_from_several_threads() -> None:
    progress = BuildProgress(visible=False)
    progress.start("root", None, 8)

    def work(number: int) -> None:
        for _ in range(200):
            progress.start(f"phase {number}", "root", 5)
            progress.step(f"phase {number}", 4)
            progress.finish(f"phase {number}")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert progress._phases.keys() == {"root"}
