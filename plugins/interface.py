"""The parameter structs of the C interface (`native/algm.h`) for ctypes; every field is an int32.

A call is `library.algm_x(byref(params), *pointers, workspace, c_size_t(bytes), stream)` with the pointers in the order
of the header, after `library.algm_x_workspace(byref(params))` (a size_t) has said how large the workspace is.
"""

from __future__ import annotations

import ctypes
from typing import Final

FLOAT32: Final = 0
FLOAT16: Final = 1


def _int32(*names: str) -> list[tuple[str, type[ctypes.c_int32]]]:
    return [(name, ctypes.c_int32) for name in names]


class AlgmLocalMergeParams(ctypes.Structure):
    """Shape of one AlgmLocalMerge."""

    _fields_ = [
        *_int32("dtype", "batch", "channels", "grid_height", "grid_width"),
        *_int32("window_height", "window_width", "extra_tokens"),
    ]


class AlgmGlobalMergeParams(ctypes.Structure):
    """Shape of one AlgmGlobalMerge."""

    _fields_ = _int32("dtype", "batch", "tokens", "channels", "patches", "layer", "extra_tokens", "max_tokens")


class AlgmPackedAttentionParams(ctypes.Structure):
    """Shape of one AlgmPackedAttention."""

    _fields_ = _int32("dtype", "batch", "tokens", "channels", "heads", "max_tokens")


class AlgmAppendTokensParams(ctypes.Structure):
    """Shape of one AlgmAppendTokens."""

    _fields_ = _int32("dtype", "batch", "tokens", "channels", "appended", "drop")


class AlgmUnmergeParams(ctypes.Structure):
    """Shape of one AlgmUnmerge."""

    _fields_ = _int32("dtype", "batch", "tokens", "channels", "patches", "appended", "drop")


class AlgmLabelsParams(ctypes.Structure):
    """Shape of one AlgmLabels."""

    _fields_ = _int32("dtype", "batch", "grid_height", "grid_width", "classes", "height", "width")
