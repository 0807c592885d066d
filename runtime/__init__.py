"""Pictures to masks with an exported model: decode, windows, batching, backends, writers. Never needs torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from algm_trt.runtime.result import SegmentationResult
    from algm_trt.runtime.segmenter import Segmenter, load

__all__ = ["SegmentationResult", "Segmenter", "load"]

_HOME = {"SegmentationResult": "result", "Segmenter": "segmenter", "load": "segmenter"}


def __getattr__(name: str) -> object:
    """Import the public names when they are first used: the package itself stays cheap to import."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
