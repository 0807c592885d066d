"""The summary of the ladder: what it counts, and what it says of files that were not read at all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from helpers.rungs import RUNGS, ladder, rungs_of

ROOT = Path(__file__).parents[1]
SKIPPED = ("file.py", 3, "Skipped: no device\nand more")


def of_a_test(nodeid: str, *markers: str, outcome: str = "passed") -> pytest.TestReport:
    return pytest.TestReport(
        nodeid,
        (nodeid, 0, ""),
        dict.fromkeys(markers, 1),
        outcome,  # type: ignore[arg-type]
        SKIPPED if outcome == "skipped" else None,
        "call",
    )


def of_a_file(nodeid: str, outcome: str) -> pytest.CollectReport:
    return pytest.CollectReport(nodeid, outcome, SKIPPED if outcome == "skipped" else "cannot be imported", None)  # type: ignore[arg-type]


def line(rung: str, **stats: list[object]) -> str:
    return next(text for text in ladder(stats) if text.startswith(f"{rung} "))


def test_a_rung_counts_its_tests() -> None:
    passed = [of_a_test("tests/exporter/test_ops.py::a"), of_a_test("tests/engines/test_build.py::a", "rtx")]
    skipped = [of_a_test("tests/exporter/test_ops.py::b", outcome="skipped")]
    found = line("L0", passed=passed, skipped=skipped)
    assert found == "L0 NumPy = PyTorch operators: 1 passed, 1 not run (no device)"
    assert line("L3", passed=passed) == "L3 TensorRT-RTX builds with the plugins: 1 passed"
    assert line("L5", passed=passed).endswith(": not selected")


def test_files_that_were_not_read_are_counted_too() -> None:
    skipped = [of_a_file("tests/plugins/test_kernels_gpu.py", "skipped"), of_a_file("tests/test_other.py", "skipped")]
    broken = [of_a_file("tests/plugins/test_reference.py", "failed")]
    assert line("L4", skipped=skipped, error=broken) == "L4 kernels on a GPU: 1 not run (no device)"
    assert line("L0", skipped=skipped, error=broken).endswith(": 1 failed")


def test_every_rung_has_files() -> None:
    files = [f"/{path.relative_to(ROOT)}" for path in ROOT.glob("tests/**/test_*.py")]
    with_files = {rung for file in files for rung in rungs_of(file, ())}
    assert with_files == set(RUNGS) - {"extra"}


@pytest.mark.parametrize(("rung", "code"), [("L0", pytest.ExitCode.OK), ("L1", pytest.ExitCode.NO_TESTS_COLLECTED)])
def test_a_rung_can_be_selected(rung: str, code: int) -> None:
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", rung, "tests/plugins/test_spec.py"]
    done = subprocess.run([*command, "tests/plugins/test_reference.py"], cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == code
    assert b"test_spec.py::" not in done.stdout
