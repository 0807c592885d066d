"""What the arguments of all commands have in common: the parser, and types of options."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any, TypeVar

from algm_trt.plugins.command import say

T = TypeVar("T")


def command_parser(name: str, description: str, epilog: str) -> argparse.ArgumentParser:
    """The parser of a command, with --version.

    Args:
        name: of the command.
        description: what it does, in one sentence.
        epilog: what stands below the options, exit codes included; its lines stay as they are.
    """
    parser = _Parser(
        prog=name, description=description, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action=VersionAction, nargs=0, help="print the version")
    return parser


class _Parser(argparse.ArgumentParser):
    """Refuses `--option=--`, which some versions of Python take for an empty list whatever the option's type."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        found, others = super().parse_known_args(args, namespace)
        for name, value in vars(found).items():
            if value == []:
                self.error(f"argument --{name.replace('_', '-')}: expected one argument")
        return found, others


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
            say(f"{parser.prog} {number}")
        parser.exit()


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


def whole_numbers(text: str) -> tuple[int, ...]:
    """An argument such as 80,90.

    Raises:
        argparse.ArgumentTypeError: something else.
    """
    return _separated(text, int, "whole numbers")


def numbers(text: str) -> tuple[float, ...]:
    """An argument such as 0.5,0.75,1.

    Raises:
        argparse.ArgumentTypeError: something else.
    """
    return _separated(text, float, "numbers")


def _separated(text: str, kind: Callable[[str], T], what: str) -> tuple[T, ...]:
    try:
        return tuple(kind(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be {what} with commas between, got {text!r}") from None
