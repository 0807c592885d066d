"""A plan that does not fit is refused by its record, before TensorRT sees it, and every message has a cure."""

from __future__ import annotations

import ctypes
import dataclasses
import json
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.fake_engine import FakeEngine, make_card
from helpers.host_device import HostCuda, host_device
from helpers.host_tensorrt import HostTensorRT, install
from helpers.plans import PROFILES, VERSION, make_record, write_plan

from algm_trt.plugins.errors import MissingDependencyError
from algm_trt.plugins.library import LIBRARY_VARIABLE, PluginLibraryError
from algm_trt.runtime.backends.tensorrt import bindings as tensorrt_bindings
from algm_trt.runtime.backends.tensorrt import engine as tensorrt_engine
from algm_trt.runtime.backends.tensorrt.engine import TensorRTEngine
from algm_trt.runtime.backends.tensorrt.plan import PlanMisfitError
from algm_trt.runtime.card import ModelCard
from algm_trt.runtime.engine import EngineError, open_engine
from algm_trt.runtime.engine_record import EngineRecordError, PluginRecord, record_path

try:
    ctypes.CDLL("libcuda.so.1")
    HAS_DRIVER = True
except OSError:
    HAS_DRIVER = False

CARD = make_card()
RECORD = make_record(CARD)
PLUGINS = RECORD.plugins
assert PLUGINS is not None


