"""Questions to the machine, each asked in a process of its own (`isolated.call`): they import, load and call drivers.

Every function returns what JSON carries and raises what it meets; `machine.py` turns both into lines.
"""

from __future__ import annotations

import ctypes
import importlib
import re
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Any

from algm_trt.engines.gpu import gpu_of, load_driver
from algm_trt.plugins.errors import AlgmError


def driver() -> dict[str, Any]:
    """The NVIDIA driver: its version, the newest CUDA it serves, and its GPUs.

    Raises:
        MissingDependencyError: there is no driver.
    """
    cuda = load_driver()
    number, count = ctypes.c_int(), ctypes.c_int()
    cuda.cuDriverGetVersion(ctypes.byref(number))
    version = f"{number.value // 1000}.{number.value % 1000 // 10}"
    status = cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count))
    gpus = [] if status else [asdict(gpu_of(cuda, index)) for index in range(count.value)]
    return {"version": _driver_version(), "cuda": version, "status": status, "gpus": gpus}


def _driver_version() -> str:
    """Version of the kernel module, or "" where the system does not show it (containers, WSL)."""
    try:
        text = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8")
    except OSError:
        return ""
    match = re.search(r"\b\d{3}\.\d+(\.\d+)?\b", text)
    return match.group() if match else ""


def cuda_toolkit() -> dict[str, Any]:
    """The CUDA compiler that algm-build-plugins would take.

    Raises:
        MissingDependencyError: there is none.
    """
    from algm_trt.plugins.build import find_nvcc

    nvcc = find_nvcc()
    said = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True, timeout=20).stdout
    match = re.search(r"release (\S+),", said)
    return {"version": match.group(1) if match else "unknown", "path": str(nvcc)}


def tensorrt() -> dict[str, Any]:
    """Full TensorRT."""
    module = importlib.import_module("tensorrt")
    return {"version": str(module.__version__), "module": "tensorrt", "builder": hasattr(module, "Builder")}


def tensorrt_lean() -> dict[str, Any]:
    """The lean runtime, which runs version-compatible plans and cannot build."""
    # PyPI has the bindings without the package around them.
    try:
        module = importlib.import_module("tensorrt_lean_bindings")
    except ModuleNotFoundError:
        module = importlib.import_module("tensorrt_lean")
    return {"version": str(module.__version__), "module": module.__name__}


def tensorrt_rtx() -> dict[str, Any]:
    """TensorRT-RTX."""
    from algm_trt.runtime.backends.tensorrt.bindings import load_tensorrt_rtx

    return {"version": load_tensorrt_rtx().version}


def onnxruntime() -> dict[str, Any]:
    """ONNX Runtime and what it can run on."""
    module = importlib.import_module("onnxruntime")
    if not hasattr(module, "get_available_providers"):
        raise AlgmError("its files are damaged: pip install --force-reinstall onnxruntime")
    return {"version": str(module.__version__), "providers": list(module.get_available_providers())}


def onnxruntime_on_cuda() -> dict[str, Any]:
    """Run the sample model on ONNX Runtime's CUDA provider, which falls back to the CPU in silence when it cannot.

    Raises:
        MissingDependencyError: it fell back.
    """
    from algm_trt.engines.sample import SAMPLE_MODEL, recorded
    from algm_trt.runtime.backends.onnxruntime_engine import OnnxRuntimeEngine

    engine = OnnxRuntimeEngine(SAMPLE_MODEL, device="cuda")
    engine.run(recorded().images[:1])
    return {"description": engine.description}


def openvino() -> dict[str, Any]:
    """OpenVINO and its devices."""
    module = importlib.import_module("openvino")
    return {"version": str(module.__version__).split("-")[0], "devices": list(module.Core().available_devices)}


def pictures() -> dict[str, Any]:
    """What decodes and resizes pictures."""
    cv2, pillow = importlib.import_module("cv2"), importlib.import_module("PIL.Image")
    return {"opencv": str(cv2.__version__), "pillow": str(pillow.__version__)}


def engine_packages() -> dict[str, Any]:
    """What algm-build-engine needs beside TensorRT."""
    onnx, surgeon = importlib.import_module("onnx"), importlib.import_module("onnx_graphsurgeon")
    return {"onnx": str(onnx.__version__), "onnx_graphsurgeon": str(surgeon.__version__)}


def plugin_library(path: str) -> dict[str, Any]:
    """Load the plugin library for the C interface, as the toolkit does.

    `other_sources` is true of one that algm-build-plugins built from other sources than this package has: in the user's
    cache it outlives an installation. One that pip built does not say what from, it lies beside its sources.

    Raises:
        PluginLibraryError: it cannot be loaded, or has another interface version.
    """
    from algm_trt.plugins.build import sources_digest
    from algm_trt.plugins.library import load_ctypes

    library = load_ctypes(Path(path))
    said = "older than this question"
    if hasattr(library, "algm_sources"):
        library.algm_sources.restype = ctypes.c_char_p
        said = library.algm_sources().decode()
    return {"interface": int(library.algm_version()), "other_sources": said not in ("", sources_digest())}


def run_model(path: str) -> dict[str, Any]:
    """Open an exported model in ONNX Runtime on the CPU and run it on a drawn picture."""
    import time

    from algm_trt.runtime.backends.onnxruntime_engine import OnnxRuntimeEngine
    from algm_trt.runtime.check_pictures import drawn_picture

    begin = time.monotonic()
    engine = OnnxRuntimeEngine(Path(path), device="cpu")
    opened = time.monotonic()
    output = engine.run(drawn_picture(engine.card.size, 0)[None])
    return {
        "description": engine.description,
        "tokens": output.token_counts[0].tolist(),
        "open_seconds": opened - begin,
        "run_seconds": time.monotonic() - opened,
    }


def plan_tensorrt(path: str) -> str:
    """Version of the TensorRT that is here and can run a plan.

    Raises:
        MissingDependencyError: it is not installed.
        PlanMisfitError: the installed one is another.
    """
    from algm_trt.runtime.backends.tensorrt.plan import tensorrt_for
    from algm_trt.runtime.engine_record import read_record

    plan = Path(path)
    return tensorrt_for(plan, read_record(plan)).version
