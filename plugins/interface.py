"""The parameter structs of the C interface (`native/algm.h`) for ctypes; every field is an int32.

A call is `library.algm_x(byref(params), *pointers, workspace, c_size_t(bytes), stream)` with the pointers in the order
of the header, after `library.algm_x_workspace(byref(params))` (a size_t) has said how large the workspace is. `declare`
tells ctypes the types, so that plain integers can be given for addresses, bytes and stream.
"""

from __future__ import annotations

import ctypes
from typing import Final

from algm_trt.plugins.library import CURE, PluginLibraryError

FLOAT32: Final = 0
FLOAT16: Final = 1
"""AlgmDtype."""

STATUS_OK: Final = 0
STATUS_UNSUPPORTED: Final = 2
"""AlgmStatus: done; valid, but there is no kernel for it."""

WORKSPACE_ALIGNMENT: Final = 256
TENSOR_ALIGNMENT: Final = 16
"""Bytes."""


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


class AlgmCutWindowsParams(ctypes.Structure):
    """Shape of one cut of windows from a canvas (runtime's slide mode)."""

    _fields_ = _int32("height", "width", "windows", "window_height", "window_width")


class AlgmSlideLabelsParams(ctypes.Structure):
    """Shape of the way from all windows' logits to the labels of one picture (runtime's slide mode)."""

    _fields_ = [
        *_int32("dtype", "windows_down", "windows_across", "classes", "grid_height", "grid_width"),
        *_int32("height", "width", "row_tiles", "column_tiles", "row_support", "column_support"),
    ]


FUNCTIONS: Final[dict[str, tuple[type[ctypes.Structure], int]]] = {
    "algm_local_merge": (AlgmLocalMergeParams, 7),
    "algm_global_merge": (AlgmGlobalMergeParams, 9),
    "algm_packed_attention": (AlgmPackedAttentionParams, 3),
    "algm_append_tokens": (AlgmAppendTokensParams, 5),
    "algm_unmerge": (AlgmUnmergeParams, 5),
    "algm_labels": (AlgmLabelsParams, 2),
    "algm_cut_windows": (AlgmCutWindowsParams, 3),
    "algm_slide_labels": (AlgmSlideLabelsParams, 11),
}
"""Parameter struct of each function, and how many tensors it takes."""


def declare(library: ctypes.CDLL) -> ctypes.CDLL:
    """Set argument and result types of every function of the C interface; returns the library.

    Raises:
        PluginLibraryError: the library lacks a function: it was built from older sources.
    """
    for name, (params, tensors) in FUNCTIONS.items():
        try:
            query, run = getattr(library, f"{name}_workspace"), getattr(library, name)
        except AttributeError:
            raise PluginLibraryError(f"{library._name} has no {name}: it is older than this package; {CURE}") from None
        query.argtypes = [ctypes.POINTER(params)]
        query.restype = ctypes.c_size_t
        pointers = [ctypes.c_void_p] * (tensors + 1)
        run.argtypes = [ctypes.POINTER(params), *pointers, ctypes.c_size_t, ctypes.c_void_p]
        run.restype = ctypes.c_int
    library.algm_status_string.restype = ctypes.c_char_p
    library.algm_last_cuda_error.restype = ctypes.c_char_p
    return library