class Opening:
    """Opens plans on a machine of stand-ins."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self._monkeypatch, self.folder = monkeypatch, folder
        self.cuda = HostCuda()
        self.trt = HostTensorRT(self.cuda, FakeEngine(CARD))
        install(monkeypatch, self.trt)
        monkeypatch.setattr(tensorrt_engine, "load_kernels", lambda: None)

    def __call__(self, content: bytes = b"plan", **changes: Any) -> TensorRTEngine:
        path = write_plan(self.folder, make_record(CARD, **changes), content)
        return TensorRTEngine(path, device=host_device(self.cuda))

    @property
    def deserialised(self) -> bool:
        return bool(self.trt.runtimes)

    def version(self, version: str) -> None:
        self.trt.__version__ = version
        install(self._monkeypatch, self.trt)


@pytest.fixture
def opening(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Opening:
    return Opening(monkeypatch, tmp_path)


def test_a_plan_that_fits_is_opened(opening: Opening) -> None:
    engine = opening()
    assert engine.card == CARD
    assert engine.description == (
        "TensorRT 10.16.1.11 on Host device (windows and labels on the CPU: no plugin library here)"
    )
    assert opening.trt.runtimes[0].engine_host_code_allowed
    assert not opening.trt.initialised
    engine.close()


def test_a_plan_without_record_is_refused(opening: Opening) -> None:
    opening()
    record_path(opening.folder / "model.plan").unlink()
    with pytest.raises(EngineRecordError, match=r"model\.plan\.json is missing .*: build the engine again, or copy it"):
        TensorRTEngine(opening.folder / "model.plan", device=host_device(opening.cuda))


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"format_version": 9}', "\x00\xff"])
def test_a_damaged_record_is_refused(opening: Opening, text: str) -> None:
    opening()
    path = opening.folder / "model.plan"
    record_path(path).write_text(text, encoding="latin-1")
    with pytest.raises(EngineRecordError, match="build the engine again"):
        TensorRTEngine(path, device=host_device(opening.cuda))


@pytest.mark.parametrize(
    ("change", "said"),
    [(lambda b: b[:-1], "has 3 bytes but its record says 4"), (lambda b: b"plaN", "damaged: copy both files")],
)
def test_a_changed_plan_is_refused(opening: Opening, change: Callable[[bytes], bytes], said: str) -> None:
    opening()
    path = opening.folder / "model.plan"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(EngineError, match=said):
        TensorRTEngine(path, device=host_device(opening.cuda))


MISFITS: list[tuple[dict[str, Any], str]] = [
    ({"flavour": "rknn"}, "for 'rknn', which this version does not know"),
    ({"tensorrt_version": "10.9.0.34"}, r"built with TensorRT 10\.9\.0\.34, here is 10\.16\.1\.11: install that"),
    ({"tensorrt_version": "10.16.1.12"}, r"build it again here: algm-build-engine MODEL\.onnx --fp32 "),
    ({"tensorrt_version": "11.1.0.106", "options": {"version_compatible": True}}, "install that version"),
    ({"tensorrt_version": "10.16.2", "options": {"version_compatible": True}}, "install that version"),
    (
        {"compute_capabilities": ("9.0",), "gpu": "NVIDIA H200"},
        r"capability 9\.0 \(NVIDIA H200\), and this Host",
    ),
    (
        {"compute_capabilities": ("8.6",)},
        r"has 8\.9: build it again on this machine: algm-build-engine MODEL\.onnx --fp32 ",
    ),
    (
        {"compute_capabilities": ("8.6",), "options": {"hardware_compatibility": "same-compute-capability"}},
        r"built for compute capability 8\.6",
    ),
    (
        {"processor": "sparc64"},
        "was built on sparc64, and this machine is .*: build it again on such a machine: algm-b",
    ),
    ({"plugins": dataclasses.replace(PLUGINS, version="0")}, "plugins of version 0, this version of algm-trt has 1"),
    ({"plugins": dataclasses.replace(PLUGINS, interface=99, embedded=False)}, "library of interface 99"),
    ({"profiles": ()}, "no usable batch range"),
    ({"profiles": ((2, 1, 3),)}, "no usable batch range"),
]


@pytest.mark.parametrize(("changes", "said"), MISFITS, ids=[said[:30] for _, said in MISFITS])
def test_a_misfit_is_refused_before_tensorrt_sees_the_plan(opening: Opening, changes: Any, said: str) -> None:
    with pytest.raises(EngineError, match=said) as caught:
        opening(**changes)
    assert "\n" not in str(caught.value)
    assert not opening.deserialised


@pytest.mark.parametrize(
    "changes",
    [
        {"tensorrt_version": "10.9.0.34", "options": {"version_compatible": True}},
        {"tensorrt_version": "10.16.1.11.post1"},
        {"compute_capabilities": ("8.0",), "options": {"hardware_compatibility": "ampere-plus"}},
        {"compute_capabilities": ("8.6", "8.9", "12.0")},
        {"processor": platform.machine()},
        {"processor": ""},  # a record that does not say
        {"plugins": dataclasses.replace(PLUGINS, interface=99)},  # the plan carries its own
        {"plugins": None},
    ],
)
def test_what_still_fits_is_opened(opening: Opening, changes: Any) -> None:
    opening(**changes).close()
    assert opening.deserialised


def test_an_old_gpu_is_not_ampere_plus(opening: Opening) -> None:
    opening.cuda = HostCuda(capability=(7, 5))
    with pytest.raises(PlanMisfitError, match=r"this Host device has 7\.5"):
        opening(compute_capabilities=("8.0",), options={"hardware_compatibility": "ampere-plus"})


def test_plans_without_code_are_opened_without_permission(opening: Opening) -> None:
    opening(plugins=None)
    assert not opening.trt.runtimes[0].engine_host_code_allowed
    assert opening.trt.initialised  # ScatterElements is a plugin of TensorRT's in 10.x


def test_a_plan_that_tensorrt_cannot_open(opening: Opening) -> None:
    with pytest.raises(EngineError, match=r"opened by TensorRT 10\.16\.1\.11: magic tag does not match; build"):
        opening(b"what is this")


def test_a_plan_without_the_library_needs_one(
    opening: Opening, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(LIBRARY_VARIABLE, str(tmp_path / "none.so"))
    with pytest.raises(PluginLibraryError, match=r"no plugin library at .*none\.so") as caught:
        opening(plugins=dataclasses.replace(PLUGINS, embedded=False))
    assert caught.value.exit_code == 4


def test_a_plan_without_the_library_loads_it(
    opening: Opening, monkeypatch: pytest.MonkeyPatch, twin_library: Path
) -> None:
    monkeypatch.setenv(LIBRARY_VARIABLE, str(twin_library))
    opening(plugins=dataclasses.replace(PLUGINS, embedded=False)).close()
    assert opening.trt.runtimes[0].get_plugin_registry().all_creators
    assert not opening.trt.runtimes[0].engine_host_code_allowed


def test_a_plan_that_should_carry_the_library_and_does_not_loads_it(
    opening: Opening, monkeypatch: pytest.MonkeyPatch, twin_library: Path, tmp_path: Path
) -> None:
    """TensorRT may leave it out of plans that are not version-compatible; what is said is then the first try's."""
    opening.trt.changes["carries_nothing"] = True
    monkeypatch.setenv(LIBRARY_VARIABLE, str(tmp_path / "none.so"))
    with pytest.raises(EngineError, match="could not find plugin AlgmLocalMerge; build"):
        opening()
    monkeypatch.setenv(LIBRARY_VARIABLE, str(twin_library))
    with pytest.raises(EngineError, match="could not find plugin"):
        opening(plugins=dataclasses.replace(PLUGINS, interface=99))
    opening().close()
    assert opening.trt.runtimes[-1].get_plugin_registry().all_creators


