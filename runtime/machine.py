"""The machine that a measurement ran on: what has to stand beside its figures."""

from __future__ import annotations

import contextlib
import datetime
import os
import platform
import re
import resource
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from algm_trt.runtime.cores import usable_cores

PACKAGES: Final = (
    "algm-trt",
    "numpy",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "tensorrt",
    "torch",
    "onnx",
    *("opencv-python-headless", "opencv-python", "opencv-contrib-python-headless", "opencv-contrib-python"),
    "pillow",
)
BUSY_SHARE: Final = 0.25
"""Load per core above which a machine counts as busy."""

_NVIDIA_SMI = ("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
_PATIENCE = 10.0  # seconds that nvidia-smi may take


def environment() -> dict[str, Any]:
    """Date, machine and versions, for JSON: what a record of figures begins with."""
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {"date": date, "machine": machine(), "versions": versions()}


def machine() -> dict[str, Any]:
    """Processor, cores, memory, GPUs and system, for JSON."""
    memory = _lines("/proc/meminfo", "MemTotal")
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "usable_cores": usable_cores(),
        "memory_gib": round(int(memory[0].split()[0]) / 2**20, 1) if memory else None,
        "gpus": _gpus(),
        "system": platform.platform(terse=True),
    }


def processor() -> str:
    """Name of the processor, with family and model where the system reports them: virtual machines shorten names.

    Arm processors have numbers and no name: those of who made it and of which part it is.
    """
    name, family, model = (_lines("/proc/cpuinfo", key) for key in ("model name", "cpu family", "model"))
    if not name:
        implementer, part = (_lines("/proc/cpuinfo", key) for key in ("CPU implementer", "CPU part"))
        number = f" (implementer {implementer[0]}, part {part[0]})" if implementer and part else ""
        return f"{platform.machine()}{number}"
    return f"{name[0]} (family {family[0]}, model {model[0]})" if family and model else name[0]


def versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that figures depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def load_average() -> float | None:
    """Mean number of processes that ran or waited to run in the last minute; None where the system does not say."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def busy_warning(load: float | None) -> str | None:
    """What to say about a load before measuring; None on an idle machine."""
    cores = usable_cores()
    if load is None or load <= BUSY_SHARE * cores:
        return None
    return (
        f"the load is {load:g} on {cores} cores: something else is running or has just run. Ratios hold better than "
        "times, since all variants take turns; for figures to keep, measure on an idle machine"
    )


def peak_memory_mib() -> float:
    """Most memory that this program has held so far, in MiB."""
    kibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with contextlib.suppress(OSError):  # Linux; getrusage counts what started the program as well
        found = re.search(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(errors="replace"), re.MULTILINE)
        kibibytes = int(found[1]) if found else kibibytes
    return round(kibibytes / 1024, 1)


def _gpus() -> list[str]:
    """Name, memory and driver of each NVIDIA GPU."""
    if shutil.which(_NVIDIA_SMI[0]) is None:
        return []
    try:
        done = subprocess.run(_NVIDIA_SMI, capture_output=True, text=True, timeout=_PATIENCE, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()]


def _lines(file: str, key: str) -> list[str]:
    """Values of a key in a file of `key : value` lines."""
    path = Path(file)
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [value.strip() for name, _, value in (line.partition(":") for line in lines) if name.strip() == key]
