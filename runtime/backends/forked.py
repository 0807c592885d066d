"""What libraries hold when the process is forked: their threads stay behind in the parent."""

from __future__ import annotations

import ctypes
import os
import weakref
from typing import Final

_NATIVE: Final[weakref.WeakSet[object]] = weakref.WeakSet()


def keep_in_children(native: object) -> None:
    """Never destroy a library's object in processes that are forked from this one while it lives.

    It would wait for its threads, which are not there: the process would hang at its end, or be aborted.

    Args:
        native: an object whose class allows weak references.
    """
    _NATIVE.add(native)


def _keep_all() -> None:
    for native in _NATIVE:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(native))


os.register_at_fork(after_in_child=_keep_all)
