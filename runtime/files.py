"""Writing files so that a reader never sees half of one: temporary names in the same folder, renamed at the end."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from errno import EISDIR
from pathlib import Path


@contextmanager
def renamed_together() -> Iterator[Callable[[Path], Path]]:
    """Write several files or folders, all of them or none.

    The block gets a function from the final path to the temporary path to write. When the block ends well, all are
    renamed; when it raises, all are removed. A folder replaces the folder of that name.

    Raises:
        OSError: the folder cannot be made or a file cannot be renamed.
    """
    pending: list[tuple[Path, Path]] = []

    def temporary(path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = draft_of(path)
        _remove(draft)
        pending.append((draft, path))
        return draft

    try:
        yield temporary
        for draft, path in pending:
            if draft.is_dir() and path.is_dir():
                shutil.rmtree(path)
            draft.replace(path)
    finally:
        for draft, _ in pending:
            _remove(draft)


def check_writable(path: Path) -> None:
    """Find out before long work whether a file can be written; the folders that it lies in are made.

    Raises:
        OSError: it cannot.
    """
    if path.is_dir():
        raise IsADirectoryError(EISDIR, "it is a folder", str(path))
    draft = draft_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.touch()
        _remove(draft)
    except OSError as error:
        raise OSError(error.errno, "it cannot be written", str(path)) from error


def draft_of(path: Path) -> Path:
    """A short temporary name that depends on the final one alone.

    A run that was killed leaves its draft behind; the run that writes the same file again takes the same name, so that
    nothing piles up. The suffix stays because some writers choose the format by it.
    """
    digest = hashlib.sha1(os.fsencode(path.name), usedforsecurity=False).hexdigest()
    return path.with_name(f".{digest[:16]}.part{path.suffix}")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
