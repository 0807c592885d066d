"""The script for GPU machines, tried out as it is meant to run: a copy of the checkout, the package not installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.checkpoints import write_checkpoint
from helpers.models import TINY, random_segmenter

from algm_trt.runtime.card import MergeSettings

ROOT = Path(__file__).parents[2]
NEEDED = ("benchmarks", "engines", "examples", "exporter", "plugins", "runtime", "tests", "pyproject.toml")


@pytest.fixture
def checkout(tmp_path: Path, drawn_camvid: Path) -> Path:
    """A copy of the checkout, with data and a checkpoint where `carry.py` puts them."""
    copy = tmp_path / "checkout"
    copy.mkdir()
    for name in NEEDED:
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, copy / name)
    carried = copy / ".carry"
    carried.mkdir()
    (carried / "camvid").symlink_to(drawn_camvid)
    model = random_segmenter(replace(TINY, n_cls=11))
    write_checkpoint(carried / "checkpoints" / "camvid", model, MergeSettings((1, 2), (2, 2), 0.9), dataset="camvid")
    return copy


@pytest.fixture
def bare_python(tmp_path: Path) -> Path:
    """An interpreter that has the packages of this one, but for algm_trt and its metadata."""
    packages = tmp_path / "packages"
    packages.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if "algm" not in entry.name and entry.suffix != ".pth":
            (packages / entry.name).symlink_to(entry)
    environment = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    [site] = environment.glob("lib/python*/site-packages")
    (site / "packages.pth").write_text(f"{packages}\n")
    python = environment / "bin" / "python"
    absent = subprocess.run([python, "-c", "import torch; import algm_trt"], capture_output=True, text=True)
    assert "No module named 'algm_trt'" in absent.stderr
    return python


@pytest.mark.heavy
def test_every_step_that_needs_no_gpu(checkout: Path, bare_python: Path, tmp_path: Path) -> None:
    surroundings = {name: value for name, value in os.environ.items() if not name.startswith(("ALGM_", "PYTHON"))}
    done = subprocess.run(
        ["bash", checkout / "benchmarks" / "gpu_all.sh", "--cpu-twin"],
        env=surroundings | {"PYTHON": str(bare_python), "OUT": str(tmp_path / "out")},
        capture_output=True,
        text=True,
    )
    log = (tmp_path / "out" / "gpu_all.log").read_text()
    assert done.returncode == 0, done.stdout + log[-4000:]
    record = json.loads((tmp_path / "out" / "gpu_all.json").read_text())
    status = {step["step"]: step["status"] for step in record["steps"]}
    passed = {"build", "kernels", "plugins", "model", "accuracy", "accuracy-plain", "training"}
    assert {name for name, state in status.items() if state == "passed"} == passed
    assert set(status.values()) == {"passed", "not run"}
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"gpu_model.json", "gpu_accuracy.json", "train_camvid.json"} <= written
