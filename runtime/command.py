"""What all commands share: errors become one line and an exit code, and the version."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from algm_trt.plugins.errors import AlgmError

INTERRUPTED = 130


def run_command(name: str, action: Callable[[], int], *, interrupted: str = "interrupted") -> int:
    """Run the body of a command; returns its exit code, or that of the error that ended it.

    Args:
        name: of the command, in front of the message.
        action: the body.
        interrupted: what to say after Ctrl-C.
    """
    try:
        return action()
    except AlgmError as error:
        return _complain(name, str(error), error.exit_code)
    except KeyboardInterrupt:
        return _complain(name, interrupted, INTERRUPTED)
    except OSError as error:
        return _complain(name, str(error), AlgmError.exit_code)


class VersionAction(argparse.Action):
    """`--version`: looks the version up only when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        """Print the version and leave."""
        from importlib.metadata import version

        sys.stdout.write(f"{parser.prog} {version('algm-trt')}\n")
        parser.exit()


def positive_int(text: str) -> int:
    """An argument that counts something.

    Raises:
        argparse.ArgumentTypeError: less than one.
        ValueError: not a whole number.
    """
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return number


def _complain(name: str, message: str, code: int) -> int:
    text = " ".join(message.split()).encode("utf-8", "backslashreplace").decode()
    sys.stderr.write(f"{name}: {text}\n")
    return code
