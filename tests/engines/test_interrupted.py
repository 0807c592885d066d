"""Builds that end early or run at the same time: a plan is whole and has its record, or it is not there."""

from __future__ import annotations

import hashlib
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from helpers.engines import COMMAND

from algm_trt.runtime.engine_record import read_record

pytestmark = pytest.mark.rtx

ARGUMENTS = ("--target", "rtx", "--sm", "89", "--no-verify", "--fp16", "--force")
KILLS = 20


def start(model: Path, environment: dict[str, str], *arguments: str) -> subprocess.Popen[bytes]:
    command = [*COMMAND, str(model), *ARGUMENTS, *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def assert_whole(plan: Path) -> None:
    assert hashlib.sha256(plan.read_bytes()).hexdigest() == read_record(plan).plan_sha256


@pytest.mark.heavy
def test_killed_at_any_point_leaves_nothing(
    model: Path, environment: dict[str, str], tmp_path: Path, plugin_library: Path
) -> None:
    plan = model.with_suffix(".plan")
    began = time.monotonic()
    assert start(model, environment).wait() == 0
    whole = time.monotonic() - began
    random.seed(4)
    finished = 0
    for _ in range(KILLS):
        plan.unlink(missing_ok=True)
        plan.with_name("model.plan.json").unlink(missing_ok=True)
        child = start(model, environment)
        time.sleep(random.uniform(0.1, whole))
        child.send_signal(signal.SIGKILL)
        finished += child.wait() == 0
        left = {path.name for path in model.parent.iterdir()} - {"model.onnx"}
        # The record comes first, so that nobody sees a plan without it.
        assert left in (set(), {"model.plan.json"}, {"model.plan", "model.plan.json"})
        if plan.exists():
            assert_whole(plan)
    assert finished < KILLS / 2
    assert list((tmp_path / "tmp").iterdir()) == []
    assert start(model, environment).wait() == 0
    assert sorted(path.name for path in model.parent.iterdir()) == ["model.onnx", "model.plan", "model.plan.json"]
    assert_whole(plan)


def test_interrupted_by_the_user(model: Path, environment: dict[str, str], tmp_path: Path) -> None:
    # How long a build takes depends on the machine: a signal that comes after its end is sent earlier the next time.
    for delay in (0.5, 0.25, 0.1, 0.05, 0.0):
        child = start(model, environment, "--force", "--no-plugins", "--sm", "80,86,89,120")
        while not list((tmp_path / "cache").glob("algm-trt/tensorrt-rtx-*/*")) and child.poll() is None:
            time.sleep(0.02)
        time.sleep(delay)
        child.send_signal(signal.SIGINT)
        _, said = child.communicate()
        if child.returncode != 0:
            break
        shutil.rmtree(tmp_path / "cache")
        for path in model.parent.glob("model.plan*"):
            path.unlink()
    assert child.returncode == 130
    assert said == b"algm-build-engine: interrupted, nothing was written\n"
    assert [path.name for path in model.parent.iterdir()] == ["model.onnx"]


def test_two_builds_at_once(model: Path, environment: dict[str, str], plugin_library: Path) -> None:
    children = [start(model, environment, "--optimization-level", level) for level in ("1", "2", "3")]
    assert [child.wait() for child in children] == [0, 0, 0]
    assert sorted(path.name for path in model.parent.iterdir()) == ["model.onnx", "model.plan", "model.plan.json"]
    assert_whole(model.with_suffix(".plan"))
