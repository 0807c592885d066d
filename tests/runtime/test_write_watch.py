"""When a run gives up writing, and when it goes on."""

from __future__ import annotations

import errno
import os

import pytest

from algm_trt.runtime.decode import DecodeError
from algm_trt.runtime.write_watch import OutputFailedError, WriteWatch
from algm_trt.runtime.writers import WriteError


def refused(number: int | None) -> WriteError:
    error = WriteError("cannot write")
    error.__cause__ = None if number is None else OSError(number, os.strerror(number))
    return error


def gives_up(*errors: Exception | None) -> bool:
    watch = WriteWatch()
    for error in errors:
        watch.note(error)
    try:
        watch.check()
    except OutputFailedError:
        return True
    return False


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_three_in_a_row_end_a_run_at_any_time(number: int) -> None:
    full = refused(number)
    assert gives_up(full, full, full)
    assert gives_up(None, full, DecodeError("not a picture"), full, full)
    assert not gives_up(full, full, None, full, full)
    assert not gives_up(full, full)


def test_what_else_is_refused_ends_a_run_that_has_written_nothing() -> None:
    denied = refused(errno.EACCES)
    assert gives_up(denied, denied, denied)
    assert not gives_up(None, *[denied] * 9)


@pytest.mark.parametrize("number", [errno.EFBIG, errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ, None])
def test_what_is_wrong_with_one_picture_ends_no_run(number: int | None) -> None:
    assert not gives_up(*[refused(number)] * 9)


def test_a_full_disk_has_a_cure_and_others_have_none() -> None:
    for number, cure in ((errno.EDQUOT, "cannot write: free space, then --resume goes on"), (errno.EROFS, "write")):
        watch = WriteWatch()
        for _ in range(3):
            watch.note(refused(number))
        with pytest.raises(OutputFailedError, match=f"{cure}$"):
            watch.check()
