"""Writing files so that a reader never sees half of one: named in the same folder for a time, or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Final, Protocol

from algm_trt.runtime.file_lock import leads_to, lock_alone

_DESCRIPTORS: Final = "/proc/self/fd/"
_OPEN_FILES: Final = ("/dev/stdout", "/dev/stderr", "/dev/fd/", _DESCRIPTORS)
_PATIENCE_SECONDS: Final = 2.0


class Temporary(Protocol):
    """What `renamed_together` gives its block."""

    def __call__(self, path: Path, *, folder: bool = False, nameless: bool = False) -> Path:
        """From the final path to the temporary path to write or, with `folder`, to make and fill.

        With `nameless` the file gets a name only when it is renamed, where the file system can do that: a process that
        is killed leaves nothing. The path says nothing then, and has no suffix.
        """
        ...


@contextmanager
def renamed_together() -> Iterator[Temporary]:
    """Write several files or folders, all of them or none.

    The block gets a function that gives temporary paths. When the block ends well, all are renamed; when it raises, or
    something else has one of the names, all are removed. A folder replaces the folder of that name. Any number of
    threads and processes may write the same file at a time: the last one's stays.

    Raises:
        OSError: the folder cannot be made, a file cannot be renamed, or a device or a pipe has one of the names.
    """
    pending: list[tuple[Path, Path]] = []
    with ExitStack() as locks:

        def temporary(path: Path, *, folder: bool = False, nameless: bool = False) -> Path:
            if is_special(path):
                raise OSError(errno.EEXIST, "is no file that could be replaced", str(path))
            path.parent.mkdir(parents=True, exist_ok=True)
            if folder:
                draft = draft_of(path)
                _remove(draft)
            elif nameless and (opened := _open_nameless(path.parent)) is not None:
                draft = Path(f"{_DESCRIPTORS}{opened}")
                locks.callback(os.close, opened)
            else:
                draft, lock = _own_draft(path)
                locks.callback(os.close, lock)
            pending.append((draft, path))
            return draft

        try:
            yield temporary
            for draft, path in pending:
                _check_place(draft, path)
            while pending:
                draft, path = pending[0]
                if _is_nameless(draft):
                    opened, draft = draft, path.with_name(f".{secrets.token_hex(8)}.part")
                    pending[0] = draft, path
                    _name(opened, draft)
                if draft.is_dir() and path.is_dir():
                    shutil.rmtree(path)
                replace_patiently(draft, path)
                del pending[0]  # the name may be another's from here on
        finally:
            for draft, _ in pending:
                if not _is_nameless(draft):
                    _remove(draft)


def write_report(path: Path, content: str | bytes) -> None:
    """Write a text in UTF-8, or bytes: a file whole or not at all, also where a link leads to it; no file as it comes.

    Raises:
        OSError: it cannot be written.
    """
    data = content.encode() if isinstance(content, str) else content
    if is_special(path):
        with path.open("ab") as special:  # a pipe, or /dev/stdout behind what was printed
            special.write(data)
        return
    with renamed_together() as temporary:
        temporary(Path(os.path.realpath(path)), nameless=True).write_bytes(data)


def check_writable(path: Path) -> None:
    """Find out before long work whether a file can be written; it leaves nothing, and makes no folder.

    Raises:
        IsADirectoryError: it is a folder.
        OSError: it cannot be written, or the folders that it is to lie in cannot be made.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder")
    if is_special(path):
        if not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return
    folder = path.parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(f"cannot write into {folder}: {error.strerror}") from error


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def replace_patiently(draft: Path, path: Path) -> None:
    """Rename a file; on SMB shares, which refuse while somebody has the old one open, readers get a moment to close it.

    Raises:
        OSError: it cannot be renamed.
    """
    patience = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            draft.replace(path)
            return
        except OSError as error:
            if error.errno != errno.EACCES or time.monotonic() > patience:
                raise
        time.sleep(_PATIENCE_SECONDS / 100)


def draft_of(path: Path, number: int = 0) -> Path:
    """A short temporary name that depends on the final one, on the machine, and on how many others are in use.

    A run that was killed leaves its draft behind; the run that writes the same file again on this machine takes the
    same name, so that nothing piles up. Machines do not meet in a draft: what one of them knows of a share is seconds
    old, and not all shares pass on locks. The suffix stays because some writers choose the format by it.
    """
    digest = hashlib.sha1(os.fsencode(f"{os.uname().nodename}/{path.name}"), usedforsecurity=False).hexdigest()
    return path.with_name(f".{digest[:16]}{f'.{number}' if number else ''}.part{path.suffix}")


def _own_draft(path: Path) -> tuple[Path, int]:
    """A new draft that nobody else writes, and the descriptor that keeps it so until it is closed."""
    number = 0
    while True:
        draft = draft_of(path, number)
        try:
            descriptor = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            if not _remove_left(draft):
                number += 1
            continue
        if lock_alone(descriptor) and leads_to(draft, descriptor):
            return draft, descriptor
        os.close(descriptor)  # somebody took it for one that was left


def _remove_left(draft: Path) -> bool:
    """Remove the draft of a run that was killed, whose failures NFS would repeat; False if its name is not free."""
    try:
        descriptor = os.open(draft, os.O_RDWR | os.O_NOFOLLOW)
    except (FileNotFoundError, PermissionError):  # read on an SMB share, which keeps the name so long; another user's
        return False
    except OSError:  # something else has the name
        _remove(draft)
        return True
    try:
        if not lock_alone(descriptor):
            return False
        if leads_to(draft, descriptor):
            draft.unlink()
        return True
    finally:
        with suppress(OSError):  # the failures
            os.close(descriptor)


def _open_nameless(folder: Path) -> int | None:
    """A file of a folder that has no name; None where it cannot be had or could not be named later."""
    if not Path(_DESCRIPTORS).is_dir():
        return None
    try:
        return os.open(folder, os.O_RDWR | os.O_TMPFILE, 0o666)
    except OSError:  # each file system says no in its own way; a real failure comes again with a name
        return None


def _is_nameless(draft: Path) -> bool:
    return draft.as_posix().startswith(_DESCRIPTORS)


def _name(nameless: Path, draft: Path) -> None:
    """Give a file a name beside its final one, for the moment until it is renamed."""
    folder = os.open(draft.parent, os.O_PATH)
    try:
        # With a descriptor os.link follows the link that the path of an open file is; without, it would not.
        os.link(nameless, draft.name, dst_dir_fd=folder, follow_symlinks=True)
    except OSError:  # a file system without hard links
        shutil.copyfile(nameless, draft)
    finally:
        os.close(folder)


def is_special(path: Path) -> bool:
    """Whether it is a device, a pipe, a socket, or a file that this process has open, or leads to one."""
    if path.absolute().as_posix().startswith(_OPEN_FILES):
        return path.exists()
    return path.exists() and not path.is_dir() and not path.is_file()


def _check_place(draft: Path, path: Path) -> None:
    """Find out before the first of several is renamed whether a folder and a file would meet.

    Raises:
        OSError: they would.
    """
    if path.is_symlink() or not path.exists() or path.is_dir() == draft.is_dir():
        return
    number = errno.EISDIR if path.is_dir() else errno.ENOTDIR
    raise OSError(number, os.strerror(number), str(path))


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
