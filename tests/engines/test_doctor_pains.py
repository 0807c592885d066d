"""Each of the fifteen pains, found where it is so and not found where it is not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers.doctor import BROKEN, gives, machine, with_answers, with_gpu, with_library
from helpers.plans import make_record

from algm_trt.engines.doctor.facts import BREAKS, LACKS, Finding, exit_code, found, not_found
from algm_trt.engines.doctor.machine import Machine
from algm_trt.engines.doctor.model import Model, Problem
from algm_trt.engines.doctor.outline import INT8, Outline, Port, read_outline
from algm_trt.engines.doctor.pains import PAINS, Situation, look_for_all
from algm_trt.engines.sample import SAMPLE_MODEL
from algm_trt.plugins.library import LIBRARY_VARIABLE
from algm_trt.runtime.card import METADATA_KEY, ModelCard

OUTLINE = read_outline(SAMPLE_MODEL)
CARD = ModelCard.from_json(OUTLINE.metadata[METADATA_KEY])
ONNX = Model(SAMPLE_MODEL, "onnx", CARD, OUTLINE, None, (), "it runs")
HALF = replace(CARD, precision="fp16")
RECORD = make_record(HALF, gpu="NVIDIA L4", profiles=((1, 1, 1), (2, 8, 8)))
PLAN = Model(Path("model.plan"), "plan", HALF, None, RECORD, (), "")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(LIBRARY_VARIABLE, raising=False)


def look(name: str, at: Machine | None = None, model: Model | None = None) -> Finding:
    check = dict(PAINS)[name]
    return check(name, Situation(at or machine(), model))


def onnx_with(**changes: Any) -> Model:
    return replace(ONNX, outline=replace(OUTLINE, **changes))


def card_with(**changes: Any) -> Model:
    return replace(ONNX, card=replace(CARD, **changes))


def plan_with(*problems: Problem, **changes: Any) -> Model:
    return replace(PLAN, record=replace(RECORD, **changes), problems=problems)


def without(outline: Outline, port: str) -> Outline:
    return replace(outline, outputs=tuple(output for output in outline.outputs if output.name != port))


def images(*shape: int | str, dtype: int = 2) -> tuple[Port, ...]:
    return Port("images", dtype, shape), OUTLINE.inputs[1]


LIBRARY = with_library(machine())
TWO_ONNXRUNTIMES = machine(onnxruntime_packages=("onnxruntime", "onnxruntime-gpu"))
FOR_CUDA = gives(version="1.30.0", providers=["CUDAExecutionProvider", "CPUExecutionProvider"])
FALLS_BACK = with_answers(with_gpu(machine()), onnxruntime=FOR_CUDA, onnxruntime_on_cuda=BROKEN)
WITH_TENSORRT = with_answers(with_gpu(machine()), tensorrt=gives(version="10.16.1.11", module="tensorrt", builder=True))
OTHER_GPU = Problem("portability", "built for compute capability 8.0, this NVIDIA L4 has 8.9", BREAKS)
OTHER_PLUGINS = Problem("plugins", "plugins of version 0, this version has 1", BREAKS)
NO_LIBRARY = Problem("plugins", "the plugin library is not here", LACKS)
NO_GPU = Problem("environment", "no GPU", LACKS)
FOREIGN = replace(ONNX, card=None, problems=(Problem("file", "not a model of algm-export", BREAKS),))
MANY = tuple(f"class {index}" for index in range(300))
COLOURS = tuple((index % 256, index // 256, 1) for index in range(300))

# Pain, machine, model, exit code, part of the evidence.
FOUND = [
    ("float16 degrades the model", None, onnx_with(largest_weight=("w", 7e4)), 0, "w reaches 7e+04"),
    ("float16 degrades the model", None, onnx_with(largest_weight=("w", float("inf"))), 0, "w reaches inf"),
    ("no sliding window", None, card_with(stride=193), BREAKS, "stride 193 leaves gaps"),
    ("batches fixed or refused", None, onnx_with(inputs=images(1, 192, 192, 3)), 0, "fixed to 1"),
    ("batches fixed or refused", None, plan_with(profiles=((1, 1, 1),)), 0, "one picture at a time"),
    ("batches fixed or refused", None, plan_with(profiles=((1, 1, 2), (8, 8, 8))), 0, "a batch of 3"),
    ("batches fixed or refused", None, plan_with(profiles=((4, 8, 8),)), 0, "a batch of 1"),
    ("batches fixed or refused", None, plan_with(profiles=()), 0, "one picture at a time"),
    ("plugin library not found or unfit", with_library(machine(), problem="interface 0"), None, BREAKS, "interface 0"),
    ("plugin library not found or unfit", with_library(machine(), problem="interface 0"), ONNX, 0, "interface 0"),
    ("plugin library not found or unfit", with_gpu(LIBRARY, 75), None, 0, "no code for NVIDIA L4: sm_80, sm_89"),
    ("plugin library not found or unfit", with_gpu(LIBRARY, 87, "Orin"), None, 0, "no code for Orin: sm_80, sm_89"),
    ("plugin library not found or unfit", None, plan_with(OTHER_PLUGINS), BREAKS, "plugins of version 0"),
    ("plugin library not found or unfit", None, plan_with(NO_LIBRARY), LACKS, "is not here"),
    ("pre-processing drifts", None, onnx_with(inputs=images("b", 192, 192, 3, dtype=1)), BREAKS, "not take uint8"),
    ("pre-processing drifts", with_answers(machine(), pictures=BROKEN), None, LACKS, "cannot be loaded"),
    ("post-processing dominates", None, replace(ONNX, outline=without(OUTLINE, "labels")), BREAKS, "no labels"),
    ("class ids only", None, replace(ONNX, outline=without(OUTLINE, "logits")), BREAKS, "no class scores"),
    ("engine for another machine", None, plan_with(OTHER_GPU), BREAKS, "8.0"),
    ("engine for another machine", None, replace(PLAN, record=None), BREAKS, "no engine record"),
    ("INT8 for nothing", None, onnx_with(nodes={"::QuantizeLinear": 3}), 0, "QuantizeLinear"),
    ("INT8 for nothing", None, onnx_with(weight_bytes={INT8: 100}), 0, "int8 weights"),
    ("free picture sizes", None, onnx_with(inputs=images("b", "h", "w", 3)), 0, "('h', 'w', 3)"),
    ("float16 no faster", TWO_ONNXRUNTIMES, None, 0, "onnxruntime and onnxruntime-gpu"),
    ("float16 no faster", with_answers(machine(), onnxruntime=FOR_CUDA), None, 0, "it runs on the CPU"),
    ("float16 no faster", FALLS_BACK, None, 0, "does not run there: it cannot be loaded"),
    ("float16 no faster", None, card_with(precision="fp16"), 0, "on Arm it also sums in float16"),
    ("float16 no faster", with_gpu(machine(), 61, "GTX 1080"), None, 0, "GTX 1080 (compute capability 6.1)"),
    ("float16 no faster", with_gpu(machine()), None, 0, "neither TensorRT nor onnxruntime for CUDA"),
    ("unknown transforms", None, FOREIGN, BREAKS, "not a model of algm-export"),
    ("large pictures, little memory", machine(memory_mib=700), None, 0, "700 MiB"),
    ("masks misread", None, card_with(ignore_index=3), 0, "is the class"),
    ("masks misread", None, card_with(palette=(CARD.palette[0],) * len(CARD.classes)), 0, "share a colour"),
    ("masks misread", None, card_with(classes=MANY, palette=COLOURS, ignore_index=65535), 0, "300 classes"),
]  # fmt: skip


def test_linear_layers_of_bytes_that_algm_export_made_are_no_pain() -> None:
    bytewise = replace(card_with(precision="int8"), outline=replace(OUTLINE, nodes={"::MatMulInteger": 3}))
    finding = look("INT8 for nothing", None, bytewise)
    assert finding.state == "not found"
    assert "algm-bench" in finding.evidence


def test_the_batch_of_an_int8_model_is_one_by_design() -> None:
    single = replace(card_with(precision="int8"), outline=replace(OUTLINE, inputs=images(1, 192, 192, 3)))
    finding = look("batches fixed or refused", None, single)
    assert finding.state == "not found"
    assert "1 by design" in finding.evidence


@pytest.mark.parametrize(("name", "at", "model", "code", "part"), FOUND)
def test_a_pain_is_found_with_evidence_and_cure(
    name: str, at: Machine | None, model: Model | None, code: int, part: str
) -> None:
    finding = look(name, at, model)
    assert finding.state == "found"
    assert part in finding.evidence
    assert finding.cure
    assert finding.exit_code == code


@pytest.mark.parametrize("name", [name for name, _ in PAINS])
def test_not_found_with_a_good_model(name: str) -> None:
    at = WITH_TENSORRT if name == "builds take long" else machine()
    finding = look(name, at, ONNX)
    assert (finding.state, finding.cure, finding.exit_code) == ("not found", "", 0)


@pytest.mark.parametrize("name", [name for name, _ in PAINS if name != "float16 degrades the model"])
def test_not_found_with_a_good_plan(name: str) -> None:
    assert look(name, with_library(WITH_TENSORRT), PLAN).state == "not found"


def test_precision_of_a_plan_shows_on_pictures_only() -> None:
    finding = look("float16 degrades the model", WITH_TENSORRT, PLAN)
    assert finding.state == "cannot tell"
    assert "--selftest" in finding.evidence
    full = replace(PLAN, card=CARD, record=replace(RECORD, card=CARD))
    assert look("float16 degrades the model", WITH_TENSORRT, full).state == "not found"


def test_a_driver_that_is_older_than_cuda_python(monkeypatch: pytest.MonkeyPatch) -> None:
    old = gives(version="550.1", cuda="12.4", status=0, gpus=[{"name": "L4", "capability": 89, "memory_mib": 1}])
    monkeypatch.setattr("algm_trt.engines.doctor.machine.package_version", lambda name: "13.0.1")
    finding = look("float16 no faster", with_answers(machine(), driver=old))
    assert (finding.state, finding.exit_code) == ("found", 0)
    assert "serves CUDA 12.4, and cuda-python 13.0.1" in finding.evidence
    assert with_gpu(machine()).driver_is_older == ""


def test_resized_pictures_are_not_called_the_same_everywhere() -> None:
    """The fixed-point resize of OpenCV's builds for Arm rounds one value in five in another way."""
    assert look("pre-processing drifts", None, ONNX).evidence.endswith("by OpenCV, which rounds in another way on Arm")


