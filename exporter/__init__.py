"""Checkpoint to PyTorch model to ONNX."""

from __future__ import annotations

from typing import TYPE_CHECKING

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

_HOME = {
    "Checkpoint": "checkpoint",
    "ExportOptions": "options",
    "ExportReport": "export",
    "Segmenter": "segmenter",
    "export_onnx": "export",
    "load_checkpoint": "checkpoint",
    "segmenter_from_checkpoint": "segmenter",
}


def __getattr__(name: str) -> object:
    """Import the public names when they are first used: `algm-export --help` needs no torch."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