FOREIGN: list[dict[str, Any]] = [
    {"tensors": {"images": ((-1, 16, 16, 3), "UINT8")}},
    {"tensors": {"images": ((-1, 32, 32, 3), "FLOAT")}},
    {"tensors": {"labels": ((-1, 32, 32), "INT64")}},
    {"tensors": {"more": ((3,), "FLOAT")}},
    {"tensors": {"logits": ((-1, 5, 4), "FLOAT")}},
    {"profiles": (*PROFILES, (5, 5, 5))},
]


@pytest.mark.parametrize("changes", FOREIGN)
def test_an_engine_that_is_not_the_records_is_refused(opening: Opening, changes: dict[str, Any]) -> None:
    opening.trt.changes = changes
    with pytest.raises(EngineError, match="does not belong to its record"):
        opening()


def test_inputs_in_host_memory_are_refused(opening: Opening) -> None:
    opening.trt.changes = {"location": {"threshold": "host"}}
    with pytest.raises(EngineError, match="wants threshold in the memory of the host"):
        opening()


def test_extents_that_tensorrt_cannot_tell_are_taken(opening: Opening) -> None:
    opening.trt.changes = {"tensors": {"token_counts": ((-1, -1), "INT32")}}
    opening().close()


def one_size(batch: int) -> dict[str, Any]:
    """Inputs and outputs of an engine that tells its batch."""
    shapes = {"images": (32, 32, 3), "labels": (32, 32)}
    return {name: ((batch, *shape), "UINT8") for name, shape in shapes.items()}


@pytest.mark.parametrize("told", [4, -1])
def test_the_batch_of_a_plan_for_one_size_may_be_told(opening: Opening, told: int) -> None:
    opening.trt.changes = {"profiles": ((4, 4, 4),), "tensors": one_size(told)}
    opening(profiles=((4, 4, 4),)).close()


@pytest.mark.parametrize("profiles", [((5, 5, 5),), ((1, 4, 4),), ((4, 4, 4), (8, 8, 8))])
def test_a_batch_that_is_not_the_records_is_refused(opening: Opening, profiles: Any) -> None:
    opening.trt.changes = {"profiles": profiles, "tensors": one_size(4)}
    with pytest.raises(EngineError, match=r"does not belong to its record: images is UINT8 \(4, 32, 32, 3\), not"):
        opening(profiles=profiles)