def test_what_needs_a_model_says_so() -> None:
    findings = look_for_all(Situation(machine(), None))
    assert len(findings) == 15
    unsettled = [finding for finding in findings if finding.state == "cannot tell"]
    assert len(unsettled) == 11
    assert [f.name for f in unsettled if "name a MODEL" not in f.evidence] == ["builds take long"]
    assert exit_code(findings) == 0


def test_a_plan_without_a_record_has_one_pain_and_its_cause() -> None:
    spoilt = replace(PLAN, card=None, record=None, problems=(Problem("file", "the record is damaged", BREAKS),))
    finding = look("engine for another machine", None, spoilt)
    assert "the record is damaged" in finding.evidence
    assert "build the engine again" in finding.cure
    assert look("unknown transforms", None, spoilt).state == "cannot tell"


def test_a_plan_that_cannot_be_compared_is_not_called_fitting() -> None:
    finding = look("engine for another machine", machine(), plan_with(NO_GPU))
    assert (finding.state, finding.evidence) == ("cannot tell", "not with what is here: no GPU")


def test_a_library_of_other_sources() -> None:
    at = replace(LIBRARY, library=replace(LIBRARY.library, other_sources=True))
    finding = look("plugin library not found or unfit", at)
    assert (finding.state, finding.exit_code) == ("found", 0)
    assert "was built from other sources" in finding.evidence
    assert "algm-build-plugins" in finding.cure


