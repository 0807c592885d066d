"""A lock on an open file, against other threads, processes and, on NFS and SMB shares, machines."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from pathlib import Path
from typing import Final

_LOCKED_BYTE: Final = 2**62


def lock_alone(descriptor: int) -> bool:
    """Keep everybody else out who asks here, threads too, until the descriptor is closed; False if somebody is in.

    Where the file system has no locks, all get in.
    """
    try:
        _lock(descriptor)
    except (BlockingIOError, PermissionError):  # the latter where another machine has it
        return False
    except OSError:
        return True
    return True


def leads_to(path: Path, descriptor: int) -> bool:
    """Whether a path is that of an open file: its owner may just have renamed it."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _lock(descriptor: int) -> None:
    """Lock a byte far behind the content: on SMB shares nobody can read or write what is locked.

    Not even the owner can, through another descriptor. Linux emulations without such locks may have those of whole
    files.
    """
    region = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, _LOCKED_BYTE, 1, 0)
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, region)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
