"""The command algm-infer from arguments to files, with a stand-in for the model."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.fake_engine import FakeEngine, color_picture, make_card
from PIL import Image

from algm_trt.plugins.errors import AlgmError, MissingDependencyError
from algm_trt.runtime import engine as engine_module
from algm_trt.runtime import manifest, output_folder, writers
from algm_trt.runtime.cli import main
from algm_trt.runtime.machine import versions
from algm_trt.runtime.segmenter import Segmenter
from algm_trt.runtime.window_runner import HostWindowRunner

Infer = Callable[..., int]


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    fake = FakeEngine()
    monkeypatch.setattr(engine_module, "open_engine", lambda path, options: fake)
    return fake


@pytest.fixture
def infer(tmp_path: Path, engine: FakeEngine) -> Infer:
    """Run the command with a model on `tmp_path / "in"`, output in `tmp_path / "out"`, or on the inputs given."""
    (tmp_path / "model.onnx").write_bytes(b"a model")

    def run(*arguments: str | Path, inputs: list[Path] | None = None) -> int:
        given = [tmp_path / "in"] if inputs is None else inputs
        fixed = ["--engine", tmp_path / "model.onnx", "-o", tmp_path / "out"]
        return main([str(argument) for argument in (*given, *fixed, *arguments)])

    return run


def save_picture(path: Path, height: int = 40, width: int = 50, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        Image.fromarray(color_picture(height, width, seed)).save(file, "PNG")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five pictures, one of them broken."""
    for index in range(4):
        save_picture(tmp_path / "in" / f"p{index}.png", 40 + index, 50, index)
    (tmp_path / "in" / "p1a.png").write_bytes((tmp_path / "in" / "p1.png").read_bytes()[:200])
    return tmp_path / "in"


