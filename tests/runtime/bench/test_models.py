"""Models of algm-bench's command line: names, streams, and facts about them."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest
from helpers.bench import install

from algm_trt.plugins.errors import UsageError
from algm_trt.runtime.bench.models import open_contenders
from algm_trt.runtime.engine_options import EngineOptions

DEFAULTS = EngineOptions(threads=3, cpu_precision="bf16")


def test_short_names_unless_two_are_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    opened = install(monkeypatch, tmp_path)
    with ExitStack() as stack:
        names = [c.name for c in open_contenders(["./merged.onnx", "openvino:./merged.onnx"], DEFAULTS, stack)]
        assert names == ["merged.onnx", "openvino:merged.onnx"]
        same = [c.name for c in open_contenders(["./merged.onnx", "merged.onnx"], EngineOptions(), stack)]
        assert same == ["./merged.onnx", "merged.onnx"]
        assert not any(engine.closed for engine in opened.engines)
    assert all(engine.closed for engine in opened.engines)
    assert [options.backend for options in opened.options] == ["auto", "openvino", "auto", "auto"]
    with pytest.raises(UsageError, match="given twice"), ExitStack() as stack:
        open_contenders(["merged.onnx", "merged.onnx"], EngineOptions(), stack)


@pytest.mark.parametrize(
    ("streams", "whole_job", "alone", "job", "opened_as"),
    [(None, True, 1, 2, [1, None]), (None, False, 1, 1, [1]), (3, True, 3, 3, [3]), (1, True, 1, 1, [1])],
)
def test_a_whole_job_takes_the_streams_of_algm_infer(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    streams: int | None,
    whole_job: bool,
    alone: int,
    job: int,
    opened_as: list[int | None],
) -> None:
    opened = install(monkeypatch, tmp_path)
    with ExitStack() as stack:
        (contender,) = open_contenders(["cpu.onnx"], EngineOptions(streams=streams), stack, whole_job=whole_job)
        assert contender.to_dict()["streams"] == {"model_alone": alone, "whole_job": job}
        assert [options.streams for options in opened.options] == opened_as
        assert not any(engine.closed for engine in opened.engines)
    assert all(engine.closed for engine in opened.engines)


def test_what_has_no_streams_is_kept_open_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    opened = install(monkeypatch, tmp_path)
    with ExitStack() as stack:
        models = ["merged.onnx", "gpu.plan"]
        contenders = open_contenders(models, EngineOptions(streams=None), stack, whole_job=True)
        assert all(contender.job_engine is contender.engine for contender in contenders)
        assert [engine.closed for engine in opened.engines] == [False, True, False]


def test_facts_for_json(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(monkeypatch, tmp_path)
    with ExitStack() as stack:
        merged, dense, gpu = open_contenders(["merged.onnx", "dense.onnx", "gpu.plan"], EngineOptions(), stack)
        assert (merged.card.thresholds(()), merged.card.thresholds((0.5, 0.6))) == ((0.88,), (0.5, 0.6))
        assert dense.card.thresholds((0.5,)) == (None,)
        facts = merged.to_dict()
        assert facts["merge_layers"] == [1, 5]
        assert dense.to_dict()["merge_layers"] is None
        assert len(facts["sha256"]) == 64
        assert facts["sha256"] != dense.to_dict()["sha256"]
        assert [c.to_dict()["device_clock"] for c in (merged, dense, gpu)] == [False, False, True]
