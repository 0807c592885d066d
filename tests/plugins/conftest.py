"""Fixtures of the plugin tests: the native library, or why it is not here."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from algm_trt.plugins.library import PluginLibraryError, find_library

_NATIVE = Path(__file__).resolve().parents[2] / "plugins" / "native"


@pytest.fixture(scope="session")
def plugin_library() -> Path:
    """The plugin library as a user would find it."""
    try:
        return find_library()
    except PluginLibraryError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def twin_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole plugin library compiled for the CPU, kernels included."""
    if shutil.which("c++") is None:
        pytest.skip("no C++ compiler: the CPU twin of the kernels cannot be compiled")
    library = tmp_path_factory.mktemp("twin") / "libalgm_twin.so"
    sources = [*_NATIVE.glob("*/*.cu"), *_NATIVE.glob("cpu_twin/*.cpp"), *_NATIVE.glob("plugin/*.cpp")]
    folders = [_NATIVE / "cpu_twin" / "include", _NATIVE / "cpu_twin", _NATIVE, _NATIVE / "plugin"]
    command = ["c++", "-std=c++17", "-O1", "-DALGM_CPU_TWIN", "-shared", "-fPIC", "-fvisibility=hidden", "-o", library]
    command += [f"-I{folder}" for folder in folders]
    done = subprocess.run([*command, "-x", "c++", *sources], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return library
