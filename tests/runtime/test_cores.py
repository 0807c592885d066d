"""Cores are those that the process may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from algm_trt.runtime import cores
from algm_trt.runtime.cores import physical_cores, usable_cores


def test_physical_cores_are_among_those_that_are_usable() -> None:
    assert 1 <= physical_cores() <= usable_cores() <= (os.cpu_count() or 1)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processes cannot be bound to cores here")
def test_cores_that_the_process_is_kept_from_do_not_count() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert (physical_cores(), usable_cores()) == (1, 1)
    finally:
        os.sched_setaffinity(0, before)


def test_threads_of_one_core_count_once(monkeypatch: pytest.MonkeyPatch) -> None:
    siblings = {0: "0,2\n", 1: "1,3\n", 2: "0,2\n", 3: "1,3\n"}
    monkeypatch.setattr(cores, "_usable", lambda: {0, 1, 2})
    monkeypatch.setattr(Path, "read_text", lambda path, **_: siblings[int(path.parts[-3].removeprefix("cpu"))])
    assert (physical_cores(), usable_cores()) == (2, 3)


def test_a_system_that_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(path: Path, **_: object) -> str:
        raise FileNotFoundError(path)

    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(Path, "read_text", missing)
    assert physical_cores() == usable_cores() == os.cpu_count()
