"""When a run gives up writing: a full disk would fail picture after picture, each computed for nothing."""

from __future__ import annotations

import errno
from typing import Final

from algm_trt.plugins.errors import AlgmError
from algm_trt.runtime.writers import NAME_REFUSED, WriteError

_FAILURES_BEFORE_GIVING_UP: Final = 3
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
_LASTING: Final = (*_FULL, errno.EROFS)
_OF_ONE_PICTURE: Final = (errno.EFBIG, errno.ENAMETOOLONG, *NAME_REFUSED)
"""Another picture's file may be smaller, or have a shorter or plainer name."""


class OutputFailedError(AlgmError):
    """The output folder takes no more files."""


class WriteWatch:
    """Tells a folder that takes nothing any more from a picture that cannot be written.

    A disk is full for a large file while it has room for a small one, so that one failure ends nothing: three pictures
    in a row do that cannot be written. What else the system may refuse counts until a first picture is written only:
    later it is about some of the folders.
    """

    def __init__(self) -> None:
        self._any_success = False
        self._failures = 0
        self._last: WriteError | None = None

    def note(self, error: Exception | None) -> None:
        """Take note of an input's end.

        Args:
            error: what stopped it; None where all of its files are written. Errors that are not about writing count
                for nothing.
        """
        if error is None:
            self._any_success = True
            self._failures = 0
        elif isinstance(error, WriteError) and self._counts(error.__cause__):
            self._failures += 1
            self._last = error

    def check(self) -> None:
        """Raise if no input to come can be expected to be written.

        Raises:
            OutputFailedError: the last ones could not be.
        """
        if self._failures >= _FAILURES_BEFORE_GIVING_UP and self._last is not None:
            message = f"no more pictures can be written: {self._last}"
            raise OutputFailedError(message + cure_of(self._last.__cause__)) from self._last

    def _counts(self, cause: BaseException | None) -> bool:
        if not isinstance(cause, OSError) or cause.errno in _OF_ONE_PICTURE:
            return False
        return cause.errno in _LASTING or not self._any_success


def cure_of(cause: BaseException | None) -> str:
    """What to append to a message about what the system refused: what helps, where that is known, else ""."""
    full = isinstance(cause, OSError) and cause.errno in _FULL
    return ": free space, then --resume goes on" if full else ""