def results(tmp_path: Path, name: str = "results.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (tmp_path / "out" / name).read_text().splitlines()]


def summary(tmp_path: Path, name: str = "summary.json") -> dict[str, Any]:
    content: dict[str, Any] = json.loads((tmp_path / "out" / name).read_text())
    return content


def files_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_good_pictures_give_masks_and_a_broken_one_an_error_line(
    infer: Infer, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert infer() == 5
    assert files_in(tmp_path / "out") == [
        *(f"labels/p{index}.png" for index in range(4)),
        *(f"overlay/p{index}.jpg" for index in range(4)),
        "results.jsonl",
        "summary.json",
    ]
    for index in range(4):
        expected = Segmenter(FakeEngine())(folder / f"p{index}.png").labels
        assert np.array_equal(np.asarray(Image.open(tmp_path / f"out/labels/p{index}.png")), expected)
    lines = results(tmp_path)
    assert [(line["name"], line["status"]) for line in lines] == [
        ("p0", "ok"),
        ("p1", "ok"),
        ("p1a", "error"),
        ("p2", "ok"),
        ("p3", "ok"),
    ]
    assert "truncated" in lines[2]["error"]
    assert (lines[3]["width"], lines[3]["height"], lines[3]["windows"]) == (50, 42, 4)
    assert len(lines[3]["tokens"]) == 3
    assert sum(lines[3]["class_pixels"].values()) == 42 * 50
    output = capsys.readouterr()
    assert output.err.startswith(f"algm-infer: {folder}/p1a.png: ")
    assert len(output.err.splitlines()) == 1
    assert "4 of 5 inputs done" in output.out
    assert "1 failed: see" in output.out
    assert f"open: {tmp_path}/out/overlay/p0.jpg" in output.out
    assert 3 <= len(output.out.splitlines()) <= 6


def test_the_summary_adds_up(infer: Infer, folder: Path, tmp_path: Path) -> None:
    infer("--batch-size", "3")
    content = summary(tmp_path)
    lines = [line for line in results(tmp_path) if line["status"] == "ok"]
    assert (content["inputs"], content["ok"], content["failed"], content["ending"]) == (5, 4, 1, "complete")
    assert content["windows"] == sum(line["windows"] for line in lines) == 16
    assert content["images_per_second"] * content["seconds"] == pytest.approx(4, abs=0.5)
    assert sum(entry["pixels"] for entry in content["classes"]) == sum(50 * (40 + index) for index in range(4))
    assert sum(entry["share"] for entry in content["classes"]) == pytest.approx(1, abs=1e-4)
    assert content["tokens"]["share_kept"] == pytest.approx(
        content["tokens"]["after_global"] / content["tokens"]["grid"], abs=1e-4
    )
    assert content["options"]["threshold"] == 0.88
    assert content["options"]["batch_size"] == 3
    assert content["model"]["architecture"] == "fake"
    assert content["backend"] == "fake backend"
    assert content["images_per_second"] > 0
    assert list(content["work_seconds"]) == ["decode", "cut", "model", "labels", "write"]
    assert all(0 <= seconds <= 60 for seconds in content["work_seconds"].values())
    assert content["versions"]["numpy"] == np.__version__
    assert content["versions"] == versions()


def test_every_kind_is_written(infer: Infer, tmp_path: Path) -> None:
    save_picture(tmp_path / "in" / "street.png")
    assert infer("--save", ",".join(writers.KINDS)) == 0
    expected = [f"{name}/street{kind.suffix}" for name, kind in writers.KINDS.items()]
    assert files_in(tmp_path / "out") == sorted([*expected, "results.jsonl", "summary.json"])
    (line,) = results(tmp_path)
    assert [file["path"] for file in line["files"]] == expected


def test_outputs_keep_the_folders_of_the_inputs(infer: Infer, tmp_path: Path) -> None:
    save_picture(tmp_path / "in" / "a" / "x.png")
    save_picture(tmp_path / "in" / "b" / "x.png")
    assert infer("--recursive", "--save", "labels") == 0
    assert files_in(tmp_path / "out" / "labels") == ["a/x.png", "b/x.png"]


def test_resume_does_only_what_is_missing(
    infer: Infer, engine: FakeEngine, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    infer()
    labels = tmp_path / "out/labels/p3.png"
    labels.unlink()
    save_picture(folder / "p1a.png")
    engine.batches.clear()
    capsys.readouterr()
    assert infer("--resume") == 0
    assert len(engine.batches) == 8
    assert [line["name"] for line in results(tmp_path)] == ["p0", "p1", "p2", "p1a", "p3"]
    assert labels.exists()
    content = summary(tmp_path)
    assert (content["inputs"], content["ok"], content["failed"], content["done_before"]) == (5, 5, 0, 3)
    assert "5 of 5 inputs done (3 before)" in capsys.readouterr().out
    engine.batches.clear()
    assert infer("--resume") == 0
    assert engine.batches == []
    assert summary(tmp_path)["windows"] == content["windows"]
    assert infer("--resume", inputs=[folder / "p0.png"]) == 0  # the others' lines stay, and count
    assert (summary(tmp_path)["inputs"], summary(tmp_path)["done_before"]) == (5, 1)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--threshold", "0.5"],
        ["--mode", "whole"],
        ["--stride", "16"],
        ["--save", "labels"],
        ["--cpu-precision", "bf16"],
    ],
)
def test_resume_with_other_options_does_all_again(
    infer: Infer, engine: FakeEngine, tmp_path: Path, arguments: list[str]
) -> None:
    save_picture(tmp_path / "in" / "street.png")
    infer()
    engine.batches.clear()
    assert infer("--resume", *arguments) == 0
    assert engine.batches


def test_resume_with_spelled_out_defaults_or_another_batch_size_does_nothing(
    infer: Infer, engine: FakeEngine, tmp_path: Path
) -> None:
    save_picture(tmp_path / "in" / "street.png")
    infer()
    engine.batches.clear()
    assert (
        infer("--resume", "--threshold", "0.88", "--stride", "24", "--batch-size", "4", "--save", "overlay,labels") == 0
    )
    assert engine.batches == []


def test_resume_with_another_model_does_all_again(infer: Infer, engine: FakeEngine, tmp_path: Path) -> None:
    save_picture(tmp_path / "in" / "street.png")
    infer()
    engine.batches.clear()
    (tmp_path / "model.onnx").write_bytes(b"other weights")
    assert infer("--resume") == 0
    assert engine.batches


def test_shards_share_the_work(infer: Infer, tmp_path: Path) -> None:
    for index in range(7):
        save_picture(tmp_path / "in" / f"p{index}.png")
    assert [infer("--shard", f"{part}/3", "--save", "labels") for part in (1, 2, 3)] == [0, 0, 0]
    lines = [line for part in (1, 2, 3) for line in results(tmp_path, f"results-{part}-of-3.jsonl")]
    assert sorted(line["name"] for line in lines) == [f"p{index}" for index in range(7)]
    assert len(files_in(tmp_path / "out" / "labels")) == 7
    assert summary(tmp_path, "summary-2-of-3.json")["options"]["part"] == [2, 3]
    assert not (tmp_path / "out" / "results.jsonl").exists()


def test_an_empty_shard_is_fine(infer: Infer, tmp_path: Path) -> None:
    save_picture(tmp_path / "in" / "street.png")
    assert infer("--shard", "2/2") == 0
    assert summary(tmp_path, "summary-2-of-2.json")["tokens"] is None


def test_fail_fast_stops_at_the_first_failure(
    infer: Infer, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert infer("--fail-fast") == 5
    assert [line["name"] for line in results(tmp_path)] == ["p0", "p1", "p1a"]
    assert summary(tmp_path)["ending"] == "stopped at the first failure"
    assert "1 failed, stopped there" in capsys.readouterr().out


def test_an_input_that_vanishes_is_an_error_line(infer: Infer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_picture(tmp_path / "in" / "a.png")
    listing = tmp_path / "list.txt"
    listing.write_text("in/a.png\nin/gone.png\n")
    assert infer(inputs=[listing]) == 5
    assert [(line["status"], line["error"]) for line in results(tmp_path)] == [("ok", None), ("error", "no such file")]


def test_entries_that_lead_nowhere_fail_alone(infer: Infer, tmp_path: Path) -> None:
    save_picture(tmp_path / "in" / "a.png")
    for name in ("itself.png", "itself.mp4"):
        (tmp_path / "in" / name).symlink_to(name)
    beyond = "/".join(["x" * 250] * 17) + "/b.png"
    (tmp_path / "list.txt").write_text(f"in/a.png\n{beyond}\n")
    assert infer(inputs=[tmp_path / "in", tmp_path / "list.txt"]) == 5
    found = {line["name"][-10:]: line["error"] for line in results(tmp_path)}
    too_long = "the file cannot be read (File name too long)"
    loop = "the file cannot be read (Too many levels of symbolic links)"
    assert found == {"a": None, "itself.png": loop, "itself.mp4": loop, "xxxxxxxx/b": too_long}


def test_what_earlier_runs_wrote_is_not_an_input(infer: Infer, tmp_path: Path) -> None:
    save_picture(tmp_path / "street.png")
    for _ in range(2):
        assert infer("--recursive", "--save", "labels,overlay,color", inputs=[tmp_path]) == 0
        assert [line["name"] for line in results(tmp_path)] == ["street"]
    assert infer(inputs=[tmp_path / "out" / "overlay"]) == 2


def test_what_earlier_runs_wrote_is_not_an_input_by_another_name(infer: Infer, tmp_path: Path) -> None:
    """The output folder is tmp_path / "out"."""
    save_picture(tmp_path / "street.png")
    link = tmp_path.with_name(f"{tmp_path.name}-link")
    link.symlink_to(tmp_path)
    for folder in (tmp_path, link, tmp_path / "out" / ".."):
        assert infer("--recursive", inputs=[folder]) == 0
        assert [line["name"] for line in results(tmp_path)] == ["street"]


@pytest.mark.parametrize("name", ["with space", "日本 ü", os.fsdecode(b"caf\xe9"), "line\nbreak", "%s{}"])
def test_odd_names_are_kept_and_resumed(
    infer: Infer, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    save_picture(tmp_path / "in" / f"{name}.png")
    (tmp_path / "in" / f"{name} broken.png").write_bytes(b"x")
    assert infer("--save", ",".join(writers.KINDS)) == 5
    assert (tmp_path / "out" / "labels" / f"{name}.png").is_file()
    assert {line["name"] for line in results(tmp_path)} == {name, f"{name} broken"}
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert infer("--resume", "--save", ",".join(writers.KINDS)) == 5
    assert summary(tmp_path)["done_before"] == 1


def test_names_as_long_as_the_file_system_takes(infer: Infer, tmp_path: Path) -> None:
    for end in "ab":
        save_picture(tmp_path / "in" / ("n" * 250 + end + ".png"))
    assert infer("--save", ",".join(writers.KINDS)) == 0
    assert len(files_in(tmp_path / "out" / "coco")) == 2
    assert infer("--resume", "--save", ",".join(writers.KINDS)) == 0
    assert summary(tmp_path)["done_before"] == 2


def test_max_pixels_refuses_larger_pictures(infer: Infer, tmp_path: Path) -> None:
    save_picture(tmp_path / "in" / "large.png", 60, 60)
    save_picture(tmp_path / "in" / "small.png", 30, 30)
    assert infer("--max-pixels", "1000") == 5
    assert [line["status"] for line in results(tmp_path)] == ["error", "ok"]


def test_quiet_prints_errors_only(infer: Infer, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    infer("--quiet")
    output = capsys.readouterr()
    assert output.out == ""
    assert len(output.err.splitlines()) == 1


def test_a_full_disk_is_an_error_line_and_the_run_goes_on(
    infer: Infer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for index in range(3):
        save_picture(tmp_path / "in" / f"p{index}.png", 40 + index)
    good = writers.KINDS["overlay"].write

    def sometimes_full(result: Any, path: Path) -> None:
        if result.labels.shape[0] == 41:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        good(result, path)

    monkeypatch.setitem(writers.KINDS, "overlay", writers.Kind(".jpg", sometimes_full))
    assert infer() == 5
    lines = results(tmp_path)
    assert [line["status"] for line in lines] == ["ok", "error", "ok"]
    assert "No space left on device" in lines[1]["error"]
    assert not [name for name in files_in(tmp_path / "out") if "p1" in name or "part" in name]


def test_a_disk_that_stays_full_ends_the_run(
    infer: Infer,
    engine: FakeEngine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for index in range(200):
        save_picture(tmp_path / "in" / f"p{index:03d}.png", 32, 32)
    good = writers.KINDS["overlay"].write
    room = 5

    def fills(result: Any, path: Path) -> None:
        if int(result.name[1:]) >= room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        good(result, path)

    monkeypatch.setitem(writers.KINDS, "overlay", writers.Kind(".jpg", fills))
    assert infer() == 1
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("algm-infer: no more pictures can be written: cannot write the files of p007 under ")
    assert message.endswith("No space left on device: free space, then --resume goes on")
    assert [line["status"] for line in results(tmp_path)] == ["ok"] * 5 + ["error"] * 3
    assert (summary(tmp_path)["ending"], summary(tmp_path)["ok"]) == ("failed", 5)
    assert len(engine.batches) < 100
    monkeypatch.setitem(writers.KINDS, "overlay", writers.Kind(".jpg", good))
    assert infer("--resume") == 0
    assert summary(tmp_path)["done_before"] == 5


def test_the_first_message_of_a_full_disk_is_the_one_that_is_told(
    infer: Infer, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def no_summary(*_: object) -> None:
        raise AlgmError("cannot write the summary")

    monkeypatch.setattr(manifest, "_write_line", full)
    monkeypatch.setattr(manifest.Manifest, "write_summary", no_summary)
    assert infer() == 1
    assert capsys.readouterr().err.endswith(
        "results.jsonl: No space left on device: free space, then --resume goes on\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--save", "masks"], "choose from labels, overlay"),
        (["--shard", "3/2"], "shard"),
        (["--stride", "500"], "stride must be between 1 and"),
        (["--mode", "whole", "--stride", "8"], "mode slide only"),
        (["--threshold", "nan"], "finite"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_2(
    infer: Infer, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    save_picture(tmp_path / "in" / "street.png")
    assert infer(*arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("algm-infer: ")
    assert message in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize("arguments", [["--batch-size", "0"], ["--workers", "x"], ["--mode", "tile"], ["--nothing"]])
def test_arguments_that_cannot_be_read_are_exit_2(infer: Infer, arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        infer(*arguments)
    assert stop.value.code == 2


def test_an_input_that_is_not_there_is_exit_2(infer: Infer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert infer(inputs=[tmp_path / "nowhere"]) == 2
    assert "no such file or folder" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_model_that_is_not_there_is_exit_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = save_picture(tmp_path / "street.png")
    assert main([str(picture), "--engine", str(tmp_path / "none.onnx"), "-o", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.startswith(f"algm-infer: {tmp_path}/none.onnx: no such model file")


def test_a_missing_runtime_is_exit_4(
    infer: Infer, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_runtime(*_: object, **__: object) -> None:
        raise MissingDependencyError("onnxruntime is not installed: pip install onnxruntime")

    monkeypatch.setattr(engine_module, "open_engine", no_runtime)
    assert infer() == 4
    assert capsys.readouterr().err == "algm-infer: onnxruntime is not installed: pip install onnxruntime\n"


def test_an_opencv_without_functions_is_exit_4(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "site" / "cv2").mkdir(parents=True)
    (tmp_path / "site" / "cv2" / "__init__.py").touch()
    (tmp_path / "model.onnx").write_bytes(b"a model")
    path = f"{tmp_path / 'site'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    code = "import sys; from algm_trt.runtime.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, str(folder), "--engine", "model.onnx"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=tmp_path, env=os.environ | {"PYTHONPATH": path}
    )
    assert done.returncode == 4
    assert done.stderr.startswith("algm-infer: cv2 has no functions")
    assert done.stderr.endswith(": pip install --force-reinstall opencv-python-headless\n")
    assert not (tmp_path / "masks").exists()


def test_a_folder_that_cannot_be_written_is_exit_1_before_anything_runs(
    infer: Infer, engine: FakeEngine, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert infer("-o", tmp_path / "file" / "out") == 1
    assert infer("-o", tmp_path / "file") == 1
    lines = capsys.readouterr().err.splitlines()
    assert all(line.startswith("algm-infer: cannot write to ") for line in lines)
    assert lines[1] == f"algm-infer: cannot write to {tmp_path}/file: is a file, not a folder"
    assert engine.batches == []


def test_a_folder_called_like_the_summary_is_named(
    infer: Infer, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out" / "summary.json").mkdir(parents=True)
    assert infer() == 1
    assert capsys.readouterr().err == f"algm-infer: cannot write {tmp_path}/out/summary.json: Is a directory\n"
    assert files_in(tmp_path / "out") == []


def test_folders_of_the_kinds_are_tried_before_anything_runs(
    infer: Infer,
    engine: FakeEngine,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "out" / "labels").mkdir(parents=True)
    (tmp_path / "out" / "color").write_text("in the way, but not of this run")
    good = output_folder.TemporaryFile

    def of_another_user(*, dir: Path) -> Any:
        if dir.name == "labels":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return good(dir=dir)

    monkeypatch.setattr(output_folder, "TemporaryFile", of_another_user)
    assert infer() == 1
    assert capsys.readouterr().err == f"algm-infer: cannot write to {tmp_path}/out/labels: Permission denied\n"
    assert engine.batches == []
    assert infer("--save", "overlay") == 5
    assert infer("--save", "color") == 1
    assert "color: is a file, not a folder" in capsys.readouterr().err


def test_a_model_that_fails_on_everything_is_exit_1(
    infer: Infer, engine: FakeEngine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for index in range(5):
        Image.fromarray(np.full((32, 32, 3), 13, np.uint8)).save(save_picture(tmp_path / "in" / f"p{index}.png"))
    engine.fail_on = 13
    assert infer() == 1
    assert "on purpose" in capsys.readouterr().err
    assert summary(tmp_path)["ending"] == "failed"


def test_an_interrupt_keeps_what_is_done(
    infer: Infer,
    engine: FakeEngine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for index in range(40):
        save_picture(tmp_path / "in" / f"p{index:02d}.png", 32, 32)
    good = engine.run

    def interrupted(images: Any, threshold: float | None = None) -> Any:
        if len(engine.batches) == 30:
            raise KeyboardInterrupt
        time.sleep(0.005)
        return good(images, threshold)

    monkeypatch.setattr(engine, "run", interrupted)
    assert infer() == 130
    assert "--resume" in capsys.readouterr().err
    done = [line["name"] for line in results(tmp_path)]
    assert 0 < len(done) < 40
    assert summary(tmp_path)["ending"] == "interrupted"
    monkeypatch.setattr(engine, "run", good)
    engine.batches.clear()
    assert infer("--resume") == 0
    assert len(engine.batches) == 40 - len(done)
    assert sorted(line["name"] for line in results(tmp_path)) == [f"p{index:02d}" for index in range(40)]
    assert not [name for name in files_in(tmp_path / "out") if "part" in name]


def test_a_dense_model_runs_and_refuses_a_threshold(
    infer: Infer, engine: FakeEngine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_picture(tmp_path / "in" / "street.png")
    engine.card = make_card(merge=False)
    assert infer() == 0
    assert summary(tmp_path)["options"]["threshold"] is None
    assert infer("--threshold", "0.9") == 2
    assert "without merging" in capsys.readouterr().err


def test_text_that_the_screen_cannot_show_is_escaped(
    infer: Infer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    save_picture(tmp_path / "in" / "日本.png")
    monkeypatch.setattr(sys, "stdout", screen)
    assert infer() == 0
    screen.seek(0)
    assert "overlay/\\u65e5\\u672c.jpg" in screen.read()


@pytest.mark.parametrize("name", ["labels/street.png", "overlay/clip.mp4"])
def test_files_that_no_run_wrote_are_not_replaced(
    infer: Infer, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    save_picture(tmp_path / "in" / "street.png")
    (tmp_path / "in" / "clip.mp4").write_bytes(b"a video")
    theirs = tmp_path / "out" / name
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(b"by hand")
    assert infer() == 2
    assert f"{name} exists, and not from a run" in capsys.readouterr().err
    assert theirs.read_bytes() == b"by hand"
    assert infer("--save", "color") == 5, "nothing is in the way of other kinds"


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--shard", "", "a shard is given as I/N"),
        ("--threads", "99999999999", "threads must be between 1 and 1024"),
        ("--streams", "99999999999", "streams must be between 1 and 1024"),
        ("--batch-size", "1000000000000", "1000000000000 windows do not fit in memory"),
    ],
)
def test_absurd_values_are_wrong_usage(
    infer: Infer, folder: Path, capsys: pytest.CaptureFixture[str], option: str, value: str, message: str
) -> None:
    assert infer(option, value) == 2
    assert message in capsys.readouterr().err


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out.startswith("algm-infer 0.")


def test_help_needs_no_heavy_import() -> None:
    code = (
        "import sys\nfrom algm_trt.runtime.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as stop:\n    assert stop.code == 0\n"
        "heavy = {'numpy', 'cv2', 'onnxruntime', 'PIL', 'torch', 'tqdm'} & set(sys.modules)\nassert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "--resume" in done.stdout
    assert all(f"\n  {kind} " in done.stdout for kind in writers.KINDS)


def test_windows_go_in_batches_that_the_engine_runs_best_with(
    infer: Infer, engine: FakeEngine, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "usual_batch", 4, raising=False)
    monkeypatch.setattr(engine, "window_runner", lambda batch: HostWindowRunner(engine, batch), raising=False)
    infer()
    assert summary(tmp_path)["options"]["batch_size"] == max(engine.batches) == 4
    infer("--batch-size", "1")
    assert summary(tmp_path)["options"]["batch_size"] == 1


def test_the_short_side_is_part_of_the_settings(infer: Infer, folder: Path, tmp_path: Path) -> None:
    infer("--short-side", "64")
    assert summary(tmp_path)["options"]["short_side"] == 64
    assert {line["windows"] for line in results(tmp_path) if line["status"] == "ok"} == {9}
    infer("--short-side", "64", "--resume")
    assert summary(tmp_path)["done_before"] == 4
    infer("--resume")
    assert summary(tmp_path)["done_before"] == 0


def test_the_short_side_of_the_model_and_native(
    infer: Infer, engine: FakeEngine, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine.card = replace(engine.card, short_side=64)
    for given, said, windows in (((), 64, {9}), (("--short-side", "native"), None, {4})):
        infer(*given)
        assert summary(tmp_path)["options"]["short_side"] == said
        assert ("shown at a short side of 64 pixels" in capsys.readouterr().out) == bool(said)
        assert {line["windows"] for line in results(tmp_path) if line["status"] == "ok"} == windows


def test_inputs_may_stand_behind_options(infer: Infer, folder: Path, tmp_path: Path) -> None:
    assert infer("--threshold", "0.9", folder / "p1.png", inputs=[folder / "p0.png"]) == 0
    assert [line["name"] for line in results(tmp_path)] == ["p0", "p1"]


@pytest.mark.parametrize(
    "arguments", [["-i", "p0.png", "p1.png"], ["-i", "p0.png", "-i", "p1.png"], ["p0.png", "-i", "--", "p1.png"]]
)
def test_the_official_option_may_stand_before_inputs(
    infer: Infer, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.chdir(folder)
    model = ["--engine", str(tmp_path / "model.onnx"), "-o", str(tmp_path / "out")]
    assert main([*model, *arguments]) == 0
    assert [line["name"] for line in results(tmp_path)] == ["p0", "p1"]
    with pytest.raises(SystemExit, match="2"):
        main(["-i", *model])


def test_inputs_behind_two_dashes_may_begin_with_one(
    infer: Infer, engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "-x.png", "--save.png"):
        save_picture(tmp_path / name)
    assert infer("--save", "labels", "--", "-x.png", "a.png", "--save.png", inputs=[]) == 0
    assert [(line["path"], line["name"]) for line in results(tmp_path)] == [
        ("-x.png", "-x"),
        ("a.png", "a"),
        ("--save.png", "--save"),
    ]
    assert infer("--", "-x.png", inputs=[Path("a.png")]) == 0
    assert [line["name"] for line in results(tmp_path)] == ["a", "-x"]


class FullStream(io.StringIO):
    """A screen that takes nothing, as a log on a full disk."""

    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_messages_that_cannot_be_written_end_no_run(
    infer: Infer, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "notes.heic").touch()
    monkeypatch.setattr(sys, "stderr", FullStream())
    assert infer() == 5
    assert [line["status"] for line in results(tmp_path)] == ["ok", "ok", "error", "ok", "ok"]
    assert summary(tmp_path)["ending"] == "complete"


def test_nothing_is_said_to_be_written_where_nothing_was(
    infer: Infer, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert infer(inputs=[folder / "p1a.png"]) == 5
    assert "written" not in capsys.readouterr().out
    (folder / "notes.heic").touch()
    infer()
    output = capsys.readouterr()
    assert "written" in output.out
    assert "left out, no pictures or videos by their suffix: 1 .heic" in output.err
