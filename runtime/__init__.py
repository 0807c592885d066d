"""Pictures to masks with an exported model: decode, windows, batching, backends, writers. Never needs torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from algm_trt.plugins.errors import AlgmError, MissingDependencyError, UsageError
from algm_trt.plugins.lazy import lazy_names

if TYPE_CHECKING:
    from algm_trt.runtime.decode import DecodeError
    from algm_trt.runtime.result import SegmentationResult
    from algm_trt.runtime.segmenter import Segmenter, load

__all__ = [
    "AlgmError",
    "DecodeError",
    "MissingDependencyError",
    "SegmentationResult",
    "Segmenter",
    "UsageError",
    "load",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {"DecodeError": "decode", "SegmentationResult": "result", "Segmenter": "segmenter", "load": "segmenter"},
)
