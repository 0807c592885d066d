"""The ladder: which rungs run where, what they say, and that each of them can fail."""

from __future__ import annotations

import contextlib
import ctypes
import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from helpers.doctor import ABSENT, BROKEN, gives, machine, with_answers, with_gpu, with_library
from onnx import numpy_helper

from algm_trt.engines.doctor import ladder, rungs
from algm_trt.engines.doctor.isolated import Answer, call
from algm_trt.engines.doctor.kernels import Array, KernelError, run_case
from algm_trt.engines.doctor.ladder import Ladder, Rung
from algm_trt.engines.doctor.machine import Machine, examine
from algm_trt.engines.precision import to_float16
from algm_trt.engines.sample import SAMPLE_MODEL, recorded
from algm_trt.plugins import interface, spec
from algm_trt.plugins.cases import Case, make_cases
from algm_trt.plugins.errors import VerificationError
from algm_trt.plugins.library import LIBRARY_VARIABLE

TENSORRT = gives(version="10.16.1.11", module="tensorrt", builder=True)
LEAN = gives(version="11.4.0.106", module="tensorrt_lean_bindings")
RTX = gives(version="1.7.1.116")
NVCC = gives(version="13.0", path="/usr/bin/nvcc")
SURGEON = gives(onnx="1.23.2", onnx_graphsurgeon="0.6.1")
EVERYTHING = with_answers(
    with_library(with_gpu(machine())),
    tensorrt=TENSORRT,
    tensorrt_lean=LEAN,
    tensorrt_rtx=RTX,
    cuda_toolkit=NVCC,
    engine_packages=SURGEON,
)

Call = tuple[str, tuple[Any, ...], dict[str, str]]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """Calls that the ladder makes; all succeed, and a compilation leaves a library."""
    made: list[Call] = []

    def record(
        function: Callable[..., Any] | str, *arguments: Any, limit: float, environment: dict[str, str]
    ) -> Answer:
        name = function if isinstance(function, str) else function.__name__
        made.append((name, arguments, environment))
        if name == "compile_library":
            Path(arguments[0]).touch()
        return Answer([8, []] if isinstance(function, str) else f"{name} is fine", "", False, 1.0)

    monkeypatch.setattr(ladder, "call", record)
    monkeypatch.setattr(ladder, "package_version", lambda name: "2.0")
    return made


def climb(at: Machine, folder: Path, *, build: bool = True) -> list[Rung]:
    return list(Ladder(at, folder, build=build).climb())


def test_a_machine_with_everything_runs_everything(calls: list[Call], tmp_path: Path) -> None:
    found = climb(EVERYTHING, tmp_path)
    assert {rung.state for rung in found} == {"passed"}
    assert [rung.name for rung in found] == ["L0", "L1", "L2", "L3", "L4", "L5", "L5", *["L6"] * 4]
    assert [(name, arguments) for name, arguments, _ in calls[3:]] == [
        ("build_with_rtx", (89,)),
        ("kernels_on_gpu", ("/lib/libalgm_plugins.so",)),
        ("accepted_by_registry", ("tensorrt", "/lib/libalgm_plugins.so")),
        ("accepted_by_registry", ("tensorrt_lean_bindings", "/lib/libalgm_plugins.so")),
        ("build_and_run", ("tensorrt", "fp16", 89)),
        ("build_and_run", ("tensorrt", "fp32", 89)),
        ("build_and_run", ("rtx", "fp16", 89)),
        ("build_and_run", ("rtx", "fp32", 89)),
    ]
    assert all(environment == {LIBRARY_VARIABLE: "/lib/libalgm_plugins.so"} for _, _, environment in calls)


def test_a_library_that_was_compiled_on_the_way_is_used(calls: list[Call], tmp_path: Path) -> None:
    nothing = replace(EVERYTHING, library=machine().library)
    assert {rung.state for rung in climb(nothing, tmp_path)} == {"passed"}
    assert calls[1][2] == {}
    (compiled,) = {environment.get(LIBRARY_VARIABLE) for _, _, environment in calls[3:]}
    assert compiled == str(tmp_path / "libalgm_plugins.so")


def test_a_gpu_that_tensorrt_rtx_does_not_list(calls: list[Call], tmp_path: Path) -> None:
    found = climb(with_gpu(EVERYTHING, 90, "NVIDIA H100"), tmp_path)
    assert [rung.name for rung in found].count("L6") == 2
    assert ("build_with_rtx", (89,)) in [(name, arguments) for name, arguments, _ in calls]
    compiled = next(arguments for name, arguments, _ in calls if name == "compile_library")
    assert compiled[1] == 90


