"""The command algm-doctor from outside: bare machines, models, JSON, exit codes, a self-test that fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.doctor import blocking, doctor, environment

from algm_trt.engines.doctor.facts import Fact, cannot_tell, found, not_found
from algm_trt.engines.doctor.ladder import Rung
from algm_trt.engines.doctor.report import (
    WIDTH,
    Report,
    closing_line,
    facts_table,
    findings_table,
    rung_row,
)
from algm_trt.engines.sample import SAMPLE_MODEL

EVERY_PACKAGE = (
    *("onnxruntime", "cv2", "PIL", "tqdm", "torch", "onnx", "onnx_graphsurgeon", "openvino", "cuda"),
    *("tensorrt", "tensorrt_lean", "tensorrt_lean_bindings", "tensorrt_rtx", "tensorrt_rtx_bindings"),
)
PAINS = 15


def test_it_starts_with_numpy_and_the_standard_library_alone(tmp_path: Path) -> None:
    variables = environment(tmp_path / "site", blocking(*EVERY_PACKAGE), CUDACXX="no-nvcc-here")
    done = doctor(variables)
    assert done.stderr == ""
    assert done.returncode == 4
    for line in ("- onnxruntime", "- TensorRT ", "- TensorRT-RTX", "- pictures", "- CUDA compiler"):
        assert line in done.stdout
    assert "the machine lacks something that is needed" in done.stdout


def test_a_bare_machine_and_a_model(tmp_path: Path) -> None:
    done = doctor(environment(tmp_path / "site", blocking(*EVERY_PACKAGE)), SAMPLE_MODEL)
    assert (done.returncode, done.stderr) == (4, "")
    assert "onnxruntime is not installed" in done.stdout
    assert "ViT d64 h1 L6 /8" in done.stdout


def test_imports_of_the_command_are_the_standard_library_and_numpy() -> None:
    code = (
        "import sys; before = set(sys.modules); import algm_trt.engines.doctor.cli; "
        "print(*sorted({name.split('.')[0] for name in set(sys.modules) - before}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    third_party = set(done.stdout.split()) - set(sys.stdlib_module_names) - {"algm_trt", "numpy", "cython_runtime"}
    assert {name for name in third_party if not name.startswith("_")} == set()


def test_a_broken_numpy_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "numpy").mkdir()
    (tmp_path / "numpy" / "__init__.py").write_text("raise ImportError('the C extensions failed')\n")
    done = doctor(environment(tmp_path))
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr.startswith("algm-doctor: numpy cannot be imported (the C extensions failed): install")


def test_a_report_that_cannot_be_written_is_told_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = doctor(environment(tmp_path / "site"), "--json", tmp_path / "file" / "doctor.json")
    assert (done.returncode, done.stdout) == (1, "")
    assert "cannot write into" in done.stderr


def test_a_good_model_and_the_report_as_json(tmp_path: Path) -> None:
    file = tmp_path / "report" / "doctor.json"
    done = doctor(environment(tmp_path / "site"), SAMPLE_MODEL, "--json", file)
    assert done.returncode == 0, done.stdout
    assert "nothing here stands in the way" in done.stdout
    report = json.loads(file.read_text())
    assert set(report) == {"format_version", "exit_code", "machine", "model", "pains", "selftest"}
    assert report["exit_code"] == 0
    assert report["selftest"] == []
    assert len(report["pains"]) == PAINS
    assert {"name", "state", "evidence", "cure", "exit_code"} == set(report["pains"][0])
    assert {fact["name"] for fact in report["machine"]} >= {"algm-trt", "NVIDIA driver", "TensorRT", "plugin library"}
    assert any(fact["name"] == "runs" for fact in report["model"])


def test_a_damaged_model(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(SAMPLE_MODEL.read_bytes()[:-200_000])
    done = doctor(environment(tmp_path / "site"), path)
    assert (done.returncode, done.stderr) == (1, "")
    assert "is not an ONNX file, or a damaged one" in done.stdout
    assert "something here will not work" in done.stdout


def test_a_plan_without_a_record_on_a_machine_without_a_gpu(tmp_path: Path) -> None:
    path = tmp_path / "model.plan"
    path.write_bytes(b"plan")
    done = doctor(environment(tmp_path / "site"), path)
    assert (done.returncode, done.stderr) == (1, "")
    assert "model.plan.json is missing" in " ".join(done.stdout.split())


def test_usage_errors(tmp_path: Path) -> None:
    done = doctor(environment(tmp_path / "site"), tmp_path / "absent.onnx")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "there is no model" in done.stderr
    assert doctor(environment(tmp_path / "site"), "--no-such-option").returncode == 2


def test_a_plugin_library_that_is_no_library(tmp_path: Path) -> None:
    (tmp_path / "libalgm_plugins.so").write_text("not a library")
    variables = environment(tmp_path / "site", ALGM_PLUGINS_LIB=str(tmp_path / "libalgm_plugins.so"))
    done = doctor(variables)
    assert (done.returncode, done.stderr) == (1, "")
    assert "! plugin library" in done.stdout
    assert doctor(variables, SAMPLE_MODEL).returncode == 0  # an ONNX file needs none


@pytest.mark.heavy
def test_a_rung_that_fails_gives_exit_code_3(tmp_path: Path) -> None:
    spoil = """