def test_a_runtime_that_cannot_begin(opening: Opening, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(logger: Any) -> None:
        logger.log(1, "[c.cpp::x::3] CUDA initialization failure with error: 35")
        raise TypeError("pybind11::init(): factory function returned nullptr")

    monkeypatch.setattr(opening.trt, "Runtime", fail)
    with pytest.raises(EngineError, match="cannot start on this GPU: CUDA initialization failure"):
        opening()


def test_a_runtime_that_comes_although_it_cannot_start(opening: Opening) -> None:
    opening.trt.changes["no_driver"] = True
    with pytest.raises(EngineError, match=r"cannot start on this GPU: .*error: 35\); the driver must support"):
        opening()


@pytest.mark.parametrize(("version", "fits"), [("11.4.0.106", True), ("10.16.1.11", False)])
def test_versions_of_the_other_major(opening: Opening, version: str, fits: bool) -> None:
    opening.version("11.4.0.106")
    if fits:
        opening(tensorrt_version=version).close()
    else:
        with pytest.raises(PlanMisfitError):
            opening(tensorrt_version=version, options={"version_compatible": True})


def test_without_tensorrt_the_onnx_still_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setitem(sys.modules, "tensorrt_lean", None)
    path = write_plan(tmp_path, RECORD)
    with pytest.raises(MissingDependencyError, match=r"algm-trt\[tensorrt\]'.* algm-infer --engine model\.onnx"):
        open_engine(path)


LEAN = ("tensorrt_lean", "tensorrt_lean_bindings")


@pytest.mark.parametrize("name", LEAN)
def test_the_lean_runtime_runs_version_compatible_plans_only(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lean = SimpleNamespace(__version__=VERSION, Runtime=object)
    for other in ("tensorrt", *LEAN):
        monkeypatch.setitem(sys.modules, other, lean if other == name else None)
    assert tensorrt_bindings.load_tensorrt(needs="Runtime", meanwhile="", lean=True).module is lean
    with pytest.raises(MissingDependencyError):
        tensorrt_bindings.load_tensorrt(needs="Runtime", meanwhile="")


def test_a_lean_runtime_that_is_broken_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("tensorrt", "tensorrt_lean_bindings"):
        monkeypatch.setitem(sys.modules, name, None)
    (tmp_path / "tensorrt_lean.py").write_text("raise OSError('libnvinfer_lean.so.11: cannot open')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        MissingDependencyError, match=r"\(libnvinfer_lean\.so\.11: cannot open\): pip install 'algm-trt\[t"
    ):
        tensorrt_bindings.load_tensorrt(needs="Runtime", meanwhile="", lean=True)


def test_the_card_of_a_dense_model(opening: Opening) -> None:
    card: ModelCard = make_card(merge=False)
    opening.trt.model = FakeEngine(card)
    path = write_plan(opening.folder, make_record(card, plugins=PluginRecord("1", 1, "", True, 3)))
    TensorRTEngine(path, device=host_device(opening.cuda)).close()


INFER = "from algm_trt.runtime.cli import main\nimport sys\nsys.exit(main(sys.argv[1:]))"


@pytest.mark.rtx
def test_a_real_plan_is_recognised_and_misses_the_gpu_alone(tmp_path: Path) -> None:
    """The real thing as far as it goes here: TensorRT-RTX builds a plan, and the runtime opens its record."""
    from helpers.engines import save_tiny_model

    from algm_trt.engines import BuildOptions, build_engine

    if HAS_DRIVER:
        pytest.skip("this machine has an NVIDIA driver")
    model = save_tiny_model(tmp_path)
    report = build_engine(model, options=BuildOptions(target="rtx", plugins=False, verify=False))
    (tmp_path / "picture.png").write_bytes(b"")
    command = [sys.executable, "-c", INFER, str(tmp_path / "picture.png"), "--engine", str(report.path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 4, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.strip()]
    assert "no NVIDIA driver is on this machine" in line
    record = json.loads(record_path(report.path).read_text())
    assert record["flavour"] == "rtx"
    changed = {**record, "tensorrt_version": "1.0.0.1"}
    record_path(report.path).write_text(json.dumps(changed))
    with pytest.raises(PlanMisfitError, match=r"built with TensorRT-RTX 1\.0\.0\.1, here is"):
        open_engine(report.path)


def test_rtx_plans_run_on_the_gpus_of_their_list(opening: Opening, monkeypatch: pytest.MonkeyPatch) -> None:
    found = tensorrt_bindings.TensorRT(opening.trt, "rtx", "1.7.1.116")
    monkeypatch.setattr("algm_trt.runtime.backends.tensorrt.plan.load_tensorrt_rtx", lambda: found)
    facts = {"flavour": "rtx", "tensorrt_version": "1.7.1.116", "gpu": ""}
    opening(**facts, compute_capabilities=("8.6", "8.9")).close()
    with pytest.raises(PlanMisfitError, match=r"capability 8\.0, 12\.0, and this .* --target rtx --sm 89"):
        opening(**facts, compute_capabilities=("8.0", "12.0"))
