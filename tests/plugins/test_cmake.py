"""Configuring the plugin library with CMake, as pip and algm-build-plugins do: the nvcc it takes, and what it says."""

from __future__ import annotations

import os
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from algm_trt.plugins import build
from algm_trt.plugins.build import find_nvcc

TOO_OLD = "nvcc too old: needs CUDA 11.1 or newer"
NVCCS = {
    "CUDA 10": "echo \"nvcc fatal   : Unknown option '--list-gpu-arch'\" >&2; exit 1",
    "up to 7.5": "printf 'compute_35\\ncompute_70\\ncompute_75\\n'; exit 0",
}


@pytest.fixture
def nvcc(nvcc: Path) -> Path:
    if shutil.which("cmake") is None:
        pytest.skip("no cmake")
    return nvcc


def imitation(file: Path, nvcc: Path, listing: str) -> Path:
    """An nvcc that answers `--list-gpu-arch` in its own way and otherwise is the one of this machine."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f'#!/bin/sh\ncase "$*" in *--list-gpu-arch*) {listing};; esac\nexec {nvcc} "$@"\n')
    file.chmod(0o755)
    return file


def configure(folder: Path, *defines: str, **variables: str) -> tuple[int, str]:
    """Exit status, and what was said, on one line: CMake breaks lines of messages."""
    command = ["cmake", "-S", str(Path(build.__file__).parent), "-B", str(folder / "cmake"), *defines]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CUDA")} | variables
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, " ".join((done.stdout + done.stderr).split())


@pytest.mark.parametrize("kind", NVCCS)
def test_an_old_nvcc_does_not_stop_an_installation(kind: str, nvcc: Path, tmp_path: Path) -> None:
    old = imitation(tmp_path / "nvcc", nvcc, NVCCS[kind])
    code, said = configure(tmp_path, CUDACXX=str(old))
    assert code == 0
    assert f"{TOO_OLD}, and {old} knows no compute capability of 80: installing without the plugin library" in said


@pytest.mark.parametrize("kind", NVCCS)
@pytest.mark.parametrize("wanted", ["", "90"])
def test_an_old_nvcc_stops_what_needs_the_library(kind: str, wanted: str, nvcc: Path, tmp_path: Path) -> None:
    old = imitation(tmp_path / "nvcc", nvcc, NVCCS[kind])
    defines = ["-DALGM_BUILD_PLUGINS=ON", f"-DCMAKE_CUDA_COMPILER={old}", f"-DALGM_CUDA_ARCHITECTURES={wanted}"]
    code, said = configure(tmp_path, *defines)
    assert code != 0
    assert f"{TOO_OLD}, and {old} knows no compute capability of 80; install a newer CUDA" in said


def test_an_nvcc_that_does_not_run_says_why(nvcc: Path, tmp_path: Path) -> None:
    broken = imitation(tmp_path / "nvcc", nvcc, "echo 'libfoo.so: cannot open shared object file' >&2; exit 127")
    code, said = configure(tmp_path, "-DALGM_BUILD_PLUGINS=ON", f"-DCMAKE_CUDA_COMPILER={broken}")
    assert code != 0
    assert f"no working nvcc found: {broken} ends with 127 and says 'libfoo.so: cannot open shared object file'" in said


@pytest.mark.parametrize("wanted", ["AUTO", "ON"])
def test_a_missing_cpp_compiler_is_not_blamed_on_nvcc(wanted: str, nvcc: Path, tmp_path: Path) -> None:
    defines = [f"-DALGM_BUILD_PLUGINS={wanted}", f"-DCMAKE_CUDA_COMPILER={nvcc}"]
    code, said = configure(tmp_path, *defines, CXX=str(tmp_path / "c++"))
    assert (code == 0) == (wanted == "AUTO")
    assert "algm: no working C++ compiler found" in said
    assert ("installing without the plugin library" in said) == (wanted == "AUTO")
    # One that is installed later is found in the same folder.
    assert configure(tmp_path, *defines, "-DALGM_CUDA_ARCHITECTURES=90")[0] == 0


@pytest.mark.parametrize("place", ["CUDACXX", "PATH", "CUDA_HOME", "CUDA_PATH"])
def test_nvcc_is_found_where_the_command_finds_it(
    place: str, nvcc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those behind the place hold another; each says who it is by being too old."""
    places = ["CUDACXX", "PATH", "CUDA_HOME", "CUDA_PATH"]
    found = {name: imitation(tmp_path / name / "bin" / "nvcc", nvcc, "exit 0") for name in places}
    tools = tmp_path / "tools"  # what CMake needs besides, without an nvcc of this machine
    tools.mkdir()
    for tool in ("cmake", "make", "ninja", "sh", "cc", "c++", "gcc", "g++", "as", "ld", "cat", "sed", "rm"):
        if there := shutil.which(tool):
            (tools / tool).symlink_to(there)
    values = {name: str(file.parents[1]) for name, file in found.items()}
    values |= {"CUDACXX": str(found["CUDACXX"]), "PATH": f"{found['PATH'].parent}:{tools}"}
    behind = places[places.index(place) :]
    variables = {"PATH": str(tools)} | {name: values[name] for name in behind}
    for name in ("CUDACXX", "CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert find_nvcc() == found[place]
    _, said = configure(tmp_path, **variables)
    assert f"{found[place]} knows no compute capability of 80" in said


def test_nvcc_that_is_named_is_the_only_one(nvcc: Path, tmp_path: Path) -> None:
    code, said = configure(tmp_path, CUDACXX=str(tmp_path / "nvcc"), CUDA_HOME=str(nvcc.parents[1]))
    assert code == 0
    assert "installing without the plugin library" in said


def test_pip_builds_outside_the_checkout() -> None:
    """A checkout may be read-only, and two installations from it at once must not write into one folder."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
    assert "build-dir" not in project["tool"]["scikit-build"]