from algm_trt.plugins import reference
right = reference.append_tokens
reference.append_tokens = lambda *a, **b: (right(*a, **b)[0] + 1, right(*a, **b)[1])
"""
    variables = environment(tmp_path / "site", blocking("torch") + spoil)
    file = tmp_path / "report.json"
    done = doctor(variables, "--selftest", "--skip-build", "--json", file)
    assert (done.returncode, done.stderr) == (3, "")
    rungs = {rung["name"]: rung for rung in json.loads(file.read_text())["selftest"]}
    assert rungs["L1"]["state"] == "failed"
    assert "append tokens: 1360 of 1360 values of y differ" in rungs["L1"]["result"]
    assert rungs["L2"]["result"] == "--skip-build"
    assert "the self-test failed" in done.stdout


def test_help_and_version(tmp_path: Path) -> None:
    variables = environment(tmp_path / "site", blocking(*EVERY_PACKAGE))
    done = doctor(variables, "--help")
    assert done.returncode == 0
    for word in ("--selftest", "--skip-build", "--json", "exit codes"):
        assert word in done.stdout


def test_a_terminal_that_knows_no_umlauts(tmp_path: Path) -> None:
    folder = tmp_path / "Modèle"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(SAMPLE_MODEL.read_bytes())
    variables = environment(tmp_path / "site", PYTHONIOENCODING="ascii")
    done = doctor(variables, os.fsdecode(folder / "model.onnx"))
    assert (done.returncode, done.stderr) == (0, "")
    assert "Mod\\xe8le" in done.stdout


# The report.


LONG = "word " * 60


def test_tables_keep_to_the_width() -> None:
    lines = [
        *facts_table("facts", [Fact("one", LONG), Fact("another", "short", "broken"), Fact("third", LONG, "absent")]),
        *findings_table([found("a pain", LONG, LONG), not_found("another pain", LONG), cannot_tell("third", "why")]),
        *rung_row(Rung("L1", "what it shows", "failed", LONG, 1.0)),
    ]
    assert all(len(line) <= WIDTH for line in lines)
    assert sum(line.count("word") for line in lines) == 60 * 6
    assert "! another  short" in lines
    assert any(line.startswith("!  1 a pain") for line in lines)
    assert any("cure: word" in line for line in lines)


def test_the_last_line_counts() -> None:
    rungs = [Rung(f"L{index}", "x", state, "y", 0.0) for index, state in enumerate(("passed", "passed", "not run"))]  # type: ignore[arg-type]
    report = Report([], [], [found("a", "b", "c"), not_found("a", "b")], rungs, 0)
    assert closing_line(report) == (
        "1 of 2 pains found; self-test: 2 passed, 1 not run; nothing here stands in the way"
    )
