"""Jobs called from Python: what a report holds while they run, and how one asks for all of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.fake_engine import FakeEngine, color_picture, make_card
from PIL import Image

from algm_trt.plugins.errors import AlgmError
from algm_trt.runtime import model_argument
from algm_trt.runtime.engine_options import EngineOptions
from algm_trt.runtime.evaluation.evaluate import EvaluationOptions
from algm_trt.runtime.evaluation.job import run_evaluation
from algm_trt.runtime.evaluation.report import EvaluationJob, Report
from algm_trt.runtime.evaluation.sets import Places


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> EvaluationJob:
    """Two pictures and a model that fails behind one that does not."""

    def open_fake(path: str, options: EngineOptions) -> FakeEngine:
        fail_on = int(color_picture(40, 50)[0, 0, 0]) if path == "broken.onnx" else None
        return FakeEngine(make_card(merge=path != "dense.onnx"), fail_on)

    monkeypatch.setattr(model_argument, "open_engine", open_fake)
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    Image.fromarray(color_picture(40, 50)).save(tmp_path / "images" / "a.png")
    Image.fromarray(np.zeros((40, 50), np.uint8)).save(tmp_path / "labels" / "a.png")
    models = ("dense.onnx", "broken.onnx", "merged.onnx")
    return EvaluationJob(models, tmp_path, "folder", Places(), EvaluationOptions(quiet=True))


def test_the_report_grows_run_by_run(job: EvaluationJob) -> None:
    seen: list[Report] = []
    report = run_evaluation(job, on_change=seen.append)
    assert [(len(found.runs), len(found.failed)) for found in seen] == [(0, 0), (1, 0), (1, 1), (2, 1)]
    assert seen[-1] is report
    assert [variant.title for variant in seen[0].planned] == ["dense.onnx", "broken.onnx @ 0.88", "merged.onnx @ 0.88"]
    assert [run.title for run in report.runs] == ["dense.onnx", "merged.onnx @ 0.88"]
    assert report.to_dict()["runs"][1]["drift"]["from"] == "dense.onnx"


def test_who_needs_every_run_asks_for_it(job: EvaluationJob) -> None:
    report = run_evaluation(job)
    with pytest.raises(AlgmError, match=r"broken\.onnx @ 0\.88: "):
        report.checked()
    with pytest.raises(KeyboardInterrupt):
        replace(report, stopped_by=KeyboardInterrupt()).checked()
    whole = run_evaluation(replace(job, models=("dense.onnx", "merged.onnx")))
    assert whole.checked() is whole
