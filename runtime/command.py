"""What all commands share: errors as one line and an exit code, output, common argument types, the version."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Callable
from typing import TextIO

from algm_trt.plugins.errors import AlgmError, MissingDependencyError
from algm_trt.plugins.stopping import exit_code, stop_behind, stops_cleanly

READER_GONE = 141


def run_command(name: str, action: Callable[[], int], *, interrupted: str = "interrupted") -> int:
    """Run the body of a command; returns its exit code, or that of the error that ended it.

    Where nobody reads the output any more, it ends silently with READER_GONE, as other programs do.

    Args:
        name: of the command, in front of the message.
        action: the body.
        interrupted: what to say after Ctrl-C or SIGTERM.
    """
    _open_missing_streams()
    switch_telemetry_off()
    with stops_cleanly():
        try:
            code = action()
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
        return _flush_output(name, code)


def switch_telemetry_off() -> None:
    """Keep libraries that are imported later from sending usage data to their makers.

    Recent builds of ONNX Runtime do, and warn where they cannot store an identifier. OpenVINO does at every import,
    from a thread, through a package that it can do without.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # importing it fails then


class VersionAction(argparse.Action):
    """`--version`: looks the version up only when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        """Print the version and leave."""
        from importlib.metadata import PackageNotFoundError, version

        try:
            number = version("algm-trt")
        except PackageNotFoundError:
            number = "of unknown version: it is not installed"
        if sys.stdout is not None:  # started with `>&-`
            sys.stdout.write(f"{parser.prog} {number}\n")
        parser.exit()


def say(stream: TextIO, text: str) -> None:
    """Print a line, or several, on any terminal: what its encoding lacks is escaped."""
    encoding = stream.encoding or "utf-8"
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")


def positive_int(text: str) -> int:
    """An argument that counts something.

    Raises:
        argparse.ArgumentTypeError: less than one, or not a whole number.
    """
    try:
        number = int(text)
    except ValueError:
        # argparse would name this function in its own message.
        raise argparse.ArgumentTypeError(f"must be a whole number, got {text!r}") from None
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return number


def numbers(text: str) -> tuple[float, ...]:
    """An argument such as 0.5,0.75,1.

    Raises:
        argparse.ArgumentTypeError: something else.
    """
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"must be numbers with commas between, got {text!r}") from error


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


def _flush_output(name: str, code: int) -> int:
    """Write what is left to write; returns the exit code.

    Python would do it at its end, with a traceback where the reader has gone (`| head -1`) or the disk is full.
    """
    try:
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        code = READER_GONE
    except OSError as error:
        code = _complain(name, f"cannot write the output: {error.strerror}", AlgmError.exit_code)
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python still tries to write
    return code


def _complain(name: str, message: str, code: int) -> int:
    text = " ".join(message.split()).encode("utf-8", "backslashreplace").decode()
    sys.stderr.write(f"{name}: {text}\n")
    return code
