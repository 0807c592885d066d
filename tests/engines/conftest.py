"""Fixtures of the engine tests: tiny exported models, TensorRT-RTX and the plugin library, or why they are absent."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path

import pytest
from helpers.engines import COMMAND, Command, save_tiny_model

from algm_trt.plugins.library import LIBRARY_VARIABLE, PluginLibraryError, find_library


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """`model.onnx` alone in a folder: float32, merging, linear decoder."""
    folder = tmp_path / "work"
    folder.mkdir()
    return save_tiny_model(folder)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Environment of a command with an empty cache and an empty folder for temporary files."""
    for name in ("cache", "tmp"):
        (tmp_path / name).mkdir()
    changed = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "TMPDIR": str(tmp_path / "tmp")}
    with contextlib.suppress(PluginLibraryError):
        changed[LIBRARY_VARIABLE] = str(find_library())
    return {**os.environ, **changed}


@pytest.fixture
def command(environment: dict[str, str]) -> Command:
    """Runs algm-build-engine in a process of its own."""

    def run(*arguments: str | Path, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, *map(str, arguments)], cwd=folder, env=environment, capture_output=True, text=True, check=False
        )

    return run
