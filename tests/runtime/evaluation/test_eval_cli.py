"""The command algm-eval: what it prints and writes, its exit codes, and checkpoints through the exporter's adapter."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.fake_engine import PALETTE, FakeEngine, color_picture, make_card
from PIL import Image

from algm_trt.plugins.errors import AlgmError, UsageError
from algm_trt.plugins.stopping import Terminated
from algm_trt.runtime import model_argument
from algm_trt.runtime.card import ModelCard
from algm_trt.runtime.engine import Engine
from algm_trt.runtime.engine_options import EngineOptions
from algm_trt.runtime.evaluation import evaluate as evaluate_module
from algm_trt.runtime.evaluation import job
from algm_trt.runtime.evaluation.cli import main
from algm_trt.runtime.evaluation.figures import Evaluation
from algm_trt.runtime.evaluation.per_picture import COLUMNS
from algm_trt.runtime.model_argument import open_model
from algm_trt.runtime.window_runner import HostWindowRunner

CARDS: dict[str, ModelCard] = {
    "merged.onnx": make_card(),
    "dense.onnx": make_card(merge=False),
    "seven.onnx": make_card(classes=7),
    "small.onnx": make_card(size=(16, 16)),
    "named.onnx": replace(make_card(), classes=("wall", "wall", "sky", "road", "car")),
}


class Shifted(FakeEngine):
    """Takes every picture for a redder one: its labels differ a little from those of FakeEngine."""

    def run(self, images, threshold=None):  # type: ignore[no-untyped-def]
        return super().run(np.minimum(images.astype(int) + np.array([60, 0, 0]), 255).astype(np.uint8), threshold)


class Broken(FakeEngine):
    """Fails on every picture."""

    def run(self, images, threshold=None):  # type: ignore[no-untyped-def]
        raise RuntimeError("no")


class InFours(Shifted):
    """Brings its own runner, and runs batches of four windows best."""

    usual_batch = 4

    def window_runner(self, batch_size: int) -> HostWindowRunner:
        return HostWindowRunner(self, batch_size)


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> list[FakeEngine]:
    """Stand-ins for model files; the list holds all that were opened."""
    opened: list[FakeEngine] = []

    def open_fake(path: str, options: EngineOptions) -> FakeEngine:
        name = Path(path).name
        others = {"shifted.onnx": Shifted, "fours.onnx": InFours, "broken.onnx": Broken, "vanishing.onnx": Shifted}
        if name == "vanishing.onnx" and len(opened) > 3:
            raise UsageError("the file is gone")
        opened.append(others[name](make_card()) if name in others else FakeEngine(CARDS[name]))
        return opened[-1]

    monkeypatch.setattr(model_argument, "open_engine", open_fake)
    return opened


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Twelve pictures with ground truth."""
    for index in range(12):
        picture = color_picture(40 + index, 61, seed=index)
        distance = np.abs(picture[:, :, None].astype(int) - np.array(PALETTE)).sum(axis=-1)
        for folder, pixels in (("images", picture), ("labels", distance.argmin(axis=2).astype(np.uint8))):
            (tmp_path / "data" / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / "data" / folder / f"p{index}.png")
    return tmp_path / "data"


def run(root: Path, *arguments: str) -> int:
    return main([*arguments, "--data", str(root), "--dataset", "folder"])


def test_windows_go_in_batches_that_each_engine_runs_best_with(
    root: Path, engines: list[FakeEngine], tmp_path: Path
) -> None:
    target = tmp_path / "out.json"
    for given, expected in (((), [1, 4]), (("--batch-size", "3"), [3, 3])):
        assert run(root, "merged.onnx", "fours.onnx", "-q", "--json", str(target), *given) == 0
        assert [entry["batch_size"] for entry in json.loads(target.read_text())["runs"]] == expected
        assert [max(engine.batches) for engine in engines if engine.batches] == expected
        engines.clear()


