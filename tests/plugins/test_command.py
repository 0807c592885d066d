"""How commands end: exit codes, and an output that nobody reads, that is full, or that is not there."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from algm_trt.plugins.arguments import command_parser, positive_int
from algm_trt.plugins.command import READER_GONE, run_command
from algm_trt.plugins.errors import AlgmError, UsageError
from algm_trt.plugins.stopping import Terminated

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys
from algm_trt.plugins.command import remark, run_command

def action():
    sys.stdout.write("a line\\n" * int(sys.argv[1]))
    remark("a remark")
    return 5

sys.exit(run_command("algm-some", action))
"""


def start(lines: int, unbuffered: str, **streams: int) -> subprocess.Popen[bytes]:
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    return subprocess.Popen([sys.executable, "-c", PROGRAM, str(lines)], env=environment, **streams)


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (AlgmError("broken\n  by a stone"), 1, "algm-some: broken by a stone\n"),
        (UsageError("no"), 2, "algm-some: no\n"),
        (FileNotFoundError(2, "No such file", "x"), 1, "algm-some: [Errno 2] No such file: 'x'\n"),
        (
            ImportError("Error importing: broken\n\nmany\nlines", name="numpy.core"),
            4,
            "algm-some: numpy cannot be imported (Error importing: broken): "
            "install the package that it belongs to again\n",
        ),
        (KeyboardInterrupt(), 130, "algm-some: interrupted\n"),
        (Terminated(), 143, "algm-some: interrupted\n"),
        (BrokenPipeError(), READER_GONE, ""),
    ],
)
def test_errors_become_one_line_and_a_code(
    error: BaseException, code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def action() -> int:
        raise error

    assert run_command("algm-some", action) == code
    assert capsys.readouterr().err == message


@pytest.mark.parametrize(("text", "said"), [("abc", "a whole number, got 'abc'"), ("0", "at least 1, got 0")])
def test_what_does_not_count_is_told_in_words(text: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser(prog="algm-some")
    parser.add_argument("--limit", type=positive_int)
    with pytest.raises(SystemExit):
        parser.parse_args(["--limit", text])
    assert capsys.readouterr().err.endswith(f"algm-some: error: argument --limit: must be {said}\n")


def test_two_dashes_are_no_value_of_an_option(capsys: pytest.CaptureFixture[str]) -> None:
    parser = command_parser("algm-some", "", "")
    parser.add_argument("inputs", nargs="*", default="none")
    parser.add_argument("--batch-size", type=positive_int)
    assert parser.parse_args(["--batch-size", "2", "--", "--batch-size=--"]).inputs == ["--batch-size=--"]
    with pytest.raises(SystemExit):
        parser.parse_args(["--batch-size=--"])
    assert capsys.readouterr().err.splitlines()[-1].startswith("algm-some: error: argument --batch-size: ")


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("lines", [1, 100_000])
def test_a_reader_that_has_gone_ends_it_silently(lines: int, unbuffered: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    process = start(lines, unbuffered, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == READER_GONE
    assert errors in (b"", b"a remark\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_one_line() -> None:
    with Path("/dev/full").open("wb") as full:
        process = start(1, "", stdout=full.fileno(), stderr=subprocess.PIPE)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors == b"a remark\nalgm-some: cannot write the output: No space left on device\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(("argument", "code", "said"), [("1", 5, b"a line\n"), ("wrong", 2, b"")])
def test_messages_that_cannot_be_written_change_nothing(argument: str, code: int, said: bytes, unbuffered: str) -> None:
    program = PROGRAM.replace(
        "def action():", "def action():\n    if sys.argv[1] == 'wrong': raise UsageError('no number')"
    )
    program = f"from algm_trt.plugins.errors import UsageError\n{program}"
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-c", program, argument],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=full,
            check=False,
        )
    assert (done.returncode, done.stdout) == (code, said)


SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]


@pytest.mark.parametrize("command", SCRIPTS)
def test_modules_of_commands_run(command: str) -> None:
    module = SCRIPTS[command].removesuffix(":main")
    start = [sys.executable, "-m", module]
    done = subprocess.run([*start, "--version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{command} ")
    if Path("/dev/full").exists():
        with Path("/dev/full").open("wb") as full:
            done = subprocess.run([*start, "--version"], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
            unknown = subprocess.run([*start, "--no-such-option"], stderr=full, check=False)
        expected = f"{command}: cannot write the output: No space left on device\n"
        assert (done.returncode, done.stderr, unknown.returncode) == (1, expected, 2)


@pytest.mark.parametrize("stream", ["1", "2"])
def test_a_closed_stream_changes_nothing(stream: str) -> None:
    command = f'exec "$0" -c "$1" 1 {stream}>&-'
    done = subprocess.run(["sh", "-c", command, sys.executable, PROGRAM], capture_output=True, check=False)
    assert done.returncode == 5
    assert done.stdout == (b"" if stream == "1" else b"a line\n")
    assert done.stderr == (b"" if stream == "2" else b"a remark\n")


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (OSError(2, "No usable temporary directory found in ['/tmp']"), "set TMPDIR to a folder that can be written"),
        (OSError(13, "Permission denied"), "Permission denied"),
    ],
)
def test_errors_of_the_system_are_one_line(raised: OSError, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    def action() -> int:
        raise raised

    assert run_command("algm-some", action) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("algm-some: ")
    assert line.endswith(said)


@pytest.mark.parametrize("closing", ["", ">&-"])
def test_the_version_of_what_is_not_installed(closing: str, tmp_path: Path) -> None:
    program = (
        "import argparse, importlib.metadata as m\n"
        "from algm_trt.plugins.arguments import VersionAction\n"
        "def missing(name): raise m.PackageNotFoundError(name)\n"
        "m.version = missing\n"
        "parser = argparse.ArgumentParser('algm-some')\n"
        "parser.add_argument('--version', action=VersionAction, nargs=0)\n"
        "parser.parse_args(['--version'])"
    )
    command = ["sh", "-c", f'exec "$0" -c "$1" {closing}', sys.executable, program]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    expected = "" if closing else "algm-some of unknown version: it is not installed\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, expected, "")


def test_onnxruntime_keeps_no_record_of_the_use(tmp_path: Path) -> None:
    """Its builds since 1.30 at the latest put an identifier and events below the user's cache, to be sent."""
    program = (
        "from algm_trt.engines.sample import SAMPLE_MODEL\n"
        "from algm_trt.runtime.backends.onnxruntime_engine import OnnxRuntimeEngine\n"
        "from algm_trt.plugins.command import run_command\n"
        "raise SystemExit(run_command('algm-some', lambda: OnnxRuntimeEngine(SAMPLE_MODEL, device='cpu').close() or 0))"
    )
    kept = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environment = kept | {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("how", ["run_command('algm-some', use)", "child('program:use')"])
def test_openvino_sends_nothing(how: str, tmp_path: Path) -> None:
    """Its import stores an identifier in the home folder and asks for a server by name, unless it lacks the sender."""
    pytest.importorskip("openvino")
    (tmp_path / "program.py").write_text(
        "import os, socket, threading\n"
        "socket.getaddrinfo = lambda *_, **__: os._exit(9)\n"
        "def use():\n"
        "    import openvino\n"
        "    return len(threading.enumerate()) - 1\n"
    )
    program = (
        "import os\n"
        "from program import use\n"
        "from algm_trt.plugins.command import run_command\n"
        "from algm_trt.engines.doctor.isolated import _child\n"
        "child = lambda name: _child(name, '[]', str(os.memfd_create('answer')))\n"
        f"raise SystemExit({how})"
    )
    home = tmp_path / "home"
    home.mkdir()
    environment = {**os.environ, "HOME": str(home), "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert list(home.iterdir()) == []


def test_an_interrupted_import_is_an_interruption(capsys: pytest.CaptureFixture[str]) -> None:
    """A compiled module that Ctrl-C hits while it is imported raises ImportError from KeyboardInterrupt."""

    def action() -> int:
        try:
            try:
                raise KeyboardInterrupt
            except KeyboardInterrupt as error:
                raise ImportError("initialization failed") from error
        except ImportError as error:
            raise AlgmError("some is not installed (initialization failed)") from error

    assert run_command("algm-some", action) == 130
    assert capsys.readouterr().err == "algm-some: interrupted\n"
