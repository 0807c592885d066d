"""What is said and asked of paths: how they print, where they lead, how they sort."""

from __future__ import annotations

import os
import re
from pathlib import Path


def printable(path: str | os.PathLike[str]) -> str:
    """A path for messages and logs, always on one line and valid UTF-8: other bytes and control characters escaped."""
    return "".join(char if char.isprintable() else _escaped(char) for char in os.fspath(path))


def _escaped(char: str) -> str:
    if "\udc80" <= char <= "\udcff":  # a byte of a name that is not UTF-8
        return f"\\x{ord(char) - 0xDC00:02x}"
    return char.encode("unicode_escape").decode()


def real_path(path: Path) -> Path:
    """Where a path leads when all links are followed; of links that lead to themselves what can be told."""
    return Path(os.path.realpath(path))  # resolve() raises at links that lead to themselves


def absolute_path(path: Path) -> Path:
    """Without `..`, by the text alone: links stay what the user called them."""
    return Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow links


def natural_key(text: str) -> tuple[tuple[str | int, ...], str]:
    """Sort key that counts: "b2" before "b10", capitals beside small letters. Equal for equal texts only."""
    parts = re.split(r"([0-9]+)", text.casefold())
    return tuple(int(part) if index % 2 else part for index, part in enumerate(parts)), text
