"""The self-test: rungs L0 to L6, as far as the machine allows; what did not run says why."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

from algm_trt.engines.doctor import rungs
from algm_trt.engines.doctor.isolated import Answer, call
from algm_trt.engines.doctor.machine import Machine, package_version
from algm_trt.plugins.library import LIBRARY_NAME, LIBRARY_VARIABLE
from algm_trt.runtime.cores import usable_cores

RungState = Literal["passed", "failed", "not run"]

ARCHITECTURE_WITHOUT_GPU: Final = 89
"""Compute capability to compile and build for where there is no GPU to ask."""

_LIMITS: Final = {"L0": 300.0, "L1": 300.0, "L2": 3600.0, "L3": 1200.0, "L4": 300.0, "L5": 120.0, "L6": 3600.0}
"""Seconds that each rung may take."""

_CURES: Final = {
    "onnxruntime": "pip install onnxruntime",
    "engine_packages": "pip install 'algm-trt[engine]'",
    "tensorrt": "pip install 'algm-trt[tensorrt]'",
}
"""For probes whose message has none."""


@dataclass(frozen=True)
class Rung:
    """What became of one rung.

    Attributes:
        name: "L0" to "L6".
        shows: what it shows when it passes.
        state: "passed", "failed" or "not run".
        result: what was seen, or why it failed or was not run; one line.
        seconds: that it took.
    """

    name: str
    shows: str
    state: RungState
    result: str
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Obstacle:
    """Why a rung cannot run: something is absent, or it is there and broken, which fails the rung."""

    reason: str
    broken: bool = False


class Ladder:
    """The rungs in order, for one machine.

    Args:
        machine: what there is.
        folder: for the library that L2 compiles; it must exist.
        build: whether L2 compiles the plugin library, which takes minutes.
    """

    def __init__(self, machine: Machine, folder: Path, *, build: bool) -> None:
        self._machine = machine
        self._build = build
        self._compiled = folder / LIBRARY_NAME
        gpus = machine.gpus
        self._capability = gpus[0].capability if gpus else ARCHITECTURE_WITHOUT_GPU

    def climb(self) -> Iterator[Rung]:
        """Run rung after rung; each comes when it is done."""
        yield self._run("L0", "PyTorch operators = NumPy reference", self._no_torch(), self._check_torch)
        yield self._run(
            "L1",
            "ONNX Runtime = NumPy reference and recording",
            self._absent("onnxruntime"),
            lambda: self._call("L1", rungs.operators_on_onnxruntime),
        )
        yield self._run("L2", "kernels compile", self._cannot_compile(), self._compile)
        yield self._run(
            "L3",
            "TensorRT-RTX builds with the plugins",
            _first(self._absent("tensorrt_rtx"), self._absent("engine_packages"), self._no_library()),
            lambda: self._call("L3", rungs.build_with_rtx, self._rtx_capability()),
        )
        yield self._run(
            "L4",
            "kernels on the GPU = NumPy reference",
            _first(self._no_gpu(), self._no_library(), self._no_cuda_python(), self._no_code()),
            lambda: self._call("L4", rungs.kernels_on_gpu, str(self._library())),
        )
        yield from self._registries()
        yield from self._engines()

    def _registries(self) -> Iterator[Rung]:
        """L5 for every TensorRT that is there: full and lean."""
        shows = "TensorRT's registry takes the plugins"
        names = [name for name in ("tensorrt", "tensorrt_lean") if self._machine.answers[name].ok]
        for name in names or ["tensorrt"]:
            obstacle = _first(self._absent(name), self._no_library())
            yield self._run("L5", shows, obstacle, partial(self._ask_registry, name))

    def _engines(self) -> Iterator[Rung]:
        """L6 in both precisions, with full TensorRT, and with TensorRT-RTX where it has the GPU on its list."""
        from algm_trt.engines.options import RTX_CAPABILITIES

        common = (self._no_gpu(), self._absent("engine_packages"), self._absent("onnxruntime"), self._no_cuda_python())
        plugins = (self._no_library(), self._no_code())
        targets = [("tensorrt", "TensorRT")]
        if self._machine.answers["tensorrt_rtx"].ok and self._machine.gpus and self._capability in RTX_CAPABILITIES:
            targets.append(("rtx", "TensorRT-RTX"))
        for target, name in targets:
            absent = self._absent("tensorrt" if target == "tensorrt" else "tensorrt_rtx")
            for precision in ("fp16", "fp32"):
                shows = f"{name} {precision.upper()} engine = ONNX Runtime"
                action = partial(self._call, "L6", rungs.build_and_run, target, precision, self._capability)
                yield self._run("L6", shows, _first(absent, *common, *plugins), action)

    def _run(self, name: str, shows: str, obstacle: Obstacle | None, action: Callable[[], Answer]) -> Rung:
        if obstacle is not None:
            return Rung(name, shows, "failed" if obstacle.broken else "not run", obstacle.reason, 0.0)
        answer = action()
        return Rung(name, shows, "passed" if answer.ok else "failed", answer.error or str(answer.value), answer.seconds)

    def _call(self, rung: str, function: Callable[..., Any] | str, *arguments: Any) -> Answer:
        library = self._library()
        environment = {LIBRARY_VARIABLE: str(library)} if library is not None else {}
        return call(function, *arguments, limit=_LIMITS[rung], environment=environment)

    def _check_torch(self) -> Answer:
        """The exporter's check, by name: the engines package does not import the exporter."""
        answer = self._call("L0", "algm_trt.exporter.selfcheck:check_operators")
        if not answer.ok:
            return answer
        count, complaints = answer.value
        text = f"{count} operator cases equal with torch {package_version('torch')}"
        return Answer(text, "; ".join(complaints[:2]), False, answer.seconds)

    def _ask_registry(self, probe: str) -> Answer:
        module = self._machine.answers[probe].value["module"]
        return self._call("L5", rungs.accepted_by_registry, module, str(self._library()))

    def _compile(self) -> Answer:
        return self._call("L2", rungs.compile_library, str(self._compiled), self._capability, usable_cores())

    def _library(self) -> Path | None:
        """The installed plugin library, or the one that L2 compiled where none is installed."""
        return self._machine.library.path or (self._compiled if self._compiled.is_file() else None)

    def _rtx_capability(self) -> int:
        from algm_trt.engines.options import RTX_CAPABILITIES

        return self._capability if self._capability in RTX_CAPABILITIES else ARCHITECTURE_WITHOUT_GPU

    def _absent(self, probe: str) -> Obstacle | None:
        answer = self._machine.answers[probe]
        if answer.ok:
            return None
        cure = f": {_CURES[probe]}" if probe in _CURES and answer.missing else ""
        return Obstacle(f"{answer.error}{cure}", broken=not answer.missing)

    def _no_torch(self) -> Obstacle | None:
        return None if package_version("torch") else Obstacle("torch is not installed; only checkpoints need it")

    def _cannot_compile(self) -> Obstacle | None:
        if not self._build:
            return Obstacle("--skip-build")
        return self._absent("cuda_toolkit")

    def _no_library(self) -> Obstacle | None:
        library = self._machine.library
        if self._library() is None:
            return Obstacle("there is no plugin library: algm-build-plugins makes one where nvcc is")
        return Obstacle(library.problem, broken=True) if library.path is not None and not library.usable else None

    def _no_code(self) -> Obstacle | None:
        built_for = self._machine.library.architectures
        if built_for is None or built_for.serves(self._capability):
            return None
        cure = f"algm-build-plugins --arch {self._capability}"
        return Obstacle(f"the plugin library has no code for sm_{self._capability} ({built_for}): {cure}", broken=True)

    def _no_gpu(self) -> Obstacle | None:
        driver = self._machine.answers["driver"]
        if not driver.ok:
            return self._absent("driver")
        if self._machine.gpus:
            return None
        return Obstacle(f"the NVIDIA driver finds no GPU (error {driver.value['status']}): check nvidia-smi")

    def _no_cuda_python(self) -> Obstacle | None:
        return (
            None
            if package_version("cuda-bindings")
            else Obstacle("cuda-python is not installed: pip install cuda-python")
        )


def _first(*obstacles: Obstacle | None) -> Obstacle | None:
    return next((obstacle for obstacle in obstacles if obstacle is not None), None)
