"""Pictures to masks with an exported model: decode, windows, batching, backends, writers. Never needs torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from algm_trt.plugins.lazy import importer

if TYPE_CHECKING:
    from algm_trt.runtime.result import SegmentationResult
    from algm_trt.runtime.segmenter import Segmenter, load

__all__ = ["SegmentationResult", "Segmenter", "load"]

__getattr__ = importer(__name__, {"SegmentationResult": "result", "Segmenter": "segmenter", "load": "segmenter"})
