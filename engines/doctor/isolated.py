"""Run a function in a process of its own with a time limit: what crashes or hangs becomes a line of the report.

Drivers hang, damaged libraries end the process, packages print while they are imported: none of it may reach the
doctor. The child writes its answer to a file in memory, so that whatever libraries print does no harm, and no folder
for temporary files is needed.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from algm_trt.plugins.command import switch_telemetry_off
from algm_trt.plugins.errors import MissingDependencyError

_LONGEST_LINE: Final = 300
_PATIENCE: Final = 5.0
"""Seconds for a child to be gone after it was killed."""


@dataclass(frozen=True)
class Answer:
    """What became of a call.

    Attributes:
        value: what the function returned, through JSON (tuples are lists); None if it failed.
        error: why there is no value, one line; "" if there is one.
        missing: whether the error is that a package, a library or a device is not there.
        seconds: that it took, the start of Python included.
    """

    value: Any
    error: str
    missing: bool
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether the function returned."""
        return not self.error


def call(
    function: Callable[..., Any] | str,
    *arguments: Any,
    limit: float = 30.0,
    environment: Mapping[str, str] | None = None,
) -> Answer:
    """Call a function of a module in a child process.

    Args:
        function: at the top level of its module, or its name as "package.module:function".
        *arguments: whatever JSON carries.
        limit: seconds until the child is ended.
        environment: variables to set for the child.
    """
    name = function if isinstance(function, str) else f"{function.__module__}:{function.__qualname__}"
    begin = time.monotonic()
    with open(os.memfd_create("algm-doctor"), "rb") as result:  # noqa: PTH123 - it has no path
        # -P: modules of the working folder must not stand in for installed ones.
        command = [sys.executable, "-P", "-m", __name__, name, json.dumps(arguments), str(result.fileno())]
        variables = {**os.environ, **(environment or {})}
        try:
            # A session of its own, so that the end of the child is the end of what it started, compilers for one.
            child = subprocess.Popen(
                command,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                pass_fds=(result.fileno(),),
                start_new_session=True,
            )
        except OSError as error:
            return Answer(None, f"no process can be started: {error}", False, time.monotonic() - begin)
        try:
            _, said = child.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            return Answer(None, f"no answer within {limit:.0f} s", False, time.monotonic() - begin)
        finally:
            _end(child)
        seconds = time.monotonic() - begin
        result.seek(0)
        try:
            found = json.loads(result.read())
        except ValueError:  # none, or a part: it ended while it wrote
            return Answer(None, _death(child.returncode, said), False, seconds)
    return Answer(found["value"], found["error"], found["missing"], seconds)


def _end(child: subprocess.Popen[str]) -> None:
    """Stop the child and all it started, if it has not ended."""
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGKILL)
        # A process that hangs inside a driver cannot be ended; it is left behind.
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.communicate(timeout=_PATIENCE)


def _death(status: int, said: str) -> str:
    """How a child ended that left no answer."""
    if status < 0:
        try:
            how = f"the process was ended by {signal.Signals(-status).name}"
        except ValueError:
            how = f"the process was ended by signal {-status}"
    else:
        how = f"the process ended with status {status}"
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return one_line(f"{how}: {lines[-1]}" if lines else how)


def one_line(text: str) -> str:
    """A message on one line, cut where it is endless."""
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST_LINE else f"{line[: _LONGEST_LINE - 3]}..."


def _child(name: str, arguments: str, result: str) -> None:
    """Call the function and leave its answer in the file with the descriptor `result`."""
    answer: dict[str, Any] = {"value": None, "error": "", "missing": False}
    switch_telemetry_off()
    try:
        module, function = name.split(":")
        answer["value"] = getattr(importlib.import_module(module), function)(*json.loads(arguments))
    except ModuleNotFoundError as error:
        answer |= {"error": f"{error.name} is not installed", "missing": True}
    except MissingDependencyError as error:
        answer |= {"error": one_line(str(error)), "missing": True}
    except Exception as error:
        # Whatever a package raises while it is imported or asked is what the report is about.
        answer["error"] = one_line(str(error)) or type(error).__name__
    with open(int(result), "wb") as file:  # noqa: PTH123 - it has no path
        file.write(json.dumps(answer).encode())


if __name__ == "__main__":
    _child(*sys.argv[1:])
    # Some libraries crash while the interpreter takes them apart; the answer is written.
    os._exit(0)
