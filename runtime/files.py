"""Writing files so that a reader never sees half of one: temporary names in the same folder, renamed at the end."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile


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
    """Find out before long work whether a file can be written; it leaves nothing, and makes no folder.

    Raises:
        IsADirectoryError: it is a folder.
        OSError: it cannot be written, or the folders that it is to lie in cannot be made.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder")
    folder = path.parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(f"cannot write into {folder}: {error.strerror}") from error


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
