"""Compiles the whole plugin library for the CPU: the kernels on host memory behind the same C interface."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

NATIVE = Path(__file__).resolve().parents[2] / "plugins" / "native"
SCHEDULER = [*NATIVE.glob("cpu_twin/*.cpp")]
_FOLDERS = [NATIVE / "cpu_twin" / "include", NATIVE / "cpu_twin", NATIVE, NATIVE / "plugin"]
_OPTIONS = ["-std=c++17", "-O1", "-DALGM_CPU_TWIN", "-fPIC", "-fvisibility=hidden", *(f"-I{path}" for path in _FOLDERS)]
# Where the processor has the instruction, as on Arm, GCC makes fmaf(-a, b, c) of -fmaf(a, b, -c): another sign of zero.
_OPTIONS += ["-fno-builtin-fmaf"]
# A vector load or store at an address that a device would refuse ends the process.
_OPTIONS += ["-fsanitize=alignment", "-fsanitize-undefined-trap-on-error"]


def compile_twin(folder: Path) -> Path:
    """Path of the library, made in `folder` with the system's C++ compiler."""
    library = folder / "libalgm_twin.so"
    sources = [*NATIVE.glob("*/*.cu"), *SCHEDULER, *NATIVE.glob("plugin/*.cpp")]
    compile_cpp(["-shared", "-o", library, "-x", "c++", *sources])
    return library


def compile_race_twin(folder: Path, kernels: Sequence[Path] = tuple(NATIVE.glob("*/*.cu"))) -> Path:
    """Path of a library of kernels whose loads and stores are searched for races (cpu_twin/races.cpp)."""
    library = folder / "libalgm_race_twin.so"
    objects = []
    # The scheduler without the option, and linked without it too: that would bring the compiler's own runtime. Unique
    # symbols would be shared with another twin in the process.
    for options, sources in (["-fsanitize=thread"], kernels), ([], SCHEDULER):
        for source in sources:
            objects.append(folder / f"{source.name}.o")
            compile_cpp(["-g", "-fno-gnu-unique", *options, "-c", "-o", objects[-1], "-x", "c++", source])
    compile_cpp(["-shared", "-o", library, *objects])
    return library


@contextmanager
def multiprocessors_with(kib: int, library: ctypes.CDLL) -> Iterator[None]:
    """A twin whose kernels are chosen for multiprocessors of so much shared memory.

    Raises:
        AssertionError: two blocks of what ran would not have fitted, with the 1 KB that CUDA takes for each.
    """
    library.algm_twin_set_shared_memory(kib * 1024)
    try:
        yield
        assert 2 * (library.algm_twin_most_shared_memory() + 1024) <= kib * 1024
    finally:
        library.algm_twin_set_shared_memory(228 * 1024)


def compile_cpp(arguments: Iterable[str | Path]) -> None:
    done = subprocess.run(["c++", *_OPTIONS, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
