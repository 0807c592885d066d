"""ONNX to TensorRT engines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from algm_trt.plugins.lazy import lazy_names

if TYPE_CHECKING:
    from algm_trt.engines.build import BuildReport, build_engine
    from algm_trt.engines.options import BatchRange, BuildOptions
    from algm_trt.engines.precision import to_float16

__all__ = [
    "BatchRange",
    "BuildOptions",
    "BuildReport",
    "build_engine",
    "to_float16",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "BatchRange": "options",
        "BuildOptions": "options",
        "BuildReport": "build",
        "build_engine": "build",
        "to_float16": "precision",
    },
)
