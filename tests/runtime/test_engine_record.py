"""The engine record: JSON and back, what counts as the same build, records that cannot be read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers.engines import tiny_model

from algm_trt.engines import cli as engines_cli
from algm_trt.engines.source import card_of
from algm_trt.plugins.errors import AlgmError
from algm_trt.runtime.engine_record import EngineRecord, EngineRecordError, PluginRecord, read_record, record_path


@pytest.fixture
def record() -> EngineRecord:
    card = card_of(tiny_model())
    assert card is not None
    return EngineRecord(
        card=card,
        flavour="tensorrt",
        tensorrt_version="10.9.0.34",
        gpu="A GPU",
        compute_capabilities=("8.9",),
        plugins=PluginRecord("1", 1, "ab", embedded=True, layers=10),
        profiles=((1, 1, 1), (2, 8, 8)),
        options={"precision": "fp16", "workspace_mib": None},
        onnx_sha256="cd",
        tool_version="0.1.0",
        date="2026-01-01T00:00:00+00:00",
        plan_sha256="ef",
        plan_bytes=7,
        refinements=("merged stream",),
    )


def test_a_record_survives_json(record: EngineRecord) -> None:
    assert EngineRecord.from_json(record.to_json()) == record
    bare = replace(record, plugins=None)
    assert EngineRecord.from_json(bare.to_json()) == bare


def test_same_build_whenever_it_was_made(record: EngineRecord) -> None:
    assert record.same_build(replace(record, date="", plan_sha256="", plan_bytes=0, refinements=()))


@pytest.mark.parametrize(
    "change",
    [
        {"tensorrt_version": "10.9.0.35"},
        {"gpu": "Another"},
        {"compute_capabilities": ("9.0",)},
        {"processor": "aarch64"},
        {"plugins": None},
        {"profiles": ((1, 1, 1),)},
        {"options": {"precision": "fp16", "workspace_mib": 1}},
        {"onnx_sha256": "00"},
        {"tool_version": "0.2.0"},
    ],
)
def test_a_changed_build_is_another(record: EngineRecord, change: dict[str, object]) -> None:
    assert not record.same_build(replace(record, **change))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("line", "change"),
    [
        ("--fp16 --profiles 1,8", {}),
        ("--fp32 --no-plugins --batch 1 2 3", {"profiles": ((1, 2, 3),), "plugins": None}),
        (
            "--fp16 --target rtx --sm 80,120 --no-embed-plugins --profiles 1,8",
            {
                "flavour": "rtx",
                "compute_capabilities": ("8.0", "12.0"),
                "plugins": PluginRecord("1", 1, "ab", embedded=False, layers=10),
            },
        ),
        (
            "--fp16 --profiles 1,8 --workspace 512 --optimization-level 5 --hardware-compatibility ampere-plus "
            "--version-compatible",
            {
                "options": {
                    "workspace_mib": 512,
                    "optimization_level": 5,
                    "hardware_compatibility": "ampere-plus",
                    "version_compatible": True,
                }
            },
        ),
    ],
)
def test_the_command_that_builds_such_a_plan(record: EngineRecord, line: str, change: dict[str, Any]) -> None:
    card = replace(record.card, precision=line.split()[0].removeprefix("--"))
    command = replace(record, card=card, **change).build_command()
    assert command == f"algm-build-engine MODEL.onnx {line}"
    engines_cli._parser().parse_args(command.split()[1:])


def test_the_command_for_another_gpu(record: EngineRecord) -> None:
    assert " --target rtx --sm 86 " in replace(record, flavour="rtx").build_command("8.6")
    assert "--sm" not in record.build_command("8.6")


def test_record_lies_beside_the_plan(tmp_path: Path, record: EngineRecord) -> None:
    plan = tmp_path / "model.plan"
    assert record_path(plan).name == "model.plan.json"
    record_path(plan).write_text(record.to_json())
    assert read_record(plan) == record


def test_missing_record_has_a_cure(tmp_path: Path) -> None:
    with pytest.raises(EngineRecordError, match="build the engine again"):
        read_record(tmp_path / "model.plan")


def test_file_that_is_no_record_is_named(tmp_path: Path) -> None:
    record_path(tmp_path / "model.plan").write_text("{}")
    with pytest.raises(EngineRecordError, match=r"model\.plan\.json: .*build the engine again"):
        read_record(tmp_path / "model.plan")


@pytest.mark.parametrize("text", ["", "[]", "{}", "nonsense", '{"card": {}}', "[" * 100_000], ids=lambda text: text[:6])
def test_what_is_no_record_is_refused(text: str) -> None:
    with pytest.raises((EngineRecordError, Exception), match=r"again") as caught:
        EngineRecord.from_json(text)
    assert caught.value.exit_code == 1  # type: ignore[attr-defined]


def test_record_of_another_format_is_refused(record: EngineRecord) -> None:
    data = json.loads(record.to_json()) | {"format_version": 99}
    with pytest.raises(EngineRecordError, match="format 99"):
        EngineRecord.from_json(json.dumps(data))


@pytest.mark.parametrize(
    "change",
    [
        {"card": []},
        {"card": "a card"},
        {"tensorrt_version": 10},
        {"processor": None},
        {"compute_capabilities": [8.9]},
        {"plugins": {}},
        {"plugins": 0},
        {"plugins": {"version": 1, "interface": 1, "sha256": "", "embedded": True, "layers": 1}},
        {"profiles": [[1, 2, float("inf")]]},
        {"profiles": [[1, 2]]},
        {"flavour": ["rtx"]},
        {"gpu": None},
        {"plan_bytes": "7"},
        {"options": []},
    ],
)
def test_a_record_with_a_value_of_another_kind_is_refused(record: EngineRecord, change: dict[str, object]) -> None:
    data = json.loads(record.to_json()) | change
    with pytest.raises(AlgmError, match="again"):
        EngineRecord.from_json(json.dumps(data))