def test_one_model_is_scored_without_drift(
    root: Path, engines: list[FakeEngine], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "out.json"
    assert run(root, "merged.onnx", "--json", str(target), "--limit", "5") == 0
    said = capsys.readouterr()
    assert "folder: 5 of 12 pictures, slide, pictures as they are, stride 24" in said.out
    assert "merged.onnx @ 0.88" in said.out
    found = json.loads(target.read_text())
    assert list(found)[:3] == ["date", "machine", "versions"]
    assert found["versions"]["numpy"] == np.__version__
    assert found["pictures"] == found["runs"][0]["pictures"] == 5
    assert set(found["runs"][0]["per_class"]) == {"red", "green", "blue", "white", "black"}
    assert found["runs"][0]["mean_iou"] > 0.5
    assert found["protocol"]["scales"] == [1.0]
    assert "drift" not in found["runs"][0]
    assert all(engine.closed for engine in engines)


def test_classes_of_equal_names_are_told_apart(root: Path, engines: list[FakeEngine], tmp_path: Path) -> None:
    target = tmp_path / "out.json"
    assert run(root, "named.onnx", "named.onnx", "-q", "--json", str(target)) == 0
    for scores in (entry["per_class"] for entry in json.loads(target.read_text())["runs"]):
        assert list(scores) == ["wall (class 0)", "wall (class 1)", "sky", "road", "car"]
    drift = json.loads(target.read_text())["runs"][1]["drift"]
    assert list(drift["iou_change"]) == ["wall (class 0)", "wall (class 1)", "sky", "road", "car"]


def test_several_models_and_thresholds_with_drift(
    root: Path, engines: list[FakeEngine], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target, folder = tmp_path / "out.json", tmp_path / "drift"
    models = ("dense.onnx", "merged.onnx", "shifted.onnx")
    assert run(root, *models, "--thresholds", "0.5,0.9", "--json", str(target), "--drift", str(folder)) == 0
    runs = json.loads(target.read_text())["runs"]
    assert [(entry["model"], entry["threshold"]) for entry in runs] == [
        ("dense.onnx", None),
        ("merged.onnx", 0.5),
        ("merged.onnx", 0.9),
        ("shifted.onnx", 0.5),
        ("shifted.onnx", 0.9),
    ]
    assert {limit for engine in engines for limit in engine.thresholds} == {None, 0.5, 0.9}
    assert runs[1]["drift"]["labels_equal"] == 1.0
    assert runs[1]["drift"]["mean_iou_change"] == 0.0
    shifted = runs[3]["drift"]
    assert shifted["from"] == "dense.onnx"
    assert 0 < shifted["labels_equal"] < 1
    shares = [entry["labels_unequal"] for entry in shifted["worst"]]
    assert len(shares) == 10
    assert shares == sorted(shares, reverse=True)
    sheets = sorted((folder / "03_shifted_0.5").iterdir())
    assert len(sheets) == 10
    assert sheets[0].name == f"01_{shifted['worst'][0]['name']}.png"
    assert Image.open(sheets[0]).width == 5 * 61
    assert not (folder / "01_merged_0.5").exists()
    assert len(json.loads((folder / "drift.json").read_text())) == 4
    out = capsys.readouterr().out
    assert "shifted.onnx @ 0.5 against dense.onnx" in out
    assert "labels differ most: p" in out


def test_pictures_that_fail_are_named_and_make_exit_code_5(
    root: Path, engines: list[FakeEngine], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "labels" / "p1.png").unlink()
    Image.fromarray(np.full((42, 61), 9, np.uint8)).save(root / "labels" / "p2.png")
    target = tmp_path / "out.json"
    assert run(root, "merged.onnx", "dense.onnx", "--json", str(target), "--drift", str(tmp_path / "drift")) == 5
    printed, said = capsys.readouterr()
    assert "p1 left out (label)" in said
    assert "p2 left out (label)" in said
    assert "2 of 12 pictures are not in the figures" in said
    assert "note: 2 of 12 pictures are not in the figures" in printed
    for entry in json.loads(target.read_text())["runs"]:
        assert entry["pictures"] == 10
        assert [failure["name"] for failure in entry["failures"]] == ["p1", "p2"]


def test_scales_flip_and_short_side(root: Path, engines: list[FakeEngine], tmp_path: Path) -> None:
    target = tmp_path / "out.json"
    options = ("--scales", "0.5,1", "--flip", "--short-side", "48", "--limit", "2", "-q")
    assert run(root, "merged.onnx", *options, "--json", str(target)) == 0
    protocol = json.loads(target.read_text())["protocol"]
    assert (protocol["scales"], protocol["flip"], protocol["short_side"]) == ([0.5, 1.0], True, 48)


def test_every_run_says_the_step_of_its_windows(
    root: Path, engines: list[FakeEngine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, models = tmp_path / "out.json", ("merged.onnx", "dense.onnx", "--limit", "1", "-q")
    monkeypatch.setitem(CARDS, "dense.onnx", replace(CARDS["dense.onnx"], stride=CARDS["dense.onnx"].stride - 3))

    def strides(*options: str) -> list[int | None]:
        assert run(root, *models, *options, "--json", str(target)) == 0
        return [entry["stride"] for entry in json.loads(target.read_text())["runs"]]

    assert strides() == [CARDS["merged.onnx"].stride, CARDS["merged.onnx"].stride - 3]
    assert strides("--stride", "5") == [5, 5]
    assert strides("--mode", "whole") == [None, None]


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        (("--scales", "0.5"), "slide, pictures as they are, stride 24, scales 0.5"),
        (("--short-side", "48", "--scales", "0.5,1", "--flip"), "slide, short side 48, stride 24, scales 0.5,1, flip"),
        (("small.onnx", "--stride", "10"), "slide, pictures as they are, stride 10"),
        (("small.onnx",), "slide, pictures as they are, stride 12 or 24"),
        (("--mode", "whole", "--flip"), "whole, flip"),
    ],
)
def test_the_first_line_says_how_pictures_were_shown(
    root: Path, engines: list[FakeEngine], capsys: pytest.CaptureFixture[str], options: tuple[str, ...], shown: str
) -> None:
    assert run(root, "merged.onnx", *options, "--limit", "2") == 0
    assert capsys.readouterr().out.splitlines()[0] == f"folder: 2 of 12 pictures, {shown}"


def test_files_that_cannot_be_written_are_met_before_anything_runs(
    root: Path, engines: list[FakeEngine], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    for option in ("--json", "--drift", "--per-picture"):
        assert run(root, "merged.onnx", "dense.onnx", option, str(tmp_path / "file" / "out")) == 1
        assert "cannot write into" in capsys.readouterr().err
    assert not any(engine.batches for engine in engines)


def test_drift_without_ground_truth_has_no_numbers(
    root: Path, engines: list[FakeEngine], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (root / "labels").iterdir():
        Image.fromarray(np.full_like(np.asarray(Image.open(path)), 255)).save(path)
    target = tmp_path / "out.json"
    assert run(root, "merged.onnx", "shifted.onnx", "--json", str(target)) == 0
    assert json.loads(target.read_text(), parse_constant=pytest.fail)["runs"][1]["drift"]["mean_iou_change"] is None
    assert "nan" not in capsys.readouterr().out


def test_only_classes_that_lost_are_said_to_have_lost(
    root: Path, engines: list[FakeEngine], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(root, "merged.onnx", "dense.onnx", "shifted.onnx") == 0
    same, shifted = capsys.readouterr().out.split(" against merged.onnx @ 0.88: ")[1:]
    assert "lost" not in same
    lost = next(line for line in shifted.splitlines() if "IoU lost most" in line)
    assert lost.count("-") in (1, 2, 3)
    assert "+" not in lost


def test_json_proves_what_was_evaluated(
    root: Path, engines: list[FakeEngine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, model = tmp_path / "out.json", tmp_path / "merged.onnx"
    model.write_bytes(b"model")
    options = ("--limit", "5", "--ignore", "7", "--threads", "3", "--stride", "9", "-q", "--json", str(target))
    assert run(root, str(model), "dense.onnx", *options) == 0
    found = json.loads(target.read_text())
    assert found["format_version"] == 1
    assert (found["complete"], found["interrupted"], found["failed"]) == (True, False, [])
    assert (found["pictures"], found["pictures_of_set"], found["limit"]) == (5, 12, 5)
    assert found["data_root"] == str(root)
    assert found["places"]["ignore"] == 7
    assert found["places"]["labels"] is None
    assert found["command"][:3] == ["algm-eval", str(model), "dense.onnx"]
    assert set(found["load_average"]) == {"before", "after"}
    first, second = found["runs"]
    assert first["sha256"] == hashlib.sha256(b"model").hexdigest()
    assert second["sha256"] is None, "there is no such file"
    assert (first["architecture"], first["precision"], first["size"]) == ("fake", "fp32", [32, 32])
    assert (first["threads"], first["streams"], first["stride"]) == (3, 1, 9)
    assert first["window_batch_coupled"] is False
    assert first["classes_in_mean"] == 5
    monkeypatch.setattr(sys, "argv", ["/bin/algm-eval", "dense.onnx", "--data", str(root), "--dataset", "folder", "-q"])
    assert main() == 0


def test_a_limit_takes_pictures_at_equal_distances(root: Path, engines: list[FakeEngine], tmp_path: Path) -> None:
    assert run(root, "merged.onnx", "shifted.onnx", "-q", "--limit", "3", "--drift", str(tmp_path / "drift")) == 0
    (drift,) = json.loads((tmp_path / "drift" / "drift.json").read_text())
    assert sorted(entry["name"] for entry in drift["worst"]) == ["p0", "p11", "p6"]


def test_backends_of_one_model_in_one_run(
    root: Path, engines: list[FakeEngine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[tuple[str, EngineOptions]] = []
    whole = model_argument.open_engine

    def noting(path: str, options: EngineOptions) -> Any:
        opened.append((path, options))
        return whole(path, options)

    monkeypatch.setattr(model_argument, "open_engine", noting)
    target = tmp_path / "out.json"
    assert run(root, "./merged.onnx", "openvino-bf16:./merged.onnx", "--threads", "2", "-q", "--json", str(target)) == 0
    assert {(path, options.backend, options.cpu_precision, options.threads) for path, options in opened} == {
        ("./merged.onnx", "auto", "fp32", 2),
        ("./merged.onnx", "openvino", "bf16", 2),
    }
    first, second = json.loads(target.read_text())["runs"]
    assert [first["model"], second["model"]] == ["./merged.onnx", "openvino-bf16:./merged.onnx"]
    assert second["drift"]["from"] == "merged.onnx @ 0.88"
    assert second["drift"]["labels_equal"] == 1.0


def test_a_model_that_fails_after_the_first_run_is_named_and_the_others_go_on(
    root: Path, engines: list[FakeEngine], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target, models = tmp_path / "out.json", ("merged.onnx", "broken.onnx", "vanishing.onnx", "shifted.onnx")
    assert run(root, *models, "--thresholds", "0.5,0.9", "--json", str(target)) == 5
    said = capsys.readouterr()
    for name in ("broken.onnx @ 0.5", "broken.onnx @ 0.9", "vanishing.onnx"):
        assert f"algm-eval: {name} failed: " in said.err
    assert said.err.count("\n") == 3
    found = json.loads(target.read_text())
    assert [entry["run"] for entry in found["failed"]] == ["broken.onnx @ 0.5", "broken.onnx @ 0.9", "vanishing.onnx"]
    assert "the file is gone" in found["failed"][2]["error"]
    assert (found["complete"], found["interrupted"], len(found["planned"])) == (False, False, 8)
    assert [(entry["model"], entry["threshold"]) for entry in found["runs"]] == [
        ("merged.onnx", 0.5),
        ("merged.onnx", 0.9),
        ("shifted.onnx", 0.5),
        ("shifted.onnx", 0.9),
    ]
    assert "(3) shifted.onnx @ 0.5" in said.out
    assert "shifted.onnx @ 0.9 against merged.onnx @ 0.5" in said.out


def test_a_first_run_that_fails_is_an_error(
    root: Path, engines: list[FakeEngine], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "out.json"
    target.write_text("of yesterday")
    assert run(root, "broken.onnx", "merged.onnx", "--json", str(target)) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert target.read_text() == "of yesterday"


@pytest.mark.parametrize(("stop", "code"), [(KeyboardInterrupt, 130), (Terminated, 143)])
def test_interrupted_runs_leave_those_before(
    root: Path,
    engines: list[FakeEngine],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    stop: type[KeyboardInterrupt],
    code: int,
) -> None:
    target = tmp_path / "out.json"
    evaluate = job.evaluate

    def until(engine: Engine, *others: Any) -> Evaluation:
        if engine.card.merge is None:
            raise stop
        return evaluate(engine, *others)

    monkeypatch.setattr(job, "evaluate", until)
    assert run(root, "merged.onnx", "shifted.onnx", "dense.onnx", "merged.onnx", "--json", str(target)) == code
    said = capsys.readouterr()
    assert said.err.endswith("algm-eval: interrupted; 2 of 4 runs are complete\n")
    assert "(2) shifted.onnx @ 0.88" in said.out
    assert "IoU per class" in said.out
    found = json.loads(target.read_text())
    assert (found["complete"], found["interrupted"], len(found["runs"])) == (False, True, 2)
    assert all(engine.closed for engine in engines)

    target.unlink()
    assert run(root, "dense.onnx", "merged.onnx", "--json", str(target)) == code
    assert "interrupted before the first run was complete" in capsys.readouterr().err
    assert not target.exists()


def test_an_error_behind_which_an_interrupt_stands_is_one(
    root: Path, engines: list[FakeEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate, count = job.evaluate, iter(range(9))

    def until(*given: Any) -> Evaluation:
        if next(count):
            raise AlgmError("a module seems missing") from KeyboardInterrupt()
        return evaluate(*given)

    monkeypatch.setattr(job, "evaluate", until)
    assert run(root, "merged.onnx", "dense.onnx", "shifted.onnx", "-q") == 130


def test_every_run_is_printed_and_written_when_it_is_complete(
    root: Path, engines: list[FakeEngine], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    target, seen = tmp_path / "out.json", []
    evaluate = job.evaluate

    def noting(*given: Any) -> Evaluation:
        out = capsys.readouterr().out
        seen.append((out, json.loads(target.read_text()) if target.exists() else None))
        return evaluate(*given)

    monkeypatch.setattr(job, "evaluate", noting)
    assert run(root, "merged.onnx", "dense.onnx", "--json", str(target)) == 0
    (before, nothing), (after, written) = seen
    assert before.startswith("folder: 12 pictures")
    assert nothing is None
    assert after.startswith("(1) merged.onnx @ 0.88 ")
    assert after.count("\n") == 1
    assert written["complete"] is False
    assert [entry["model"] for entry in written["runs"]] == ["merged.onnx"]
    assert capsys.readouterr().out.startswith("(2) dense.onnx ")


def test_json_to_what_is_no_file(root: Path, engines: list[FakeEngine], capfd: pytest.CaptureFixture[str]) -> None:
    assert run(root, "merged.onnx", "dense.onnx", "-q", "--json", "/dev/null") == 0
    assert Path("/dev/null").is_char_device()
    assert run(root, "merged.onnx", "dense.onnx", "-q", "--json", "/dev/stdout") == 0
    assert len(json.loads(capfd.readouterr().out)["runs"]) == 2, "one text, though there are two runs"


def test_a_line_per_run_and_picture(
    root: Path, engines: list[FakeEngine], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, target = tmp_path / "pictures.csv", tmp_path / "out.json"
    (root / "labels" / "p2.png").unlink()
    given = ("--per-picture", str(table), "--json", str(target), "--limit", "6")
    assert run(root, "merged.onnx", "dense.onnx", "shifted.onnx", *given) == 5
    with table.open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert list(lines[0]) == list(COLUMNS)
    runs = json.loads(target.read_text())["runs"]
    by_run = [[line for line in lines if line["run"] == title] for title in json.loads(target.read_text())["planned"]]
    for found, entry in zip(by_run, runs, strict=True):
        assert len(found) == entry["pictures"]
        assert sum(int(line["pixels"]) for line in found) == entry["pixels"]
        assert sum(int(line["windows"]) for line in found) == entry["windows"]
        assert all(0 < float(line["mean_iou"]) <= 1 for line in found)
    assert {line["labels_equal_to_first"] for line in by_run[0]} == {""}
    assert {float(line["labels_equal_to_first"]) for line in by_run[1]} == {1.0}
    assert {line["tokens_kept"] for line in by_run[1]} == {"1.0"}
    worst = runs[2]["drift"]["worst"][0]
    assert float(next(line for line in by_run[2] if line["name"] == worst["name"])["labels_equal_to_first"]) == (
        pytest.approx(1 - worst["labels_unequal"], abs=1e-12)
    )
    capsys.readouterr()


def test_changes_of_the_mean_have_an_interval(
    root: Path,
    engines: list[FakeEngine],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target = tmp_path / "out.json"
    assert run(root, "merged.onnx", "dense.onnx", "shifted.onnx", "--json", str(target)) == 0
    _, same, shifted = json.loads(target.read_text())["runs"]
    assert same["drift"]["mean_iou_change_interval"] == {
        "low": 0.0,
        "high": 0.0,
        "percentiles": [2.5, 97.5],
        "resamples": 1000,
        "seed": 0,
        "pictures": 12,
    }
    drift = shifted["drift"]
    low, high = (drift["mean_iou_change_interval"][key] for key in ("low", "high"))
    assert low < drift["mean_iou_change"] < high
    said = capsys.readouterr().out
    assert f"mIoU {100 * drift['mean_iou_change']:+.2f} [{100 * low:+.2f}, {100 * high:+.2f}]\n" in said
    assert "mIoU +0.00 [+0.00, +0.00]\n" in said
    assert "note: in brackets: 95 % of 1000 resamples of the pictures" in said

    monkeypatch.setattr(evaluate_module, "MOST_AREAS", 59)
    assert run(root, "merged.onnx", "shifted.onnx", "--json", str(target)) == 0
    said = capsys.readouterr().out
    assert "[" not in said
    assert "note: the change of the mean IoU has no interval: 5 classes of 12 pictures are too many to keep" in said
    assert json.loads(target.read_text())["runs"][1]["drift"]["mean_iou_change_interval"] is None


def test_files_that_cannot_be_written_any_more_end_no_run(
    root: Path, engines: list[FakeEngine], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    folder, evaluate, runs = tmp_path / "out", job.evaluate, iter(range(9))

    def until(*given: Any) -> Evaluation:
        if next(runs) == 1:
            shutil.rmtree(folder, ignore_errors=True)
            folder.touch()
        return evaluate(*given)

    monkeypatch.setattr(job, "evaluate", until)
    models = ("merged.onnx", "shifted.onnx", "dense.onnx")
    assert run(root, *models, "--json", str(folder / "out.json")) == 1
    said = capsys.readouterr()
    assert "(3) dense.onnx" in said.out
    assert "dense.onnx against merged.onnx @ 0.88" in said.out
    assert said.err.count("algm-eval: [Errno") == 3, "twice on the way, once for good"

    folder.unlink()
    runs = iter(range(9))
    assert run(root, *models, "--drift", str(folder)) == 5
    said = capsys.readouterr()
    assert "(3) dense.onnx" in said.out
    assert "algm-eval: shifted.onnx @ 0.88, drawing its drift failed: [Errno" in said.err


def test_drift_folders_hold_one_run_each(root: Path, engines: list[FakeEngine], tmp_path: Path) -> None:
    folder = tmp_path / "drift"
    assert run(root, "merged.onnx", "shifted.onnx", "-q", "--drift", str(folder)) == 0
    sheets = {path.name for path in (folder / "01_shifted_0.88").iterdir()}
    assert len(sheets) == 10
    assert run(root, "merged.onnx", "shifted.onnx", "-q", "--limit", "2", "--drift", str(folder)) == 0
    fewer = {path.name for path in (folder / "01_shifted_0.88").iterdir()}
    assert len(fewer) == 2
    assert [entry["folder"] for entry in json.loads((folder / "drift.json").read_text())] == ["01_shifted_0.88"]
    assert run(root, "shifted.onnx", "shifted.onnx", "-q", "--drift", str(folder)) == 0
    assert not (folder / "01_shifted_0.88").exists(), "nothing differs any more"
    assert {path.name for path in folder.iterdir()} == {"drift.json"}


def test_names_in_another_order_are_noted(
    root: Path, engines: list[FakeEngine], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "out.json"
    assert run(root, "merged.onnx", "named.onnx", "--json", str(target)) == 0
    note = 'class 0 is "wall" in named.onnx, "red" in merged.onnx, and 4 more: is the order the same?'
    assert f"note: {note}\n" in capsys.readouterr().out
    assert json.loads(target.read_text())["notes"] == [note]


def test_names_that_no_terminal_prints(
    root: Path, engines: list[FakeEngine], capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in ("images", "labels"):
        (root / folder / "p0.png").rename(root / folder / os.fsdecode(b"\xff\n0.png"))
        (root / folder / "p1.png").rename(root / folder / f"\n1{'' if folder == 'images' else '_'}.png")
    assert run(root, "merged.onnx", "shifted.onnx") == 5
    said = capsys.readouterr()
    assert "\\xff\\n0 " in said.out
    assert "algm-eval: \\n1 left out (label)" in said.err


def test_official_short_side_and_native(engines: list[FakeEngine], tmp_path: Path) -> None:
    root, target = tmp_path / "ade", tmp_path / "out.json"
    for folder, pixels in (("images", color_picture(40, 50)), ("annotations", np.ones((40, 50), np.uint8))):
        (root / folder / "validation").mkdir(parents=True)
        Image.fromarray(pixels).save(root / folder / "validation" / f"a.{'jpg' if folder == 'images' else 'png'}")
    CARDS["ade.onnx"] = make_card(classes=150)
    for short, expected in ((None, 512), ("native", None), ("64", 64)):
        given = ["--short-side", short] if short else []
        assert main(["ade.onnx", "--data", str(root), "--dataset", "ade20k", "-q", "--json", str(target), *given]) == 0
        assert json.loads(target.read_text())["protocol"]["short_side"] == expected


def test_pairs_of_folders_are_shown_as_the_first_model_was_evaluated(
    root: Path, engines: list[FakeEngine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out.json"
    monkeypatch.setitem(CARDS, "small.onnx", replace(make_card(), short_side=48))
    for given, expected in (((), 48), (("--short-side", "native"), None)):
        assert run(root, "small.onnx", "merged.onnx", "--json", str(target), *given) == 0
        assert json.loads(target.read_text())["protocol"]["short_side"] == expected


def test_quiet_prints_nothing(root: Path, engines: list[FakeEngine], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(root, "merged.onnx", "-q") == 0
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("merged.onnx", "seven.onnx"), "different numbers of classes"),
        (("seven.onnx:dense",), ":dense is for checkpoints"),
        (("merged.onnx", "--window-batch-coupled"), "exported models decide per image"),
        (("merged.onnx:coupled",), "exported models decide per image"),
        (("openvino:x.pth",), "a checkpoint runs in PyTorch"),
        (("merged.onnx", "--mode", "whole", "--short-side", "64"), "leave out --short-side"),
        (("merged.onnx", "--mode", "whole", "--scales", "0.5,1"), "takes no scales"),
        (("merged.onnx", "--thresholds", "0.5,0.5"), "threshold is given twice"),
        (("merged.onnx", "--thresholds", "0.5,nan"), "must be finite"),
        (("merged.onnx", "small.onnx", "--stride", "20"), "stride must be between 1 and the window's 16 pixels"),
        (("dense.onnx", "--thresholds", "0.5,0.9", "--drift", "folder"), "give a second model or threshold"),
        (("merged.onnx", "--stride", "999"), "stride must be between"),
        (("merged.onnx", "--split", "none"), "there is no folder"),
    ],
)
def test_usage_errors(
    root: Path,
    engines: list[FakeEngine],
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    assert run(root, *arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("algm-eval: ")
    assert message in said
    assert said.count("\n") == 1
    assert not any(engine.batches for engine in engines), "it should be known before anything has run"


def test_arguments_that_argparse_refuses(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in (("m.onnx", "--scales", "a"), ("m.onnx", "--limit", "0"), ("m.onnx", "--short-side", "x"), ()):
        with pytest.raises(SystemExit) as stopped:
            run(root, *wrong)
        assert stopped.value.code == 2
    capsys.readouterr()


def test_checkpoint_without_pytorch_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # The package stays: a second one would take its place as an attribute of its parent, and keep it.
    for name in [name for name in sys.modules if name.startswith("algm_trt.exporter.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    code = main([str(tmp_path / "checkpoint.pth"), "--data", str(tmp_path), "--dataset", "folder"])
    assert code == 4
    assert "torch is not installed, which a checkpoint needs: pip install" in capsys.readouterr().err


def test_checkpoint_runs_dense_merged_and_coupled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from helpers.checkpoints import write_checkpoint
    from helpers.models import TINY, random_segmenter

    from algm_trt.runtime.card import MergeSettings

    folder = write_checkpoint(tmp_path / "model", random_segmenter(TINY), MergeSettings((1, 3), (2, 2), 0.6))
    root = tmp_path / "data"
    for kind, pixels in (("images", color_picture(150, 200)), ("labels", np.ones((150, 200), np.uint8))):
        (root / kind).mkdir(parents=True)
        Image.fromarray(pixels).save(root / kind / "a.png")
    target = tmp_path / "out.json"
    weights = str(folder / "checkpoint.pth")
    assert run(root, f"{weights}:dense", weights, "--thresholds", "0.9", "-q", "--json", str(target)) == 0
    dense, merged = json.loads(target.read_text())["runs"]
    assert dense["tokens_kept"] == 1.0
    assert merged["tokens_kept"] < 1.0
    assert "PyTorch" in merged["backend"]
    assert run(root, weights, "--window-batch-coupled", "-q", "--json", str(target)) == 0
    found = json.loads(target.read_text())
    assert found["runs"][0]["batch_size"] == 4
    assert "batch-coupled" in found["runs"][0]["backend"]
    with pytest.raises(UsageError, match="nothing to couple"):
        open_model(f"{weights}:dense", window_batch_coupled=True)
    coupled = found["runs"][0]
    models = (f"{weights}:dense", weights, f"{weights}:coupled")
    assert run(root, *models, "--json", str(target)) == 0
    assert "stride 96, windows of a batch coupled where it says so" in capsys.readouterr().out.splitlines()[0]
    found = json.loads(target.read_text())
    assert found["protocol"]["window_batch_coupled"] is False
    assert [entry["window_batch_coupled"] for entry in found["runs"]] == [False, False, True]
    assert [entry["batch_size"] for entry in found["runs"]] == [1, 1, 4]
    assert found["runs"][2]["mean_iou"] == coupled["mean_iou"]
    assert found["runs"][2]["tokens_per_window"] == coupled["tokens_per_window"]
    assert run(root, weights, f"{weights}:coupled", "--batch-size", "2", "-q", "--json", str(target)) == 0
    assert [entry["batch_size"] for entry in json.loads(target.read_text())["runs"]] == [2, 2]
