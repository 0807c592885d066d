"""Compiles the C interface of the kernels for the CPU, the kernels as nvcc makes them: nvcc to PTX, that to C++."""

from __future__ import annotations

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from helpers.ptx.syntax import Module, parse
from helpers.ptx.translation import translation
from helpers.twin import NATIVE, SCHEDULER, compile_cpp

_HEADERS = Path(__file__).parent
# Quick to compile; no fused multiply-add but where the PTX has one; integers wrap around.
_OPTIONS = ["-Og", f"-I{_HEADERS}", "-DALGM_CPU_TWIN_OTHER_LAUNCH", "-ffp-contract=off", "-fwrapv", "-fno-gnu-unique"]


def compile_to_ptx(nvcc: Path, source: Path, architecture: int) -> Module:
    """The kernels of a CUDA file for a compute capability, 80 for 8.0."""
    command = [str(nvcc), "-ptx", "-std=c++17", f"-arch=compute_{architecture}", f"-I{NATIVE}", "-o", "-", str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return parse(done.stdout)


def compile_translated(folder: Path, source: str, module: Module) -> Path:
    """The object file, made in `folder`, of a CUDA file and its translated kernels."""
    file = folder / f"{Path(source).stem}.cpp"
    file.write_text(translation(source, module))
    compile_cpp([*_OPTIONS, "-c", "-o", file.with_suffix(".o"), file])
    return file.with_suffix(".o")


def link_translated(library: Path, objects: list[Path]) -> Path:
    """The library of translated files, with the scheduler that they run on."""
    compile_cpp([*_OPTIONS, "-shared", "-o", library, *objects, _HEADERS / "kernels.cpp", *SCHEDULER])
    return library


def compile_ptx_twin(folder: Path, nvcc: Path, architecture: int) -> Path:
    """Path of the library, made in `folder`."""

    def compiled(source: Path) -> Path:
        return compile_translated(folder, str(source), compile_to_ptx(nvcc, source, architecture))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compiled, NATIVE.glob("*/*.cu")))
    return link_translated(folder / "libalgm_ptx_twin.so", objects)