def test_a_bare_machine_says_why_for_every_rung(
    calls: list[Call], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ladder, "package_version", lambda name: "")
    bare = with_answers(machine(), onnxruntime=ABSENT, pictures=ABSENT)
    found = climb(bare, tmp_path)
    assert calls == []
    assert [(rung.name, rung.state) for rung in found] == [
        (name, "not run") for name in ("L0", "L1", "L2", "L3", "L4", "L5", "L6", "L6")
    ]
    assert all(rung.result for rung in found)


@pytest.mark.parametrize(
    ("at", "name", "state", "part"),
    [
        (with_answers(EVERYTHING, onnxruntime=BROKEN), "L1", "failed", "no such symbol"),
        (with_answers(EVERYTHING, tensorrt_rtx=BROKEN), "L3", "failed", "no such symbol"),
        (with_answers(EVERYTHING, engine_packages=ABSENT), "L3", "not run", "algm-trt[engine]"),
        (with_library(EVERYTHING, problem="interface 0"), "L3", "failed", "interface 0"),
        (with_library(EVERYTHING, problem="interface 0"), "L5", "failed", "interface 0"),
        (with_gpu(EVERYTHING, 75), "L4", "failed", "no code for sm_75"),
        (with_gpu(EVERYTHING, 75), "L6", "failed", "algm-build-plugins --arch 75"),
        (with_answers(EVERYTHING, driver=ABSENT), "L4", "not run", "not installed"),
        (with_answers(EVERYTHING, driver=BROKEN), "L6", "failed", "no such symbol"),
        (with_answers(EVERYTHING, driver=gives(version="", cuda="13.0", status=100, gpus=[])), "L4", "not run", "100"),
        (with_answers(EVERYTHING, tensorrt=ABSENT), "L6", "not run", "algm-trt[tensorrt]"),
        (with_answers(EVERYTHING, tensorrt=BROKEN), "L6", "failed", "no such symbol"),
        (with_answers(EVERYTHING, tensorrt=BROKEN, tensorrt_lean=ABSENT), "L5", "failed", "no such symbol"),
        (with_answers(EVERYTHING, tensorrt=ABSENT), "L5", "passed", "is fine"),
    ],
)
def test_what_is_absent_is_not_run_and_what_is_broken_fails(
    calls: list[Call], tmp_path: Path, at: Machine, name: str, state: str, part: str
) -> None:
    rung = next(rung for rung in climb(at, tmp_path) if rung.name == name)
    assert rung.state == state
    assert part in rung.result


def test_a_rung_that_raises_or_complains_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {"check_operators": Answer([8, ["append tokens: wrong"]], "", False, 1.0)}
    failure = Answer(None, "the process was ended by SIGSEGV", False, 2.0)
    monkeypatch.setattr(ladder, "call", lambda function, *_, **__: answers.get(str(function).split(":")[-1], failure))
    monkeypatch.setattr(ladder, "package_version", lambda name: "2.0")
    found = climb(EVERYTHING, tmp_path)
    assert {rung.state for rung in found} == {"failed"}
    assert found[0].result == "append tokens: wrong"
    assert found[1].result == "the process was ended by SIGSEGV"


def test_skip_build_leaves_out_compiling(calls: list[Call], tmp_path: Path) -> None:
    rung = next(rung for rung in climb(EVERYTHING, tmp_path, build=False) if rung.name == "L2")
    assert (rung.state, rung.result) == ("not run", "--skip-build")


@pytest.mark.heavy
def test_no_rung_fails_on_this_machine(tmp_path: Path) -> None:
    at = examine()
    found = {rung.name: rung for rung in climb(at, tmp_path, build=False)}
    assert found["L0"].state == "passed", found["L0"].result
    assert found["L1"].state == "passed", found["L1"].result
    can_build = at.answers["tensorrt_rtx"].ok and at.answers["engine_packages"].ok and at.library.usable
    assert found["L3"].state == ("passed" if can_build else "not run"), found["L3"].result
    assert [rung.name for rung in found.values() if rung.state == "failed"] == []
    assert all(rung.result for rung in found.values())


# The rungs themselves.


def test_function_bodies_and_sample() -> None:
    text = rungs.operators_on_onnxruntime()
    assert text.startswith(f"{len(make_cases())} operator cases equal the NumPy reference; sample model:")


def test_a_wrong_function_body_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = onnx.load(rungs.OPERATORS_MODEL)
    function = next(function for function in model.functions if function.name == spec.APPEND_TOKENS.name)
    for node in function.node:
        if node.op_type == "Concat":
            node.input[0], node.input[1] = node.input[1], node.input[0]
    onnx.save(model, tmp_path / "operators.onnx")
    monkeypatch.setattr(rungs, "OPERATORS_MODEL", tmp_path / "operators.onnx")
    with pytest.raises(Exception, match="append tokens"):
        rungs.operators_on_onnxruntime()


