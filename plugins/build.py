"""The command algm-build-plugins: compiles the plugin library on this machine with cmake and nvcc."""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from algm_trt.plugins.arguments import command_parser, whole_numbers
from algm_trt.plugins.command import remark, run_command, say
from algm_trt.plugins.errors import AlgmError, MissingDependencyError, UsageError
from algm_trt.plugins.library import (
    LIBRARY_NAME,
    LIBRARY_VARIABLE,
    PluginLibraryError,
    cache_library,
    find_library,
    load_ctypes,
)

_SOURCES = Path(__file__).resolve().parent
_LINES_SHOWN, _LINES_BELOW = 20, 4
_COMPILED = (".cu", ".cuh", ".cpp", ".h", ".map")
_LITTLE_SPACE = 2**20
_TELLS = re.compile(r"\berror\b(?!s occurred)|\bnot found\b|\bfatal\b|no space left", re.IGNORECASE)
_EPILOG = """\
The library holds the CUDA kernels and the TensorRT plugins around them; TensorRT is not needed to compile it. In the
user's cache it is found without being named, elsewhere the variable ALGM_PLUGINS_LIB names it. nvcc is taken from
CUDACXX, PATH, CUDA_HOME, CUDA_PATH or /usr/local/cuda.

exit codes: 0 built; 1 failed; 2 wrong usage; 4 cmake, nvcc or the sources are missing; 130 interrupted,
143 terminated.
"""


class ToolError(AlgmError):
    """CMake or a compiler failed; the message has the lines in which it says why."""


@dataclass(frozen=True)
class BuildOptions:
    """How to compile.

    Attributes:
        output: file to write; None is the user's cache, where the library is found without being named.
        architectures: compute capabilities such as 80 and 90; empty: 80 86 89 90 100 120 as far as nvcc knows them.
        jobs: compilers at the same time.
        verbose: show what cmake and nvcc say.
    """

    output: Path | None = None
    architectures: tuple[int, ...] = ()
    jobs: int = 1
    verbose: bool = False

    def __post_init__(self) -> None:
        """Refuse values that make no sense.

        Raises:
            UsageError: fewer than one job, or a number that is no compute capability.
        """
        if self.jobs < 1:
            raise UsageError(f"jobs is {self.jobs}; it must be at least 1")
        for architecture in self.architectures:
            if not 80 <= architecture < 1000:
                raise UsageError(
                    f"architecture {architecture} is not a compute capability of 80 or more, such as 80 or 90"
                )


def build_library(options: BuildOptions) -> Path:
    """Compile the library, load it once to see that it works, and put it in its place.

    Returns:
        Path of the library.

    Raises:
        UsageError: the file to write is a folder.
        MissingDependencyError: cmake, nvcc or the sources are missing.
        ToolError: the compiler failed.
        OSError: the file cannot be written; where it was to be in the user's cache, an AlgmError names the cure.
    """
    cmake = _tool("cmake")
    nvcc = find_nvcc()
    if not (_SOURCES / "native" / "algm.h").is_file():
        raise MissingDependencyError(f"the sources of the plugin library are not in {_SOURCES}; install algm-trt again")
    output = options.output or cache_library()
    if output.is_dir():
        raise UsageError(f"{output} is a folder: -o takes the name of a file, such as {output / LIBRARY_NAME}")
    with tempfile.TemporaryDirectory(prefix="algm-build-") as name, _draft(output) as draft:
        folder = Path(name)
        configure = [cmake, "-S", str(_SOURCES), "-B", str(folder), "-DALGM_BUILD_PLUGINS=ON"]
        configure += [f"-DCMAKE_CUDA_COMPILER={nvcc}", "-DCMAKE_BUILD_TYPE=Release"]
        configure += [f"-DALGM_CUDA_ARCHITECTURES={';'.join(map(str, options.architectures))}"]
        configure += [f"-DALGM_SOURCES={sources_digest()}"]
        _run(configure, folder, options.verbose)
        _run([cmake, "--build", str(folder), "--parallel", str(options.jobs)], folder, options.verbose)
        load_ctypes(folder / LIBRARY_NAME)
        shutil.copyfile(folder / LIBRARY_NAME, draft)
        draft.replace(output)
    return output


def sources_digest() -> str:
    """Of the sources that a library built now would have: what `algm_sources()` of one built from them returns."""
    native, digest = _SOURCES / "native", hashlib.sha256()
    names = (path.relative_to(native).as_posix() for path in native.rglob("*") if path.suffix in _COMPILED)
    for name in sorted(names):
        if not name.startswith("cpu_twin/"):  # not in the wheel
            digest.update(f"{name}\0".encode() + (native / name).read_bytes() + b"\0")
    return digest.hexdigest()[:16]


