"""What every benchmark records beside its numbers: date, machine, versions, load."""

from __future__ import annotations

import datetime
import json
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    *("algm-trt", "numpy", "onnxruntime", "openvino", "opencv-python-headless", "pillow"),
    *("torch", "onnx", "einops"),
)


def environment() -> dict[str, Any]:
    """Date, machine, versions and load, for JSON."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": {"processor": processor(), "cores": os.cpu_count(), "system": platform.platform(terse=True)},
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES},
        "load_average": round(os.getloadavg()[0], 2),
    }


def write_record(path: Path, results: dict[str, Any]) -> None:
    """Write results with their environment."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(environment() | results, indent=1) + "\n")


def processor() -> str:
    """Name of the processor, where the system reports it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
