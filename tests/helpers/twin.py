"""Compiles the whole plugin library for the CPU: the kernels on host memory behind the same C interface."""

from __future__ import annotations

import subprocess
from pathlib import Path

_NATIVE = Path(__file__).resolve().parents[2] / "plugins" / "native"


def compile_twin(folder: Path) -> Path:
    """Path of the library, made in `folder` with the system's C++ compiler."""
    library = folder / "libalgm_twin.so"
    sources = [*_NATIVE.glob("*/*.cu"), *_NATIVE.glob("cpu_twin/*.cpp"), *_NATIVE.glob("plugin/*.cpp")]
    folders = [_NATIVE / "cpu_twin" / "include", _NATIVE / "cpu_twin", _NATIVE, _NATIVE / "plugin"]
    command = ["c++", "-std=c++17", "-O1", "-DALGM_CPU_TWIN", "-shared", "-fPIC", "-fvisibility=hidden", "-o", library]
    command += [f"-I{folder}" for folder in folders]
    done = subprocess.run([*command, "-x", "c++", *sources], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return library