@contextmanager
def _draft(output: Path) -> Iterator[Path]:
    """A file to write and rename when it is whole; made now, because compiling takes minutes, and never left behind."""
    draft = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
            draft.touch()
        except OSError as error:
            if output != cache_library():
                raise
            raise AlgmError(f"{error}; name another place with -o, or set XDG_CACHE_HOME") from error
        yield draft
    finally:
        with suppress(OSError):
            draft.unlink()


def find_nvcc() -> Path:
    """The CUDA compiler: $CUDACXX, `nvcc` on PATH, or in $CUDA_HOME, $CUDA_PATH, /usr/local/cuda.

    Raises:
        MissingDependencyError: it is in none of these places.
    """
    named = os.environ.get("CUDACXX")
    found = shutil.which(named or "nvcc")
    if found:
        return Path(found)
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    candidates = [Path(home) / "bin" / "nvcc" for home in homes if home] if not named else []
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    tried = ", ".join([named or "nvcc on PATH", *map(str, candidates)])
    raise MissingDependencyError(
        f"nvcc not found; looked for {tried}; install the CUDA toolkit or set CUDACXX to its nvcc"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    interrupted = "interrupted, nothing was written"
    return run_command("algm-build-plugins", lambda: _build(_parser().parse_args(argv)), interrupted=interrupted)


def _build(arguments: argparse.Namespace) -> int:
    begin = time.monotonic()
    try:
        path = build_library(BuildOptions(arguments.output, arguments.arch, arguments.jobs, arguments.verbose))
    except ToolError as error:
        remark(f"algm-build-plugins: {error}")  # what the compiler said keeps its lines
        return error.exit_code
    size = path.stat().st_size / 2**20
    say(f"{path}: {size:.1f} MiB, built in {time.monotonic() - begin:.0f} s")
    if not _is_found(path):  # in another place, or behind the one that pip built
        say(f"set {LIBRARY_VARIABLE}={shlex.quote(str(path.resolve()))} to use it")
    return 0


def _is_found(library: Path) -> bool:
    """Whether a library is the one that is taken where none is named."""
    try:
        return find_library() == library.resolve()
    except PluginLibraryError:
        return False


def _parser() -> argparse.ArgumentParser:
    description = "Compile the plugin library on this machine with cmake and nvcc; it takes minutes."
    parser = command_parser("algm-build-plugins", description, _EPILOG)
    parser.add_argument(
        "--arch",
        type=whole_numbers,
        default=(),
        metavar="80,90",
        help="compute capabilities to build for (default: 80,86,89,90,100,120 as far as nvcc knows them)",
    )
    parser.add_argument("-o", "--output", type=Path, help="file to write (default: the user's cache)")
    parser.add_argument(
        "-j", "--jobs", type=int, default=os.cpu_count() or 1, help="compilers at once (default: all cores)"
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="show what the compilers say")
    return parser


def _tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise MissingDependencyError(f"{name} not found; pip install {name}, or take it from the system's packages")
    return found


def _run(command: Sequence[str], folder: Path, verbose: bool) -> None:
    """Run a tool whose compilers end with it and keep their temporary files in a folder of ours.

    Raises:
        ToolError: it failed.
    """
    stdout, stderr = (None, None) if verbose else (subprocess.PIPE, subprocess.STDOUT)
    environment = os.environ | {"TMPDIR": str(folder)}
    with subprocess.Popen(
        command, env=environment, stdout=stdout, stderr=stderr, text=True, start_new_session=True
    ) as tool:
        try:
            said, _ = tool.communicate()
        except BaseException:
            os.killpg(tool.pid, signal.SIGKILL)
            tool.communicate()  # until the last of them has closed its output
            raise
    if tool.returncode:
        cause = "see above" if verbose else f"(--verbose shows all it says)\n{_cause(said)}"
        if shutil.disk_usage(folder).free < _LITTLE_SPACE:
            cause = f"no space is left in {folder.parent}; set TMPDIR to a folder that has some"
        raise ToolError(f"'{' '.join(command[:2])} ...' failed with status {tool.returncode}: {cause}")


def _cause(said: str) -> str:
    """The lines that say why a tool failed, each with a few that are indented below it; without any, the last lines.

    CMake ends with pointers to logs that are gone by then.
    """
    kept: dict[str, None] = {}  # in order, each once
    below = 0
    for line in filter(str.strip, said.splitlines()):
        if _TELLS.search(line):
            below = _LINES_BELOW
        elif below and line[0].isspace():
            below -= 1
        else:
            below = 0
            continue
        kept[line] = None
    return "\n".join(list(kept)[:_LINES_SHOWN] or said.splitlines()[-_LINES_SHOWN:])


if __name__ == "__main__":
    sys.exit(main())
