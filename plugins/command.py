"""What all commands share: how they run, what they print, and how they end: errors as one line and an exit code."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import TextIO

from algm_trt.plugins.errors import AlgmError, MissingDependencyError
from algm_trt.plugins.stopping import exit_code, stop_behind, stops_cleanly

READER_GONE = 141


class OutputError(AlgmError):
    """Standard output cannot be written."""

    def __init__(self, error: OSError) -> None:
        super().__init__(f"cannot write the output: {error.strerror}")


def run_command(name: str, action: Callable[[], int], *, interrupted: str = "interrupted") -> int:
    """Run a command; returns its exit code, or that of the error that ended it.

    Where nobody reads the output any more, it ends silently with READER_GONE, as other programs do. Messages that
    cannot be written change nothing.

    Args:
        name: of the command, in front of the message.
        action: all of it, the parsing of its arguments included.
        interrupted: what to say after Ctrl-C or SIGTERM.

    Raises:
        SystemExit: the arguments are wrong, or ask for help or the version.
    """
    _open_missing_streams()
    switch_telemetry_off()
    with stops_cleanly():
        try:
            code = action()
        except SystemExit as leaving:
            leaving.code = _flush(name, int(leaving.code or 0))
            raise
        except (AlgmError, ImportError) as error:
            stop = stop_behind(error)
            code = _complain(name, *((interrupted, exit_code(stop)) if stop else _told(error)))
        except KeyboardInterrupt as stop:
            code = _complain(name, interrupted, exit_code(stop))
        except BrokenPipeError:
            code = READER_GONE
        except OSError as error:
            cure = ": set TMPDIR to a folder that can be written" if "temporary directory" in str(error) else ""
            code = _complain(name, f"{error}{cure}", AlgmError.exit_code)
        return _flush(name, code)


def switch_telemetry_off() -> None:
    """Keep libraries that are imported later from sending usage data to their makers.

    Recent builds of ONNX Runtime do, and warn where they cannot store an identifier. OpenVINO does at every import,
    from a thread, through a package that it can do without.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # importing it fails then


def say(text: str) -> None:
    """Print a line, or several, on standard output: whoever reads a file or a pipe sees them now.

    Raises:
        BrokenPipeError: nobody reads them.
        OutputError: they cannot be written.
    """
    try:
        _print(sys.stdout, text)
    except BrokenPipeError:
        raise
    except OSError as error:
        _swallow_the_rest(sys.stdout)
        raise OutputError(error) from error


def remark(text: str) -> None:
    """Print a line on standard error, if it takes one: that nobody can be told is no reason to fail."""
    with suppress(OSError):
        _print(sys.stderr, text)


def _print(stream: TextIO, text: str) -> None:
    """Print on any terminal: what its encoding lacks is escaped."""
    encoding = stream.encoding or "utf-8"
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
    stream.flush()


def _open_missing_streams() -> None:
    """Give a command that was started with a stream closed (`>&-`) one that swallows what is written to it."""
    for stream in ("stdout", "stderr"):
        if getattr(sys, stream) is None:
            setattr(sys, stream, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))


def _told(error: AlgmError | ImportError) -> tuple[str, int]:
    """Message and exit code; a package may be there and yet be broken, or be missing though it is always needed."""
    if isinstance(error, AlgmError):
        return str(error), error.exit_code
    innermost = [frame for frame, _ in traceback.walk_tb(error.__traceback__)][-1]
    package = (error.name or innermost.f_globals["__name__"]).split(".")[0]
    reason = (str(error).strip().splitlines() or ["no reason given"])[0]
    message = f"{package} cannot be imported ({reason}): install the package that it belongs to again"
    return message, MissingDependencyError.exit_code


def _flush(name: str, code: int) -> int:
    """Write what is left to write; returns the exit code.

    Python would do it at its end, with a traceback where the reader has gone (`| head -1`) or the disk is full.
    """
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        code = READER_GONE
        _swallow_the_rest(sys.stdout)
    except OSError as error:
        code = _complain(name, str(OutputError(error)), OutputError.exit_code)
        _swallow_the_rest(sys.stdout)
    try:
        sys.stderr.flush()
    except OSError:
        _swallow_the_rest(sys.stderr)
    return code


def _swallow_the_rest(stream: TextIO) -> None:
    """Let nothing come of what Python still tries to write to a stream at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _complain(name: str, message: str, code: int) -> int:
    remark(f"{name}: {' '.join(message.split())}")
    return code
