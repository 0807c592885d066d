"""The stack that signal handlers of a thread run on, which OpenVINO changes and does not always put back."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager


class _Stack(ctypes.Structure):
    """`stack_t` of sigaltstack(2)."""

    _fields_ = (("address", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextmanager
def signal_stack_kept() -> Iterator[None]:
    """Leave the calling thread the signal stack that it has.

    OpenVINO 2026 gives the thread that opens its CPU plugin one that just holds a signal's frame, and frees it when the
    last model of that opening is closed. Closed in the order in which they were opened, the second of two puts back the
    freed one of the first, and the next Ctrl-C ends the process with a segmentation fault.
    """
    libc = ctypes.CDLL(None)
    before, after = _Stack(), _Stack()
    libc.sigaltstack(None, ctypes.byref(before))
    try:
        yield
    finally:
        libc.sigaltstack(None, ctypes.byref(after))
        if (after.address, after.size) != (before.address, before.size):
            libc.sigaltstack(ctypes.byref(before), None)
