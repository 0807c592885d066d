"""Checkpoint to PyTorch model to ONNX."""

from __future__ import annotations

from typing import TYPE_CHECKING

from algm_trt.plugins.lazy import lazy_names

if TYPE_CHECKING:
    from algm_trt.exporter.checkpoint import Checkpoint, load_checkpoint
    from algm_trt.exporter.export import ExportReport, export_onnx
    from algm_trt.exporter.options import ExportOptions
    from algm_trt.exporter.segmenter import Segmenter, segmenter_from_checkpoint

__all__ = [
    "Checkpoint",
    "ExportOptions",
    "ExportReport",
    "Segmenter",
    "export_onnx",
    "load_checkpoint",
    "segmenter_from_checkpoint",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Checkpoint": "checkpoint",
        "ExportOptions": "options",
        "ExportReport": "export",
        "Segmenter": "segmenter",
        "export_onnx": "export",
        "load_checkpoint": "checkpoint",
        "segmenter_from_checkpoint": "segmenter",
    },
)
