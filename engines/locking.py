"""Changing files that other processes change at the same time."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from algm_trt.runtime.files import renamed_together


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other builds out of a folder for a moment; the lock is on the folder itself and leaves no file.

    Where the file system has no such locks, the block runs without. On NFS and SMB shares each machine has its own.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def update_file(path: Path, change: Callable[[bytes], bytes]) -> None:
    """Replace a file by what `change` makes of its content (empty if there is none); concurrent updates all count.

    Raises:
        OSError: the folder or the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path.parent), renamed_together() as temporary:
        content = change(path.read_bytes() if path.is_file() else b"")
        temporary(path, nameless=True).write_bytes(content)
