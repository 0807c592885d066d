"""Whatever a child does, its parent gets an answer in time."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import doctor
from helpers.doctor import TESTS

from algm_trt.engines.doctor.isolated import Answer, call, one_line


def ask(function: Callable[..., Any] | str, *arguments: Any, limit: float = 30.0) -> Answer:
    return call(function, *arguments, limit=limit, environment={"PYTHONPATH": TESTS})


def test_values_come_back_through_the_child() -> None:
    answer = ask(doctor.echo, 1, "zwei", [3.5, None], {"a": True})
    assert answer.value == [1, "zwei", [3.5, None], {"a": True}]
    assert (answer.ok, answer.error, answer.missing) == (True, "", False)
    assert 0 < answer.seconds < 30


def test_what_libraries_print_does_no_harm(capfd: pytest.CaptureFixture[str]) -> None:
    assert ask(doctor.noisy).value == "fine"
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("function", "error", "missing"),
    [
        (doctor.failing, "it does not work", False),
        (doctor.silent_failure, "RuntimeError", False),
        (doctor.misused, "wrong size", False),
        (doctor.lacking, "no device: plug one in", True),
        (doctor.importing, "a_package_that_nobody_has is not installed", True),
        (doctor.crashing, "the process was ended by SIGSEGV: something about memory", False),
        (doctor.leaving, "the process ended with status 7", False),
        ("helpers.doctor:nothing_like_this", "module 'helpers.doctor' has no attribute 'nothing_like_this'", False),
        ("no_such_module:anything", "no_such_module is not installed", True),
    ],
)
def test_failures_are_one_line(function: Callable[[], None] | str, error: str, missing: bool) -> None:
    answer = ask(function)
    assert (answer.ok, answer.value, answer.error, answer.missing) == (False, None, error, missing)


def test_a_child_that_hangs_is_ended_with_all_it_started(tmp_path: Path) -> None:
    begin = time.monotonic()
    answer = ask(doctor.hanging, str(tmp_path / "pid"), limit=3.0)
    assert answer.error == "no answer within 3 s"
    assert time.monotonic() - begin < 15
    grandchild = int((tmp_path / "pid").read_text())
    for _ in range(100):
        if not _alive(grandchild):
            break
        time.sleep(0.05)
    assert not _alive(grandchild)


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_modules_of_the_working_folder_do_not_stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit(9)")
    monkeypatch.chdir(tmp_path)
    assert ask(doctor.echo, 1).value == [1]


def test_endless_messages_are_cut() -> None:
    assert one_line("a\n  b") == "a b"
    assert len(one_line("x" * 5000)) == 300
