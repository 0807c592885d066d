"""Patches of benchmarks/experiments: they say what they are for, and fit the sources as these are now."""

from __future__ import annotations

import filecmp
import os
import shutil
from pathlib import Path

import kernel_experiments
import pytest
from kernel_experiments import TESTS, Experiment, experiments

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("tool", ["git", "patch"])
@pytest.mark.parametrize("experiment", experiments(), ids=lambda experiment: experiment.path.stem)
def test_patch_fits_and_changes_its_kernels(
    experiment: Experiment, tool: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not on PATH")
    monkeypatch.setattr(kernel_experiments.shutil, "which", lambda name: name if name == tool else None)
    assert experiment.purpose.count("Predicted: ") == 1
    native = experiment.patched(tmp_path) / "algm_trt" / "plugins" / "native"
    sources = [path.relative_to(native) for path in native.rglob("*") if path.is_file()]
    unequal = filecmp.cmpfiles(native, ROOT / "plugins" / "native", map(os.fspath, sources), shallow=False)[1]
    changed = {Path(name).parts[0] for name in unequal} - {"common"}
    assert changed == set(experiment.kernels) <= set(TESTS)


def test_tests_of_the_kernels_exist() -> None:
    text = (ROOT / "tests" / "plugins" / "test_kernels_gpu.py").read_text(encoding="utf-8")
    assert all(f"def test_{part}(" in text for part in TESTS.values())


def test_without_a_gpu_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("sys.argv", ["kernel_experiments.py"])
    assert kernel_experiments.main() == 4
