"""Locks of file systems that other machines have too, emulated."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest


def refuse_locks_as_smb_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a lock that another machine has be refused with EACCES, as on SMB shares, in place of EAGAIN."""
    real = {"fcntl": fcntl.fcntl, "flock": fcntl.flock}

    def refused(call: str, *arguments: Any) -> Any:
        try:
            return real[call](*arguments)
        except BlockingIOError as error:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES)) from error

    _replace_locks(monkeypatch, refused)


def take_locks_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the file system have none, as NFS without a lock daemon."""

    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    _replace_locks(monkeypatch, refuse)


def _replace_locks(monkeypatch: pytest.MonkeyPatch, by: Callable[..., Any]) -> None:
    for call in ("fcntl", "flock"):
        monkeypatch.setattr(fcntl, call, partial(by, call))