def test_what_the_driver_must_compile_is_said() -> None:
    thor, l4 = (look("plugin library not found or unfit", with_gpu(LIBRARY, *gpu)) for gpu in [(110, "Thor"), (89,)])
    assert thor.state == l4.state == "not found"
    assert "no machine code for Thor (11.0): the driver makes it from PTX" in thor.evidence
    assert thor.evidence.endswith("algm-build-plugins --arch 110 beforehand")
    assert l4.evidence == "/lib/libalgm_plugins.so loads"


def test_a_variable_that_names_no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LIBRARY_VARIABLE, "/nowhere/libalgm_plugins.so")
    finding = look("plugin library not found or unfit", machine())
    assert (finding.state, finding.exit_code) == ("found", BREAKS)
    assert look("plugin library not found or unfit", machine(), ONNX).exit_code == 0
    assert look("plugin library not found or unfit", machine(), PLAN).state == "not found"


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)
    finding = look("builds take long")
    assert finding.state == "found"
    assert str(tmp_path) in finding.evidence


def test_timing_caches_are_counted(tmp_path: Path) -> None:
    assert "no timing cache yet" in look("builds take long", WITH_TENSORRT).evidence
    (tmp_path / "algm-trt").mkdir()
    (tmp_path / "algm-trt" / "timing-10.16-nvidia-l4.cache").touch()
    assert "1 timing caches" in look("builds take long", WITH_TENSORRT).evidence


def test_unknown_memory_is_not_called_enough() -> None:
    assert look("large pictures, little memory", machine(memory_mib=None)).state == "cannot tell"


def test_findings_that_say_too_little_are_refused() -> None:
    for state, evidence, cure, code in (
        ("found", "it is so", "", 0),
        ("not found", "", "", 0),
        ("not found", "it is not so", "do this", 0),
        ("cannot tell", "no idea", "", 1),
    ):
        with pytest.raises(ValueError, match="a finding needs"):
            Finding("a pain", state, evidence, cure, code)  # type: ignore[arg-type]


def test_what_breaks_comes_before_what_is_missing() -> None:
    lacks, breaks = found("a", "b", "c", LACKS), found("a", "b", "c", BREAKS)
    assert exit_code([lacks, breaks]) == BREAKS
    assert exit_code([not_found("a", "b"), lacks]) == LACKS
    assert exit_code([], [LACKS]) == LACKS
    assert exit_code([not_found("a", "b")]) == 0
