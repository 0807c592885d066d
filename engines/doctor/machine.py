"""This machine: every probe at once, and its answers as facts."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from algm_trt.engines.doctor import probes
from algm_trt.engines.doctor.facts import Fact
from algm_trt.engines.doctor.fatbin import Architectures, FatbinError, architectures
from algm_trt.engines.doctor.isolated import Answer, call
from algm_trt.engines.gpu import Gpu
from algm_trt.plugins.library import INTERFACE_VERSION, LIBRARY_VARIABLE, PluginLibraryError, find_library
from algm_trt.runtime.cores import usable_cores

_AT_ONCE: Final = 4
_ONNXRUNTIME_PACKAGES: Final = (
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-openvino",
    "onnxruntime-directml",
    "onnxruntime-qnn",
)


@dataclass(frozen=True)
class Library:
    """The plugin library.

    Attributes:
        path: None if there is none.
        interface: version of its C interface; None if it cannot be loaded.
        architectures: what it has code for; None if that cannot be read.
        problem: why it is missing or cannot be used; "" otherwise.
        other_sources: whether it was built from other sources than this package has.
    """

    path: Path | None
    interface: int | None
    architectures: Architectures | None
    problem: str
    other_sources: bool = False

    @property
    def usable(self) -> bool:
        """Whether this version of the toolkit can load it."""
        return not self.problem


@dataclass(frozen=True)
class Machine:
    """What was found.

    Attributes:
        answers: of every probe, by its name in `probes`; `onnxruntime_on_cuda` only where it was worth asking.
        library: the plugin library.
        onnxruntime_packages: installed packages that all bring the module onnxruntime.
        memory_mib: free memory, as far as this process may use it; None if the system does not say.
    """

    answers: Mapping[str, Answer]
    library: Library
    onnxruntime_packages: tuple[str, ...]
    memory_mib: int | None

    @property
    def gpus(self) -> list[Gpu]:
        """The GPUs that CUDA programs see."""
        answer = self.answers["driver"]
        return [Gpu(**gpu) for gpu in answer.value["gpus"]] if answer.ok else []

    @property
    def providers(self) -> list[str]:
        """Execution providers of ONNX Runtime; none if it cannot be imported."""
        answer = self.answers["onnxruntime"]
        return list(answer.value["providers"]) if answer.ok else []

    @property
    def driver_is_older(self) -> str:
        """In words, if the driver serves an older CUDA than cuda-python is for; "" otherwise."""
        answer, bindings = self.answers["driver"], package_version("cuda-bindings")
        if not answer.ok or not bindings or int(answer.value["cuda"].split(".")[0]) >= int(bindings.split(".")[0]):
            return ""
        return f"the NVIDIA driver serves CUDA {answer.value['cuda']}, and cuda-python {bindings} needs a newer one"

    def version(self, name: str) -> str:
        """Version of tensorrt, tensorrt_lean, tensorrt_rtx, ...; "" if it cannot be used."""
        answer = self.answers[name]
        return str(answer.value["version"]) if answer.ok else ""


PROBES: Final[Mapping[str, Callable[[], Any]]] = {
    "driver": probes.driver,
    "cuda_toolkit": probes.cuda_toolkit,
    "tensorrt": probes.tensorrt,
    "tensorrt_lean": probes.tensorrt_lean,
    "tensorrt_rtx": probes.tensorrt_rtx,
    "onnxruntime": probes.onnxruntime,
    "openvino": probes.openvino,
    "pictures": probes.pictures,
    "engine_packages": probes.engine_packages,
}


def examine(limit: float = 60.0) -> Machine:
    """Ask everything.

    Args:
        limit: seconds that one probe may take.
    """
    probes_of_all = {name: partial(call, probe, limit=limit) for name, probe in PROBES.items()}
    try:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            asked = {name: pool.submit(ask) for name, ask in probes_of_all.items()}
            library = _library(limit)
            answers = {name: future.result() for name, future in asked.items()}
    except RuntimeError:  # the system starts no thread
        answers = {name: ask() for name, ask in probes_of_all.items()}
        library = _library(limit)
    machine = Machine(answers, library, _onnxruntime_packages(), free_memory_mib())
    if machine.gpus and "CUDAExecutionProvider" in machine.providers:
        answers["onnxruntime_on_cuda"] = call(probes.onnxruntime_on_cuda, limit=limit)
    return machine


def _onnxruntime_packages() -> tuple[str, ...]:
    return tuple(name for name in _ONNXRUNTIME_PACKAGES if package_version(name))


def _library(limit: float) -> Library:
    try:
        path = find_library()
    except PluginLibraryError as error:
        return Library(None, None, None, str(error))
    try:
        built_for, problem = architectures(path), ""
    except (FatbinError, OSError) as error:
        built_for, problem = None, str(error)
    answer = call(probes.plugin_library, str(path), limit=limit)
    interface = answer.value["interface"] if answer.ok else None
    reason = answer.error
    if reason and str(path) not in reason:  # the process died of it; what the file looks like may say why
        reason = problem or f"{path} cannot be loaded: {reason}"
    other_sources = answer.ok and answer.value["other_sources"]
    return Library(path, interface, built_for, reason or problem, other_sources)


def package_version(name: str) -> str:
    """Version of an installed package; "" if it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def free_memory_mib() -> int | None:
    """Memory that is free for this process: the system's, or what its control group leaves."""
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
        free = next(int(line.split()[1]) // 1024 for line in text.splitlines() if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        return None
    group = Path("/sys/fs/cgroup")
    try:
        limit = int((group / "memory.max").read_text())
        used = int((group / "memory.current").read_text())
        return min(free, (limit - used) // 2**20)
    except (OSError, ValueError):  # no control group, or "max"
        return free


def machine_facts(machine: Machine) -> list[Fact]:
    """The machine as lines."""
    gpus = [
        Fact(f"GPU {index}", f"{gpu.name}, compute capability {gpu.compute_capability}, {gpu.memory_mib} MiB")
        for index, gpu in enumerate(machine.gpus)
    ]
    torch = package_version("torch")
    return [
        Fact("algm-trt", package_version("algm-trt") or "not installed as a package"),
        Fact("Python", f"{platform.python_version()} on {platform.platform(terse=True)}, {platform.machine()}"),
        _processor_fact(machine),
        _driver_fact(machine.answers["driver"]),
        *gpus,
        _fact("CUDA compiler", machine.answers["cuda_toolkit"], lambda found: f"{found['version']} ({found['path']})"),
        Fact("cuda-python", package_version("cuda-bindings") or "not installed", _there("cuda-bindings")),
        _fact("TensorRT", machine.answers["tensorrt"], _tensorrt_text),
        _fact("TensorRT lean", machine.answers["tensorrt_lean"], lambda found: str(found["version"])),
        _fact("TensorRT-RTX", machine.answers["tensorrt_rtx"], lambda found: str(found["version"])),
        _fact(
            "onnxruntime",
            machine.answers["onnxruntime"],
            lambda found: f"{found['version']}: {', '.join(found['providers'])}",
        ),
        _fact(
            "openvino",
            machine.answers["openvino"],
            lambda found: f"{found['version']}: {', '.join(found['devices'])}",
        ),
        _fact("pictures", machine.answers["pictures"], _versions),
        _fact("engine building", machine.answers["engine_packages"], _versions),
        Fact("torch", torch or "not installed (only checkpoints need it)", "ok" if torch else "absent"),
        library_fact(machine.library),
    ]


def library_fact(library: Library) -> Fact:
    """The plugin library as a line."""
    name = "plugin library"
    if library.path is None:
        # A variable that names a library which is not there is a mistake; no library at all is a choice.
        return Fact(name, library.problem, "broken" if os.environ.get(LIBRARY_VARIABLE) else "absent")
    code = f", {library.architectures}" if library.architectures else ""
    if library.problem:
        return Fact(name, f"{library.problem}{code}", "broken")
    if library.other_sources:
        code += "; built from other sources: run algm-build-plugins"
    return Fact(name, f"{library.path}: interface {library.interface} (needed: {INTERFACE_VERSION}){code}")


def _fact(name: str, answer: Answer, text: Callable[[Any], str]) -> Fact:
    if answer.ok:
        return Fact(name, text(answer.value))
    return Fact(name, answer.error, "absent" if answer.missing else "broken")


def _there(package: str) -> Any:
    return "ok" if package_version(package) else "absent"


def _driver_fact(answer: Answer) -> Fact:
    def text(found: Any) -> str:
        return f"{found['version'] or 'version unknown'}, serves CUDA up to {found['cuda']}"

    if answer.ok and answer.value["status"]:
        return Fact(
            "NVIDIA driver", f"{text(answer.value)}; it finds no GPU (error {answer.value['status']})", "broken"
        )
    return _fact("NVIDIA driver", answer, text)


def _tensorrt_text(found: Any) -> str:
    return str(found["version"]) if found["builder"] else f"{found['version']}, without a builder"


def _versions(found: Any) -> str:
    return ", ".join(f"{name} {version}" for name, version in found.items())


def _processor_fact(machine: Machine) -> Fact:
    memory = f"{machine.memory_mib} MiB free" if machine.memory_mib is not None else "free memory unknown"
    return Fact("processor", f"{usable_cores()} cores, {memory}")
