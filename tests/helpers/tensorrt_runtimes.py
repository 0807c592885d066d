"""TensorRT runtime libraries and NVIDIA's headers on this machine: what a plugin needs to go through a real registry.

Libraries: those named in ALGM_TENSORRT_LIBS (separated as in PATH), or the `tensorrt_lean_libs` wheel's. Headers: the
folders named in ALGM_TENSORRT_HEADERS or TENSORRT_ROOT.
"""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path


def folders(*variables: str) -> list[Path]:
    """Paths in the first of these environment variables that is set."""
    text = next((os.environ[name] for name in variables if os.environ.get(name)), "")
    return [Path(part) for part in text.split(os.pathsep) if part]


def runtime_libraries() -> list[Path]:
    """Every TensorRT runtime library that is named or installed."""
    named = folders("ALGM_TENSORRT_LIBS")
    wheel = importlib.util.find_spec("tensorrt_lean_libs")
    if named or wheel is None or wheel.origin is None:
        return named
    return sorted(Path(wheel.origin).parent.glob("libnvinfer_lean.so.*"))


def major_of(library: Path) -> int:
    """Major version by the name of a library, such as libnvinfer_lean.so.10."""
    return int(library.name.rsplit(".", 1)[1])


def headers_of(library: Path) -> Path | None:
    """The folder of headers with a library's major version."""
    major = major_of(library)
    for root in folders("ALGM_TENSORRT_HEADERS", "TENSORRT_ROOT"):
        for file in (root / "include" / "NvInferVersion.h", root / "NvInferVersion.h"):
            if file.is_file() and re.search(rf"(NV_TENSORRT_MAJOR|TRT_MAJOR_ENTERPRISE) {major}\b", file.read_text()):
                return root
    return None