def test_another_recording_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = recorded()
    for wrong in (
        replace(right, logits=right.logits + 0.01),
        replace(right, labels=np.roll(right.labels, 9, axis=1)),
        replace(right, token_counts=right.token_counts + 1),
    ):
        monkeypatch.setattr(rungs, "recorded", lambda wrong=wrong: wrong)
        with pytest.raises(VerificationError, match="class scores within"):
            rungs.operators_on_onnxruntime()


@pytest.mark.rtx
def test_tensorrt_rtx_builds_the_sample(plugin_library: Path) -> None:
    text = rungs.build_with_rtx(80)
    assert "11 plugin layers" in text
    assert "SM80" in text


@pytest.mark.rtx
def test_an_engine_without_a_gpu_fails_and_says_so(plugin_library: Path) -> None:
    if examine().gpus:
        pytest.skip("this machine has a GPU")
    answer = call(rungs.build_and_run, "rtx", "fp16", 89, limit=300.0)
    assert not answer.ok
    assert "NVIDIA" in answer.error


def test_names_of_the_registry_exist_in_every_tensorrt() -> None:
    recorded_names = json.loads(Path(__file__).with_name("tensorrt_names.json").read_text())
    module = {"get_plugin_registry", "PluginField", "PluginFieldCollection", "PluginFieldType", "TensorRTPhase"}
    for names in recorded_names.values():
        assert module <= set(names[""])
        assert "get_creator" in names["IPluginRegistry"]


def test_the_registry_of_the_lean_runtime(plugin_library: Path) -> None:
    pytest.importorskip("tensorrt_lean_bindings", reason="TensorRT's lean runtime is not installed: extra lean")
    answer = call(rungs.accepted_by_registry, "tensorrt_lean_bindings", str(plugin_library))
    assert answer.ok, answer.error
    assert "plugin objects of all 6 operators" in answer.value


class HostMemory:
    """Memory of the host, for the library that is compiled for the CPU."""

    stream = 0

    def __init__(self) -> None:
        self._kept: dict[int, Array] = {}

    def current(self) -> AbstractContextManager[None]:
        return contextlib.nullcontext()

    def put(self, array: Array) -> int:
        room = np.zeros(array.nbytes + 256, np.uint8)
        begin = -room.ctypes.data % 256
        copy = room[begin : begin + array.nbytes]
        copy[:] = np.frombuffer(array.tobytes(), np.uint8)
        self._kept[room.ctypes.data + begin] = copy
        return room.ctypes.data + begin

    def get(self, address: int, array: Array) -> None:
        array[...] = np.frombuffer(self._kept[address].tobytes(), array.dtype).reshape(array.shape)


@pytest.fixture(scope="module")
def twin(twin_library: Path) -> ctypes.CDLL:
    return interface.declare(ctypes.CDLL(str(twin_library)))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("case", make_cases(), ids=lambda case: case.name)
def test_kernels_through_the_c_interface(twin: ctypes.CDLL, case: Case, dtype: str) -> None:
    assert case.complaint(run_case(twin, HostMemory(), case, dtype), dtype) is None


def test_a_kernel_that_refuses_is_named(twin: ctypes.CDLL) -> None:
    case = next(case for case in make_cases() if case.op is spec.PACKED_ATTENTION)
    odd = replace(case, attributes={**case.attributes, "heads": 64})
    with pytest.raises(KernelError, match="attention, float32: "):
        run_case(twin, HostMemory(), odd, "float32")


def test_engines_are_compared_with_onnx_runtime(tmp_path: Path) -> None:
    same = rungs.compare_engines(SAMPLE_MODEL, SAMPLE_MODEL)
    assert (same.labels_equal, same.tokens_difference, same.passed) == (1.0, 0.0, True)
    assert same.tokens[0] > same.tokens[1] > same.tokens[2] > 0
    assert "pictures/s" in str(same)
    half = tmp_path / "half.onnx"
    onnx.save(to_float16(onnx.load(SAMPLE_MODEL)), half)
    comparison = rungs.compare_engines(half, SAMPLE_MODEL)
    assert comparison.passed, str(comparison)
    assert comparison.labels_equal < 1


def test_a_spoilt_engine_is_noticed(tmp_path: Path) -> None:
    model = onnx.load(SAMPLE_MODEL)
    weights = [tensor for tensor in model.graph.initializer if tensor.name.endswith("fc1.weight_t")]
    weights[-2].CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(weights[-2]), weights[-2].name))
    onnx.save(model, tmp_path / "spoilt.onnx")
    assert not rungs.compare_engines(tmp_path / "spoilt.onnx", SAMPLE_MODEL).passed


def test_gates_hold_for_labels_and_for_tokens() -> None:
    good = rungs.Comparison(5, 0.996, (1000, 500, 400), (1000, 500, 402), 1.0, 2.0)
    assert good.passed
    assert not replace(good, labels_equal=0.994).passed
    assert not replace(good, tokens=(1000, 500, 410)).passed
