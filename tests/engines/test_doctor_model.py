"""A model against a machine: ONNX files good and bad, plans with every kind of misfit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from helpers.doctor import ABSENT, BROKEN, gives, machine, with_gpu, with_library
from helpers.plans import make_record, write_plan

from algm_trt.engines.doctor import model as module
from algm_trt.engines.doctor.facts import BREAKS, LACKS
from algm_trt.engines.doctor.isolated import Answer
from algm_trt.engines.doctor.machine import Machine
from algm_trt.engines.doctor.model import examine_model, model_facts
from algm_trt.engines.doctor.outline import read_outline
from algm_trt.engines.sample import SAMPLE_MODEL
from algm_trt.plugins.errors import UsageError
from algm_trt.runtime.card import METADATA_KEY, ModelCard
from algm_trt.runtime.engine_record import PluginRecord, record_path

CARD = ModelCard.from_json(read_outline(SAMPLE_MODEL).metadata[METADATA_KEY])
PLUGINS = PluginRecord("1", 1, "ab", embedded=True, layers=11)
GOOD = with_gpu(machine())


@pytest.fixture(autouse=True)
def _cuda_python_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "package_version", lambda name: "13.0")


@pytest.fixture
def plan(tmp_path: Path) -> Callable[..., Path]:
    """Writes a plan and its record, changed."""

    def write(**changes: Any) -> Path:
        record = make_record(CARD, gpu="NVIDIA L4", plugins=PLUGINS, profiles=((1, 2, 8),), date="2026-01-01")
        return write_plan(tmp_path, replace(record, **changes))

    return write


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Callable[[Answer], None]:
    """Decides what the child says that runs the model or looks for its TensorRT."""

    def decide(answer: Answer) -> None:
        monkeypatch.setattr(module, "call", lambda *_, **__: answer)

    decide(gives(version="10.16.1.11"))
    return decide


def problems(path: Path, at: Machine = GOOD) -> list[tuple[str, int]]:
    return [(problem.topic, problem.exit_code) for problem in examine_model(path, at).problems]


def test_an_exported_model_runs_here() -> None:
    model = examine_model(SAMPLE_MODEL, machine())
    assert model.problems == ()
    assert "ONNX Runtime" in model.run
    facts = {fact.name: fact.value for fact in model_facts(model)}
    assert facts["model"] == "ViT d64 h1 L6 /8, mask_transformer x1, 10 classes, fp32"
    assert facts["input"].startswith("192x192, stride 160; merges at layers 1, 3 in windows of 2x2")
    assert "6 function bodies" in facts["graph"]
    assert {fact.state for fact in model_facts(model)} == {"ok"}


def test_a_file_that_is_not_there_and_one_of_another_kind(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no model"):
        examine_model(tmp_path / "model.onnx", machine())
    (tmp_path / "model.pth").touch()
    with pytest.raises(UsageError, match=r"expected a \.onnx or \.plan file"):
        examine_model(tmp_path / "model.pth", machine())


def _cut(proto: onnx.ModelProto) -> bytes:
    return proto.SerializeToString()[:100_000]


def _text(proto: onnx.ModelProto) -> bytes:
    return b"<html>not found</html>"


def _foreign(proto: onnx.ModelProto) -> bytes:
    del proto.metadata_props[:]
    return proto.SerializeToString()


def _other_card(proto: onnx.ModelProto) -> bytes:
    proto.metadata_props[0].value = proto.metadata_props[0].value.replace('"format_version": 1', '"format_version": 9')
    return proto.SerializeToString()


def _without_bodies(proto: onnx.ModelProto) -> bytes:
    del proto.functions[1:]
    return proto.SerializeToString()


def _unknown_operator(proto: onnx.ModelProto) -> bytes:
    next(node for node in proto.graph.node if node.domain == "algm").op_type = "AlgmNovelty"
    return proto.SerializeToString()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_cut, "is not an ONNX file, or a damaged one"),
        (_text, "is not an ONNX file, or a damaged one"),
        (_foreign, "it carries no model card"),
        (_other_card, "has format 9"),
        (_without_bodies, "lacks the function bodies of algm::AlgmAppendTokens"),
        (_unknown_operator, "operators that this version lacks: algm::AlgmNovelty"),
    ],
)
def test_onnx_files_that_will_not_run(tmp_path: Path, spoil: Callable[[onnx.ModelProto], bytes], said: str) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(spoil(onnx.load(SAMPLE_MODEL)))
    model = examine_model(path, machine())
    (problem,) = model.problems
    assert (problem.topic, problem.exit_code) == ("file", BREAKS)
    assert said in problem.text
    assert model_facts(model)[-1].state == "broken"


def test_onnx_runtime_absent_and_unable(answers: Callable[[Answer], None]) -> None:
    answers(ABSENT)
    assert problems(SAMPLE_MODEL) == [("environment", LACKS)]
    assert examine_model(SAMPLE_MODEL, GOOD).problems[0].text.count("pip install") == 1
    answers(replace(ABSENT, error="onnxruntime is not installed: pip install onnxruntime"))
    assert examine_model(SAMPLE_MODEL, GOOD).problems[0].text.count("pip install") == 1
    answers(BROKEN)
    assert problems(SAMPLE_MODEL) == [("file", BREAKS)]


def test_a_plan_that_fits(plan: Callable[..., Path], answers: Callable[[Answer], None]) -> None:
    model = examine_model(plan(), GOOD)
    assert model.problems == ()
    facts = {fact.name: fact.value for fact in model_facts(model)}
    assert facts["engine"] == "TensorRT 10.16.1.11 for NVIDIA L4, compute capability 8.9"
    assert facts["profiles"] == "batch 1 to 8; 11 plugin layers, inside the plan; built 2026-01-01"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"plan_bytes": 5}, [("file", BREAKS)]),
        ({"plan_sha256": "00"}, [("file", BREAKS)]),
        ({"profiles": ()}, [("file", BREAKS)]),
        ({"profiles": ((2, 1, 8),)}, [("file", BREAKS)]),
        ({"plugins": replace(PLUGINS, version="0")}, [("plugins", BREAKS)]),
        ({"plugins": replace(PLUGINS, embedded=False)}, [("plugins", LACKS)]),
        ({"plugins": replace(PLUGINS, embedded=False, interface=99)}, [("plugins", BREAKS), ("plugins", LACKS)]),
        ({"compute_capabilities": ("8.0", "12.0")}, [("portability", BREAKS)]),
        ({"processor": "sparc64"}, [("portability", BREAKS)]),
        ({"compute_capabilities": ("8.0",), "options": {"hardware_compatibility": "ampere-plus"}}, []),
        ({"plugins": None}, []),
    ],
)
def test_every_misfit_of_a_record(
    plan: Callable[..., Path],
    answers: Callable[[Answer], None],
    changes: dict[str, Any],
    expected: list[tuple[str, int]],
) -> None:
    assert problems(plan(**changes)) == expected


def test_a_plan_whose_library_is_here(plan: Callable[..., Path], answers: Callable[[Answer], None]) -> None:
    assert problems(plan(plugins=replace(PLUGINS, embedded=False)), with_library(GOOD)) == []


def test_no_record_and_one_of_another_format(plan: Callable[..., Path], answers: Callable[[Answer], None]) -> None:
    path = plan()
    record = record_path(path)
    text = record.read_text()
    for spoilt in (text.replace('"format_version": 1\n}', '"format_version": 9\n}'), "{", "[]", "\0"):
        record.write_text(spoilt)
        assert problems(path) == [("file", BREAKS)], spoilt[:20]
    record.unlink()
    model = examine_model(path, GOOD)
    assert [problem.topic for problem in model.problems] == ["file"]
    assert "copy it along" in model.problems[0].text
    assert model_facts(model)[-1].name == "file"


def test_no_gpu_no_tensorrt_no_cuda_python(
    plan: Callable[..., Path], answers: Callable[[Answer], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers(ABSENT)
    monkeypatch.setattr(module, "package_version", lambda name: "")
    assert problems(plan(), machine()) == [("environment", LACKS)] * 3


def test_a_driver_that_is_older_than_cuda_python(
    plan: Callable[..., Path], answers: Callable[[Answer], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("algm_trt.engines.doctor.machine.package_version", lambda name: "100.0.1")
    assert problems(plan()) == [("environment", LACKS)]


def test_another_version_of_tensorrt(plan: Callable[..., Path], answers: Callable[[Answer], None]) -> None:
    answers(BROKEN)
    assert problems(plan()) == [("portability", BREAKS)]


def test_tensorrt_that_is_not_here_for_real(plan: Callable[..., Path]) -> None:
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX tells its version here")
    path = plan(flavour="rtx", gpu="", tensorrt_version="0.1.2.3")
    model = examine_model(path, GOOD)
    assert [problem.topic for problem in model.problems] == ["portability"]
    assert "was built with TensorRT-RTX 0.1.2.3" in model.problems[0].text


@pytest.mark.rtx
def test_the_version_that_is_here_fits(plan: Callable[..., Path]) -> None:
    import tensorrt_rtx_bindings

    assert problems(plan(flavour="rtx", gpu="", tensorrt_version=tensorrt_rtx_bindings.__version__)) == []
