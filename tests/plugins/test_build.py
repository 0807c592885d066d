"""Building the plugin library by `algm-build-plugins`: what it lacks, what stops it, what it says and leaves."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from algm_trt import plugins
from algm_trt.plugins import build
from algm_trt.plugins.build import BuildOptions, build_library, find_nvcc, sources_digest
from algm_trt.plugins.errors import MissingDependencyError, UsageError
from algm_trt.plugins.library import (
    INTERFACE_VERSION,
    LIBRARY_NAME,
    LIBRARY_VARIABLE,
    cache_library,
    load_ctypes,
)


def test_build_options_are_checked() -> None:
    with pytest.raises(UsageError, match="architecture 75"):
        BuildOptions(architectures=(80, 75))
    with pytest.raises(UsageError, match="jobs is 0"):
        BuildOptions(jobs=0)


def test_missing_compiler_lists_the_places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CUDACXX", str(tmp_path / "nvcc"))
    with pytest.raises(MissingDependencyError, match="CUDACXX"):
        find_nvcc()


def test_missing_cmake_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingDependencyError, match="pip install cmake"):
        build_library(BuildOptions(tmp_path / LIBRARY_NAME))


def test_missing_sources_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for tool in ("cmake", "nvcc"):
        (tmp_path / tool).write_text("#!/bin/sh\n")
        (tmp_path / tool).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDACXX", raising=False)
    monkeypatch.setattr(build, "_SOURCES", tmp_path)
    with pytest.raises(MissingDependencyError, match="sources"):
        build_library(BuildOptions(tmp_path / LIBRARY_NAME))


def test_command_reports_errors_as_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert build.main(["-o", str(tmp_path / LIBRARY_NAME)]) == 4
    assert build.main(["--arch", "70"]) == 2
    printed = capsys.readouterr().err.splitlines()
    assert len(printed) == 2
    assert all(line.startswith("algm-build-plugins: ") for line in printed)


def _compiles(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, outcome: type[BaseException] | None) -> Path:
    """Stand in for the compilers: they make an empty library, or end with an exception; returns where it should go."""

    def compile_nothing(command: list[str], folder: Path, verbose: bool) -> None:
        if outcome is not None:
            raise outcome
        Path(command[command.index("--build") + 1] if "--build" in command else tmp_path, LIBRARY_NAME).touch()

    monkeypatch.setattr(build, "_tool", lambda name: name)
    monkeypatch.setattr(build, "find_nvcc", lambda: Path("nvcc"))
    monkeypatch.setattr(build, "_run", compile_nothing)
    monkeypatch.setattr(build, "load_ctypes", lambda path: None)
    return tmp_path / "out" / LIBRARY_NAME


def test_interrupted_command_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = _compiles(monkeypatch, tmp_path, KeyboardInterrupt)
    assert build.main(["-o", str(target)]) == 130
    assert capsys.readouterr().err == "algm-build-plugins: interrupted, nothing was written\n"
    assert list(target.parent.iterdir()) == []


@pytest.mark.parametrize("arguments", [[], ["--verbose"]])
def test_terminated_command_takes_its_compilers_along(arguments: list[str], tmp_path: Path) -> None:
    tools, temporary, pid = tmp_path / "tools", tmp_path / "tmp", tmp_path / "pid"
    for folder in (tools, temporary):
        folder.mkdir()
    (tools / "nvcc").write_text(
        f'#!/bin/sh\ntouch "$TMPDIR/scratch"\necho $$ > {pid}.part\nmv {pid}.part {pid}\nsleep 600\n'
    )
    (tools / "cmake").write_text("#!/bin/sh\nnvcc &\nwait\n")
    for tool in tools.iterdir():
        tool.chmod(0o755)
    environment = os.environ | {"PATH": f"{tools}:{os.environ['PATH']}", "TMPDIR": str(temporary)}
    environment.pop("CUDACXX", None)
    target = tmp_path / "out" / LIBRARY_NAME
    program = "from algm_trt.plugins.build import main; raise SystemExit(main())"
    command = [sys.executable, "-c", program, "-o", str(target), *arguments]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not pid.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    compiler = int(pid.read_text())
    process.terminate()
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (143, "algm-build-plugins: interrupted, nothing was written\n")
    assert list(temporary.iterdir()) == list(target.parent.iterdir()) == []
    while Path(f"/proc/{compiler}").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not Path(f"/proc/{compiler}").exists()


def test_what_it_says_can_be_pasted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "a folder"
    folder.mkdir()
    _compiles(monkeypatch, folder, None)
    assert build.main(["-o", str(folder / "lib.so")]) == 0
    assert capsys.readouterr().out.endswith(f"set {LIBRARY_VARIABLE}='{folder}/lib.so' to use it\n")


def test_a_library_behind_another_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The one that pip built is found before the cache."""
    monkeypatch.delenv(LIBRARY_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(plugins, "__path__", [str(tmp_path / "package")])
    _compiles(monkeypatch, tmp_path, None)
    assert build.main([]) == 0
    assert LIBRARY_VARIABLE not in capsys.readouterr().out
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / LIBRARY_NAME).touch()
    assert build.main([]) == 0
    assert capsys.readouterr().out.endswith(f"set {LIBRARY_VARIABLE}={cache_library()} to use it\n")


