"""Cores are those that the process may keep busy."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from algm_trt.runtime import cores
from algm_trt.runtime.cores import physical_cores, restricted, time_limit, usable_cores


@pytest.fixture
def group(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A control group without limits."""
    monkeypatch.setattr(cores, "CONTROL_GROUP", tmp_path)
    return tmp_path


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)


def test_physical_cores_are_among_those_that_are_usable() -> None:
    assert 1 <= physical_cores() <= usable_cores() <= (os.cpu_count() or 1)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processes cannot be bound to cores here")
def test_cores_that_the_process_is_kept_from_do_not_count() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert (physical_cores(), usable_cores()) == (1, 1)
        assert restricted() == ((os.cpu_count() or 1) > 1 or time_limit() is not None)
    finally:
        os.sched_setaffinity(0, before)


def test_threads_of_one_core_count_once(monkeypatch: pytest.MonkeyPatch) -> None:
    siblings = {0: "0,2\n", 1: "1,3\n", 2: "0,2\n", 3: "1,3\n"}
    monkeypatch.setattr(cores, "_affinity", lambda: {0, 1, 2})
    monkeypatch.setattr(cores, "time_limit", lambda: None)
    monkeypatch.setattr(Path, "read_text", lambda path, **_: siblings[int(path.parts[-3].removeprefix("cpu"))])
    assert (physical_cores(), usable_cores()) == (2, 3)


def test_a_system_that_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(path: Path, **_: object) -> str:
        raise FileNotFoundError(path)

    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(Path, "read_text", missing)
    assert time_limit() is None
    assert not restricted()
    assert physical_cores() == usable_cores() == os.cpu_count()


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({}, None),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu.max": "200000 100000\n"}, 2),
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "garbage\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        ({"cpu/cpu.cfs_quota_us": "300000\n"}, None),
    ],
)
def test_a_container_limits_the_time(group: Path, files: dict[str, str], limit: int | None) -> None:
    write(group, files)
    assert time_limit() == limit
    assert restricted() == (limit is not None or len(os.sched_getaffinity(0)) < (os.cpu_count() or 1))


def test_no_more_cores_than_the_time_of_the_container_is_worth(monkeypatch: pytest.MonkeyPatch, group: Path) -> None:
    monkeypatch.setattr(cores, "_affinity", lambda: set(range(1000, 1006)))  # no such cores: nothing is known of them
    assert (physical_cores(), usable_cores()) == (6, 6)
    write(group, {"cpu.max": "250000 100000\n"})
    assert (physical_cores(), usable_cores()) == (3, 3)
    write(group, {"cpu.max": "800000 100000\n"})
    assert (physical_cores(), usable_cores()) == (6, 6)
