"""Trying plans of TensorRT-RTX on a GPU that is not on its list, as far as that goes without a GPU."""

from __future__ import annotations

import json
import os
from pathlib import Path

import gpu_rtx
import pytest

from algm_trt.runtime.engine_record import record_path


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    path = tmp_path / "bodies.plan"
    path.write_bytes(b"a plan")
    record_path(path).write_text(json.dumps({"compute_capabilities": ["8.9"], "tensorrt_version": "1.7.1.116"}))
    return path


def test_the_copy_is_for_this_gpu_too(plan: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copies"
    folder.mkdir()
    copied = gpu_rtx.as_built_for(plan, "9.0", folder)
    assert copied.read_bytes() == b"a plan"
    assert json.loads(record_path(copied).read_text())["compute_capabilities"] == ["8.9", "9.0"]
    assert json.loads(record_path(plan).read_text())["compute_capabilities"] == ["8.9"]


def test_a_refusal_is_a_result(plan: Path) -> None:
    found = gpu_rtx.apart(plan, "9.0")
    assert found["state"] == "refused"
    assert "bodies.plan.json: the engine record cannot be read" in found["detail"]


def test_a_library_that_ends_the_process_is_a_result(plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_rtx, "outcome", ends_the_process)
    assert gpu_rtx.apart(plan, "9.0")["state"] == "ended the process"


def ends_the_process(*_: object) -> None:
    os._exit(1)
