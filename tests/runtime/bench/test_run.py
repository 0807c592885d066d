"""Runs of algm-bench with stand-ins for models: who has how many turns, on what, and what the report holds."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.bench import CARDS, Opened, install
from helpers.fake_engine import FakeEngine, color_picture, make_card
from PIL import Image

from algm_trt.plugins.errors import AlgmError, UsageError
from algm_trt.runtime.bench import run as bench
from algm_trt.runtime.bench import scoring, turns
from algm_trt.runtime.bench.report import BenchOptions, BenchReport
from algm_trt.runtime.bench.run import run_bench
from algm_trt.runtime.card import ModelCard
from algm_trt.runtime.engine import EngineOutput
from algm_trt.runtime.engine_options import EngineOptions
from algm_trt.runtime.evaluation.evaluate import EvaluationOptions, evaluate
from algm_trt.runtime.evaluation.job import run_evaluation
from algm_trt.runtime.evaluation.report import EvaluationJob
from algm_trt.runtime.evaluation.sets import EvaluationSet, Places, open_set
from algm_trt.runtime.job import JobOptions, JobReport, run_job
from algm_trt.runtime.pipeline_options import PipelineOptions
from algm_trt.runtime.segmenter import Segmenter


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Opened:
    return install(monkeypatch, tmp_path)


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """Seven pictures with ground truth of their own, which no model knows."""
    for index in range(7):
        picture = color_picture(40, 50 + index, seed=index)
        truth = (picture.astype(int).sum(axis=2) // 160).astype(np.uint8)
        for folder, pixels in (("images", picture), ("labels", truth)):
            (tmp_path / "set" / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / "set" / folder / f"p{index}.png")
    return tmp_path / "set"


def quiet(models: str, **options: object) -> BenchReport:
    return run_bench(BenchOptions(tuple(models.split()), quiet=True, **options))  # type: ignore[arg-type]


def variants(report: BenchReport) -> list[tuple[str, float | None, int]]:
    return [(r.variant.model, r.variant.threshold, r.variant.batch) for r in report.results]


def test_every_variant_is_measured_in_every_round(opened: Opened) -> None:
    report = quiet("merged.onnx dense.onnx", batches=(1, 3), thresholds=(0.5, 0.9), rounds=4, warmup=2, pictures=5)
    assert variants(report) == [
        ("merged.onnx", 0.5, 1),
        ("merged.onnx", 0.5, 3),
        ("merged.onnx", 0.9, 1),
        ("merged.onnx", 0.9, 3),
        ("dense.onnx", None, 1),
        ("dense.onnx", None, 3),
    ]
    for result in report.results:
        sizes = (1,) * 5 if result.variant.batch == 1 else (3, 2)
        assert result.model.sizes == sizes
        assert [len(turn) for turn in result.model.samples.rounds] == [len(sizes)] * 4
        assert result.job is not None
        assert result.job.sizes == sizes
        assert len(result.job.seconds) == 4
        assert result.job.filled == 5 / (len(sizes) * result.variant.batch)
        assert result.job.shares["model"] > 0
        assert sum(result.job.shares.values()) == pytest.approx(1)
    merged, dense = opened.engines
    # two kinds of turns, warmed up twice, then four rounds
    assert len(dense.batches) == (5 + 2) * 2 * (2 + 4)
    assert len(merged.batches) == 2 * len(dense.batches)
    assert set(merged.thresholds) == {0.5, 0.9}
    assert set(dense.thresholds) == {None}
    assert report.notes == ("dense.onnx does not merge: --thresholds do not apply to it",)
    assert report.problems == []
    assert merged.closed
    assert dense.closed


def test_whole_jobs_record_what_the_model_was_opened_with(monkeypatch: pytest.MonkeyPatch, opened: Opened) -> None:
    recorded: list[tuple[str, int | None]] = []

    def noted(segmenter: Segmenter, model: Path, sources: Any, folder: Path, options: JobOptions) -> JobReport:
        recorded.append((options.engine.cpu_precision, options.engine.threads))
        return run_job(segmenter, model, sources, folder, options)

    monkeypatch.setattr(turns, "run_job", noted)
    quiet("merged.onnx openvino-bf16:dense.onnx", engine=EngineOptions(threads=3), rounds=1, pictures=2)
    assert set(recorded) == {("fp32", 3), ("bf16", 3)}


def test_variants_take_turns(monkeypatch: pytest.MonkeyPatch, opened: Opened) -> None:
    order: list[bool] = []
    run = FakeEngine.run

    def noted(self: FakeEngine, *arguments: Any, **options: Any) -> EngineOutput:
        order.append(self.card.merge is None)
        return run(self, *arguments, **options)

    monkeypatch.setattr(FakeEngine, "run", noted)
    quiet("merged.onnx dense.onnx", rounds=4, pictures=2, whole_job=False)
    rounds = [order[begin : begin + 4] for begin in range(4, len(order), 4)]  # after the warm-up
    assert len(rounds) == 4
    for first, second in zip(rounds[::2], rounds[1::2], strict=True):
        assert sorted(first) == [False, False, True, True]
        assert first[0] == first[1]
        assert second == first[::-1]


def test_tokens_come_from_the_model(opened: Opened) -> None:
    report = quiet("merged.onnx dense.onnx", rounds=1, pictures=6, batches=(4,))
    merged, dense = report.results
    assert dense.tokens.kept == 1.0
    assert dense.tokens.padding(4) == 0.0
    assert merged.tokens.kept < 1.0
    assert merged.tokens.padding(4) > 0.0
    assert len(merged.tokens.counts) == 6


def test_repeat_one_says_so_beside_every_figure(opened: Opened) -> None:
    report = quiet("merged.onnx wide.onnx", rounds=1, pictures=4, batches=(2,), repeat_one=True)
    content = report.to_dict()
    assert content["how"]["pictures_are"] == "one picture repeated"
    assert {entry["pictures_are"] for entry in content["results"]} == {"one picture repeated"}
    for result in report.results:
        assert result.tokens.padding(2) == 0.0
        assert len(np.unique(result.tokens.counts, axis=0)) == 1


def test_models_of_several_sizes_get_pictures_of_their_own(opened: Opened) -> None:
    report = quiet("merged.onnx wide.onnx", rounds=1, pictures=3)
    assert [len(result.tokens.counts) for result in report.results] == [3, 3]
    assert [model["size"] for model in report.contenders] == [[32, 32], [24, 40]]


def test_mean_iou_is_that_of_algm_eval(opened: Opened, labelled: Path) -> None:
    models, limits = ("merged.onnx", "dense.onnx"), (0.5, 0.9)
    report = quiet(" ".join(models), data=labelled, dataset="folder", thresholds=limits, batches=(1, 2), rounds=1)
    job = EvaluationJob(models, labelled, "folder", Places(), EvaluationOptions(quiet=True), thresholds=limits)
    expected = {(run.name, run.threshold): run.evaluation.scores.mean_iou for run in run_evaluation(job).runs}
    assert len(report.results) == 6
    for result in report.results:
        assert result.mean_iou == expected[result.variant.model, result.variant.threshold]
        assert 0 < result.mean_iou < 1
    assert report.pictures.described == "pictures of set: 7"


def test_mean_iou_in_mode_whole_and_with_a_limit(opened: Opened, labelled: Path) -> None:
    whole = JobOptions(PipelineOptions(mode="whole"))
    report = quiet("merged.onnx", data=labelled, dataset="folder", limit=2, rounds=1, job=whole)
    assert report.results[0].quality is not None
    assert report.results[0].quality.pictures == 2
    assert report.results[0].job is not None
    assert report.results[0].job.pictures == sum(report.results[0].job.sizes) == 7  # a limit is for the scores


def test_a_limit_takes_pictures_from_all_over_the_set(opened: Opened, labelled: Path) -> None:
    (labelled / "labels" / "p6.png").unlink()  # the last of the three
    report = quiet("merged.onnx", data=labelled, dataset="folder", limit=3, pictures=4, rounds=1)
    assert [path.stem for path in report.pictures.paths] == ["p0", "p2", "p4", "p6"]
    (result,) = report.results
    assert result.quality is not None
    assert [failure.name for failure in result.quality.failures] == ["p6"]
    how = report.to_dict()["how"]
    assert how["files"] == [str(labelled / "images" / f"p{index}.png") for index in (0, 2, 4, 6)]
    assert how["pictures"] == "pictures of set: 4 at equal distances over 7"
    assert how["limit"] == 3
    assert how["scored"] == {"dataset": "folder", "split": "", "pictures": 3, "available": 7, "ignored": [255]}


@pytest.mark.parametrize(
    ("short_side", "mode", "official", "expected"),
    [
        (None, "slide", 64, 64),
        (None, "slide", None, None),
        (48, "slide", 64, 48),
        (0, "slide", 64, None),
        (None, "whole", 64, None),
        (0, "whole", 64, None),
    ],
)
def test_pictures_are_timed_as_they_are_scored(
    monkeypatch: pytest.MonkeyPatch,
    opened: Opened,
    labelled: Path,
    short_side: int | None,
    mode: str,
    official: int | None,
    expected: int | None,
) -> None:
    def official_set(*arguments: Any) -> EvaluationSet:
        return replace(open_set(*arguments), short_side=official, max_ratio=2)

    monkeypatch.setattr(bench, "open_set", official_set)
    job = JobOptions(PipelineOptions(mode=mode))
    report = quiet("merged.onnx", data=labelled, dataset="folder", short_side=short_side, job=job, rounds=1)
    (result,) = report.results
    assert result.job is not None
    assert result.quality is not None
    assert sum(result.job.sizes) == result.origin.available == result.quality.windows
    how = report.to_dict()["how"]
    assert how["short_side"] == {"merged.onnx": expected}
    assert how["stride"] == {"merged.onnx": 24 if mode == "slide" else None}


@pytest.mark.parametrize(("short_side", "expected"), [(None, 40), (0, None), (48, 48)])
def test_pictures_without_labels_are_shown_as_the_model_was_evaluated(
    monkeypatch: pytest.MonkeyPatch, opened: Opened, labelled: Path, short_side: int | None, expected: int | None
) -> None:
    monkeypatch.setitem(CARDS, "merged.onnx", replace(CARDS["merged.onnx"], short_side=40))
    report = quiet("merged.onnx", data=labelled / "images", short_side=short_side, rounds=1)
    assert report.to_dict()["how"]["short_side"] == {"merged.onnx": expected}
    drawn = quiet("merged.onnx", short_side=short_side, rounds=1)
    assert drawn.to_dict()["how"]["short_side"] == {"merged.onnx": short_side or None}


def test_long_pictures_are_timed_at_the_size_they_are_scored_at(
    monkeypatch: pytest.MonkeyPatch, opened: Opened, tmp_path: Path
) -> None:
    picture = color_picture(20, 200)
    for folder, pixels in (("images", picture), ("labels", np.zeros((20, 200), np.uint8))):
        (tmp_path / "set" / folder).mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / "set" / folder / "long.png")
    monkeypatch.setattr(bench, "open_set", lambda *given: replace(open_set(*given), short_side=64, max_ratio=2))
    report = quiet("merged.onnx", data=tmp_path / "set", dataset="folder", rounds=1)
    (result,) = report.results
    assert result.job is not None
    assert result.quality is not None
    seen = len(PipelineOptions(short_side=64, max_ratio=2).plan((20, 200), make_card()))
    assert seen < len(PipelineOptions(short_side=64).plan((20, 200), make_card()))
    assert sum(result.job.sizes) == result.origin.available == result.quality.windows == seen
    assert report.to_dict()["how"]["max_ratio"] == {"merged.onnx": 2}


def test_a_short_side_without_ground_truth(opened: Opened, labelled: Path) -> None:
    native, resized = (
        quiet("merged.onnx", data=labelled / "images", short_side=side, rounds=1).results[0].origin.available
        for side in (None, 80)
    )
    assert resized > native


def test_classes_are_compared_before_anything_is_scored(
    monkeypatch: pytest.MonkeyPatch, opened: Opened, labelled: Path
) -> None:
    monkeypatch.setitem(CARDS, "wide.onnx", make_card(classes=7))

    def eleven(dataset: str, root: Path, card: ModelCard, places: Places) -> EvaluationSet:
        return open_set(dataset, root, make_card(), places)

    monkeypatch.setattr(bench, "open_set", eleven)
    with pytest.raises(UsageError, match=r"^wide\.onnx has 7 classes, but folder has 5$"):
        quiet("merged.onnx wide.onnx", data=labelled, dataset="folder")
    assert not opened.engines[0].batches


def test_tokens_of_what_was_scored_stand_beside_the_mean_iou(opened: Opened, labelled: Path) -> None:
    Image.new("RGB", (50, 40)).save(labelled / "images" / "p0.png")  # merges to one token
    report = quiet("merged.onnx dense.onnx", data=labelled, dataset="folder", pictures=1, rounds=1, batches=(1, 2))
    scored = {entry["model"]: entry["tokens_kept_scored"] for entry in report.to_dict()["results"]}
    timed = {entry["model"]: entry["tokens"]["kept"] for entry in report.to_dict()["results"]}
    assert scored["dense.onnx"] == timed["dense.onnx"] == 1
    assert scored["merged.onnx"] > timed["merged.onnx"] + 0.03
    (note,) = report.notes
    assert note.startswith(
        f"merged.onnx @ 0.88 keeps {timed['merged.onnx']:.1%} of the tokens in the windows that were timed, "
        f"but {scored['merged.onnx']:.1%} in the pictures that were scored"
    )
    assert quiet("merged.onnx", data=labelled, dataset="folder", rounds=1).notes == ()


def test_a_data_set_is_no_folder_of_pictures(opened: Opened, labelled: Path) -> None:
    with pytest.raises(UsageError, match=r"give --dataset folder, or the folder of the pictures, such as .*images$"):
        quiet("merged.onnx", data=labelled)
    assert not opened.engines


def test_models_of_unlike_sizes_are_compared_by_the_whole_job(opened: Opened) -> None:
    report = quiet("merged.onnx wide.onnx", rounds=1, pictures=2)
    base, wide = report.to_dict()["results"]
    assert base["model_alone"]["times_as_fast"]["median"] == 1
    assert "times_as_fast" not in wide["model_alone"]
    assert wide["whole_job"]["times_as_fast"]["median"] > 0
    assert wide["windows"] == {"windows": 2, "available": 2, "pictures": 2, "size": (24, 40)}
    (note,) = report.notes
    assert note.startswith("windows differ in size (merged.onnx 32x32, wide.onnx 24x40): ")


def test_what_fails_is_named_and_the_rest_is_measured(opened: Opened, labelled: Path) -> None:
    (labelled / "labels" / "p3.png").unlink()
    (labelled / "images" / "p0.png").write_bytes(b"nothing")
    report = quiet("merged.onnx small.plan", data=labelled, dataset="folder", batches=(2, 8), rounds=1)
    assert variants(report) == [("merged.onnx", 0.88, 2), ("merged.onnx", 0.88, 8), ("small.plan", 0.88, 2)]
    assert len(report.problems) == 4
    assert report.problems[0].startswith("not measured: small.plan @ 0.88, batch 8: the plan takes batches of 1 to 4")
    assert "p0.png" in report.problems[1]
    assert report.problems[2].startswith("not in the mean IoU: p0: ")
    assert report.problems[3].startswith("not in the mean IoU: p3: ")


def test_nothing_that_can_be_measured_is_an_error(opened: Opened) -> None:
    with pytest.raises(AlgmError, match=r"nothing could be measured: small\.plan @ 0\.88, batch 8: the plan takes"):
        quiet("small.plan", batches=(8,), rounds=1)
    assert opened.engines[0].closed


def test_a_clock_on_the_device_stands_beside_that_of_the_host(opened: Opened) -> None:
    report = quiet("gpu.plan merged.onnx", rounds=3, warmup=2, pictures=5, batches=(2,))
    gpu, merged = report.results
    assert merged.model.device is None
    assert gpu.model.device is not None
    assert gpu.model.device.rounds == ((0.02, 0.02, 0.01),) * 3
    assert gpu.model.device_images_per_second is not None
    assert gpu.model.device_images_per_second.median == pytest.approx(100)


def test_a_dense_model_is_the_baseline(opened: Opened) -> None:
    assert quiet("merged.onnx dense.onnx", rounds=1, pictures=1).baseline == "dense.onnx"
    report = quiet("merged.onnx", thresholds=(0.5, 0.9), rounds=1, pictures=1, batches=(1, 2))
    assert report.baseline == "merged.onnx @ 0.5"
    for entry in report.to_dict()["results"]:
        ratio = entry["model_alone"]["times_as_fast"]["median"]
        assert (ratio == 1.0) == (entry["threshold"] == 0.5)


@pytest.mark.parametrize("after", [1, 3])
def test_ctrl_c_keeps_what_was_measured(monkeypatch: pytest.MonkeyPatch, opened: Opened, after: int) -> None:
    turns = bench.take_turns

    def stopped(*arguments: object) -> object:
        yield from itertools.islice(turns(*arguments), after)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setattr(bench, "take_turns", stopped)
    report = quiet("merged.onnx dense.onnx", rounds=9, pictures=2, whole_job=False)
    assert report.stopped_by
    assert len(report.results) == min(after, 2)
    how = report.to_dict()["how"]
    assert (how["rounds"], how["rounds_measured"]) == (9, 1)
    assert sum(len(result.model.samples.rounds) for result in report.results) == after
    assert json.dumps(report.to_dict())
    assert all(engine.closed for engine in opened.engines)


def test_ctrl_c_before_the_first_turn(monkeypatch: pytest.MonkeyPatch, opened: Opened) -> None:
    def stopped(*_: object) -> object:
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(bench, "take_turns", stopped)
    with pytest.raises(KeyboardInterrupt):
        quiet("merged.onnx", pictures=1)
    assert opened.engines[0].closed


@pytest.mark.parametrize(("after", "scored"), [(0, 0), (1, 1), (2, 2)])
def test_ctrl_c_keeps_the_scores_that_were_complete(
    monkeypatch: pytest.MonkeyPatch, opened: Opened, labelled: Path, after: int, scored: int
) -> None:
    evaluated = itertools.count()

    def stopped(*arguments: Any, **options: Any) -> Any:
        if next(evaluated) == after:
            raise KeyboardInterrupt
        return evaluate(*arguments, **options)

    monkeypatch.setattr(scoring, "evaluate", stopped)
    models: dict[str, Any] = {"data": labelled, "dataset": "folder", "thresholds": (0.5, 0.9)}
    if not scored:
        with pytest.raises(KeyboardInterrupt):
            quiet("merged.onnx dense.onnx", **models)
        return
    report = quiet("merged.onnx dense.onnx", **models)
    content = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert content["interrupted"] is True
    assert content["results"] == []
    assert content["how"]["rounds_measured"] == 0
    scores = [("merged.onnx", 0.5), ("merged.onnx", 0.9)]
    assert [(entry["model"], entry["threshold"]) for entry in content["scores"]] == scores[:scored]
    for entry in content["scores"]:
        assert entry["pictures_scored"] == 7
        assert 0 < entry["mean_iou"] < 1
        assert 0 < entry["tokens_kept_scored"] < 1


def test_ctrl_c_while_warming_up_keeps_the_scores(
    monkeypatch: pytest.MonkeyPatch, opened: Opened, labelled: Path
) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(turns.ModelTurn, "probe", stopped)
    report = quiet("merged.onnx", data=labelled, dataset="folder")
    assert len(report.scores) == 1
    assert report.results == ()


def test_json_holds_the_raw_times_and_the_machine(opened: Opened) -> None:
    report = quiet("merged.onnx dense.onnx", rounds=2, pictures=3, batches=(2,))
    content = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert set(content) == {
        *("format_version", "date", "machine", "versions", "load_average", "peak_memory_mib", "interrupted", "how"),
        *("models", "baseline", "scores", "results", "problems", "notes"),
    }
    assert set(content["load_average"]) == {"before", "after"}
    assert {"processor", "cores", "usable_cores", "memory_gib", "gpus", "system"} == set(content["machine"])
    assert content["versions"]["numpy"] == np.__version__
    for entry in content["results"]:
        alone, job = entry["model_alone"], entry["whole_job"]
        assert [len(turn) for turn in alone["seconds_of_calls"]] == [2, 2]
        rates = [3 / sum(turn) for turn in alone["seconds_of_calls"]]
        assert alone["images_per_second"]["median"] == pytest.approx(np.median(rates))
        full = [turn[0] for turn in alone["seconds_of_calls"]]
        assert alone["latency_seconds"]["p90"] == pytest.approx(np.percentile(full, 90))
        assert job["images_per_second"]["median"] == pytest.approx(np.median([3 / s for s in job["seconds_of_jobs"]]))
        assert [len(turn) for turn in job["seconds_of_pictures"]] == [3, 3]
        for turn, seconds in zip(job["seconds_of_pictures"], job["seconds_of_jobs"], strict=True):
            assert 0 < max(turn) <= seconds
        assert job["latency_seconds"]["p50"] == pytest.approx(np.median(job["seconds_of_pictures"]))
        assert set(job["share_of_work"]) == {"decode", "cut", "model", "labels", "write"}
        assert entry["mean_iou"] is None
        assert entry["gflops"] is None  # the stand-ins do not say what they consist of
        assert set(entry["tokens"]["padding_avoided"]) == {"after_local", "after_global"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batches": (1, 1)}, "batch size is given twice"),
        ({"thresholds": (0.5, 0.5)}, "threshold is given twice"),
        ({"thresholds": (float("nan"),)}, "finite"),
        ({"batches": (0,)}, "at least 1"),
        ({"batches": ()}, "at least 1"),
        ({"short_side": -1}, "short side must not be negative"),
        ({"short_side": 9, "job": JobOptions(PipelineOptions(mode="whole"))}, "leave out --short-side"),
        ({"rounds": 0}, "rounds must be at least 1"),
        ({"warmup": 0}, "warm-up turns must be at least 1"),
        ({"dataset": "camvid"}, "needs --data"),
        ({"models": ()}, "no model given"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        BenchOptions(**({"models": ("merged.onnx",)} | options))  # type: ignore[arg-type]
