"""ONNX to TensorRT engines."""

from __future__ import annotations

from typing import TYPE_CHECKING

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

_HOME = {
    "BatchRange": "options",
    "BuildOptions": "options",
    "BuildReport": "build",
    "build_engine": "build",
    "to_float16": "precision",
}


def __getattr__(name: str) -> object:
    """Import the public names when they are first used: `algm-build-engine --help` needs neither onnx nor TensorRT."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