BUILT = """
import sys
from pathlib import Path
from algm_trt.plugins import build

build.build_library = lambda options: Path(sys.executable)
sys.exit(build.main(["-o", sys.argv[1]]))
"""


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_an_output_that_is_full_or_not_read_is_no_traceback(unbuffered: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", BUILT, str(tmp_path / "lib.so")]
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    if Path("/dev/full").exists():
        with Path("/dev/full").open("wb") as full:
            done = subprocess.run(command, env=environment, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
        assert done.returncode == 1
        assert done.stderr == "algm-build-plugins: cannot write the output: No space left on device\n"
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(command, env=environment, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize(("closed", "code"), [("1", 0), ("2", 0), ("2", 2)])
def test_a_closed_stream_changes_nothing(closed: str, code: int, tmp_path: Path) -> None:
    program = BUILT if code == 0 else "from algm_trt.plugins.build import main; raise SystemExit(main(['-j', '0']))"
    command = ["sh", "-c", f'exec "$0" "$@" {closed}>&-', sys.executable, "-c", program, str(tmp_path / "lib.so")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (code, "")
    assert ("MiB, built in" in done.stdout) == (closed == "2" and code == 0)


def test_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda name: f"1.2.3 of {name}")
    with pytest.raises(SystemExit) as stop:
        build.main(["--version"])
    assert (stop.value.code, capsys.readouterr().out) == (0, "algm-build-plugins 1.2.3 of algm-trt\n")


def test_full_disk_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(source: Path, target: Path) -> None:
        Path(target).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    target = _compiles(monkeypatch, tmp_path, None)
    monkeypatch.setattr(build.shutil, "copyfile", full)
    assert build.main(["-o", str(target)]) == 1
    assert list(target.parent.iterdir()) == []


@pytest.mark.parametrize("output", ["out", "file/lib.so"])
def test_unusable_place_is_told_before_minutes_of_compiling(
    output: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _compiles(monkeypatch, tmp_path, AssertionError)
    (tmp_path / "out").mkdir()
    (tmp_path / "file").touch()
    assert build.main(["-o", str(tmp_path / output)]) == (2 if output == "out" else 1)


def test_a_cache_that_cannot_be_written_has_a_cure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _compiles(monkeypatch, tmp_path, AssertionError)
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert build.main([]) == 1
    assert capsys.readouterr().err.endswith("; name another place with -o, or set XDG_CACHE_HOME\n")
    assert build.main(["-o", str(tmp_path / "file" / "lib.so")]) == 1
    assert "XDG_CACHE_HOME" not in capsys.readouterr().err


SAYS = {
    "-- Looking for a CXX compiler - NOTFOUND": False,
    "CMake Error at CMakeLists.txt:35 (message):": True,
    "  algm: no working C++ compiler found": True,
    "": False,
    "Call Stack (most recent call first):": False,
    "  CMakeLists.txt:67 (algm_give_up)": False,
    "lib/report.cpp:3:1: fatal error: no.h: No such file": True,
    "/bin/sh: nvcc: not found": True,
    "cc1plus: No space left on device": True,
    "-- Configuring incomplete, errors occurred!": False,
    'See also "/tmp/algm-build-x/CMakeFiles/CMakeError.log".': False,
}


def _fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, says: str) -> None:
    """A cmake that says something and fails."""
    (tmp_path / "says").write_text(says)
    (tmp_path / "cmake").write_text(f"#!/bin/sh\ncat {tmp_path}/says\nexit 1\n")
    (tmp_path / "cmake").chmod(0o755)
    monkeypatch.setattr(build, "_tool", lambda name: str(tmp_path / name))
    monkeypatch.setattr(build, "find_nvcc", lambda: Path("nvcc"))


def test_what_failed_is_shown_without_what_surrounds_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _fails(monkeypatch, tmp_path, "\n".join(SAYS))
    assert build.main(["-o", str(tmp_path / "lib.so")]) == 1
    first, *shown = capsys.readouterr().err.splitlines()
    assert "failed with status 1: (--verbose shows all it says)" in first
    assert shown == [line for line, tells in SAYS.items() if tells]


def test_a_failure_without_a_cause_shows_the_end(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _fails(monkeypatch, tmp_path, "\n".join(f"step {number}" for number in range(100)))
    assert build.main(["-o", str(tmp_path / "lib.so")]) == 1
    assert capsys.readouterr().err.splitlines()[1:] == [f"step {number}" for number in range(80, 100)]


def test_a_full_temporary_folder_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _fails(monkeypatch, tmp_path, "CMake Error: the C++ compiler is not able to compile a simple test program")
    total, used, _ = usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(build.shutil, "disk_usage", lambda path: type(usage)(total, used, 0))
    monkeypatch.setattr(build.tempfile, "tempdir", str(tmp_path))
    assert build.main(["-o", str(tmp_path / "lib.so")]) == 1
    assert capsys.readouterr().err.endswith(f"no space is left in {tmp_path}; set TMPDIR to a folder that has some\n")


@pytest.mark.parametrize(("wanted", "code"), [("", "80-virtual"), ("120;90", "90-virtual")])
def test_every_newer_device_finds_code(nvcc: Path, tmp_path: Path, wanted: str, code: str) -> None:
    command = ["cmake", "-S", str(Path(build.__file__).parent), "-B", str(tmp_path), "-DALGM_BUILD_PLUGINS=ON"]
    command += [f"-DALGM_CUDA_ARCHITECTURES={wanted}", f"-DCMAKE_CUDA_COMPILER={nvcc}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    line = next(line for line in done.stdout.splitlines() if "building for" in line)
    assert line.endswith(f";{code}")


def test_a_launch_is_not_blamed_for_the_one_before(nvcc: Path, tmp_path: Path) -> None:
    sources, program = Path(__file__).with_name("launch"), tmp_path / "launch_twice"
    native = Path(build.__file__).with_name("native")
    command = [nvcc, "-std=c++17", "-arch=sm_80", "-cudart=none", f"-I{native}", "-o", program]
    command += [sources / "launch_twice.cu", sources / "runtime.c"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert subprocess.run([program], capture_output=True, text=True, check=True).stdout == "4 0\n"


@pytest.mark.heavy
@pytest.mark.usefixtures("nvcc")
def test_command_builds_a_library_that_loads(tmp_path: Path) -> None:
    target = tmp_path / "out" / LIBRARY_NAME
    code = (
        f"import sys; from algm_trt.plugins.build import main; sys.exit(main(['--arch', '90', '-o', {str(target)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"{LIBRARY_VARIABLE}={target}" in done.stdout
    assert [path.name for path in target.parent.iterdir()] == [LIBRARY_NAME]  # no draft is left
    built = load_ctypes(target)
    assert built.algm_version() == INTERFACE_VERSION
    built.algm_sources.restype = ctypes.c_char_p
    assert built.algm_sources().decode() == sources_digest()


def test_digest_is_of_what_is_compiled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shutil.copytree(Path(__file__).parents[2] / "plugins" / "native", tmp_path / "native")  # the checkout's
    before = sources_digest()
    monkeypatch.setattr(build, "_SOURCES", tmp_path)
    assert sources_digest() == before
    shutil.rmtree(tmp_path / "native" / "cpu_twin")  # which no wheel has
    assert sources_digest() == before
    with (tmp_path / "native" / "common" / "warp.cuh").open("a") as file:
        file.write("\n")
    assert sources_digest() != before
