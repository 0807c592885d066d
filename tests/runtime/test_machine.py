"""Facts about the machine: never an error, whatever the machine lacks."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
import pytest

from algm_trt.runtime import machine as machine_module
from algm_trt.runtime.cores import usable_cores
from algm_trt.runtime.machine import (
    load_average,
    machine,
    peak_memory_mib,
    processor,
    versions,
)


def fake_nvidia_smi(folder: Path, script: str) -> None:
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def test_facts_of_this_machine_are_plausible_json() -> None:
    found = machine()
    assert json.loads(json.dumps(found)) == found
    assert 1 <= found["usable_cores"] == usable_cores() <= found["cores"]
    assert found["processor"] == found["processor"].strip()
    assert load_average() is None or load_average() >= 0
    assert peak_memory_mib() > 10
    assert versions()["numpy"] == np.__version__
    assert all(versions().values())


def test_any_package_of_opencv_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    def found(package: str) -> str:
        if package != "opencv-python":
            raise PackageNotFoundError(package)
        return "4.12.0.88"

    monkeypatch.setattr(machine_module, "version", found)
    assert versions() == {"python": platform.python_version(), "opencv-python": "4.12.0.88"}


def test_processors_of_one_name_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    info = {"model name": ["AMD EPYC"] * 2, "cpu family": ["26"] * 2, "model": ["2"] * 2}
    monkeypatch.setattr(machine_module, "_lines", lambda _, key: info.get(key, []))
    assert processor() == "AMD EPYC (family 26, model 2)"
    del info["cpu family"]
    assert processor() == "AMD EPYC"


def test_arm_processors_have_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    info = {"CPU implementer": ["0x41"] * 4, "CPU part": ["0xd42"] * 4}  # a Jetson Orin's
    monkeypatch.setattr(machine_module, "_lines", lambda _, key: info.get(key, []))
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert processor() == "aarch64 (implementer 0x41, part 0xd42)"
    info.clear()
    assert processor() == "aarch64"


def test_peak_memory_is_that_of_the_program_alone() -> None:
    """A program starts with the peak of what it was forked from, as far as getrusage goes."""
    ballast = np.ones(100 * 2**20, np.uint8)
    program = "from algm_trt.runtime.machine import peak_memory_mib; print(peak_memory_mib())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert 5 < float(done.stdout) < ballast.nbytes / 2**20


def test_gpus_are_those_of_nvidia_smi(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    fake_nvidia_smi(tmp_path, "echo 'NVIDIA L4, 23034 MiB, 570.1'; echo; echo 'NVIDIA L4, 23034 MiB, 570.1'")
    assert machine()["gpus"] == ["NVIDIA L4, 23034 MiB, 570.1"] * 2


@pytest.mark.parametrize("script", ["exit 9", "exec sleep 60"])
def test_no_gpu_where_nvidia_smi_fails_or_hangs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str) -> None:
    monkeypatch.setattr(machine_module, "_PATIENCE", 0.5)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    fake_nvidia_smi(tmp_path, script)
    assert machine()["gpus"] == []


def test_a_system_that_tells_little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.delattr(os, "getloadavg")
    monkeypatch.setattr(machine_module, "_lines", lambda *_: [])
    monkeypatch.setenv("PATH", "")
    found = machine()
    assert (found["memory_gib"], found["gpus"]) == (None, [])
    assert load_average() is None
    assert usable_cores() == os.cpu_count()
