"""Videos: frames in order, overlay and frame files, broken files, early ends."""

from __future__ import annotations

import json
import os
import re
import threading
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from helpers.fake_engine import FakeEngine, color_picture
from numpy.typing import NDArray
from PIL import Image

from algm_trt.plugins.errors import AlgmError
from algm_trt.runtime import engine as engine_module
from algm_trt.runtime import video as video_module
from algm_trt.runtime.cli import main
from algm_trt.runtime.decode import DecodeError
from algm_trt.runtime.engine import EngineOutput
from algm_trt.runtime.pipeline_options import PipelineOptions
from algm_trt.runtime.segmenter import Segmenter
from algm_trt.runtime.video import SavedVideo, VideoReader, segment_video
from algm_trt.runtime.writers import WriteError


def write_video(path: Path, frames: int = 9, fps: float = 12.0) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), fps, (64, 48))
    assert writer.isOpened()
    for index in range(frames):
        writer.write(np.ascontiguousarray(color_picture(48, 64, index)[..., ::-1]))
    writer.release()
    return path


def read_video(path: Path) -> list[NDArray[np.uint8]]:
    capture = cv2.VideoCapture(str(path))
    frames = []
    while True:
        good, frame = capture.read()
        if not good:
            return frames
        frames.append(np.ascontiguousarray(frame[..., ::-1]))


def segment(
    path: Path, folder: Path, kinds: tuple[str, ...] = ("labels", "overlay"), engine: FakeEngine | None = None, **o: Any
) -> SavedVideo:
    return segment_video(engine or FakeEngine(), PipelineOptions(**o), path, folder, "clip", kinds)


@pytest.mark.parametrize("options", [{}, {"batch_size": 5, "workers": 3}, {"mode": "whole", "batch_size": 4}])
def test_frames_come_out_in_order(tmp_path: Path, options: dict[str, Any]) -> None:
    path = write_video(tmp_path / "clip.mp4", frames=30)
    saved = segment(path, tmp_path / "out", **options)
    assert (saved.frames, saved.size) == (30, (48, 64))
    frames = read_video(path)
    labels = sorted((tmp_path / "out/labels/clip").iterdir())
    assert [file.name for file in labels] == [f"{index:06d}.png" for index in range(30)]
    for file, frame in zip(labels, frames, strict=True):
        expected = Segmenter(FakeEngine())(frame, **{k: v for k, v in options.items() if k == "mode"}).labels
        assert np.array_equal(np.asarray(Image.open(file)), expected)
    overlays = read_video(tmp_path / "out/overlay/clip.mp4")
    assert len(overlays) == 30
    expected_overlay = Segmenter(FakeEngine())(frames[7], mode=options.get("mode", "slide")).overlay()
    assert np.abs(overlays[7].astype(int) - expected_overlay).mean() < 16


def test_overlay_keeps_rate_and_size(tmp_path: Path) -> None:
    segment(write_video(tmp_path / "clip.mp4", fps=12.5), tmp_path / "out")
    capture = cv2.VideoCapture(str(tmp_path / "out/overlay/clip.mp4"))
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(12.5)
    assert (capture.get(cv2.CAP_PROP_FRAME_WIDTH), capture.get(cv2.CAP_PROP_FRAME_HEIGHT)) == (64, 48)


def test_opencv_up_to_4_12_has_its_log_level_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    levels = [3]
    monkeypatch.delattr(cv2.utils, "logging", raising=False)
    monkeypatch.setattr(cv2, "getLogLevel", lambda: levels[-1], raising=False)
    monkeypatch.setattr(cv2, "setLogLevel", levels.append, raising=False)
    segment(write_video(tmp_path / "clip.mp4", frames=2), tmp_path / "out")
    assert set(levels) == {2, 3}
    assert levels[-1] == 3, "as it was before"


def test_other_kinds_become_folders_of_frames(tmp_path: Path) -> None:
    saved = segment(write_video(tmp_path / "clip.mp4", frames=2), tmp_path / "out", ("coco", "tokens"))
    assert [(file.path, file.count) for file in saved.files] == [("coco/clip", 2), ("tokens/clip", 2)]
    assert sorted(path.name for path in (tmp_path / "out").rglob("*.*")) == [
        "000000.json",
        "000000.png",
        "000001.json",
        "000001.png",
    ]


def test_what_was_written_adds_up(tmp_path: Path) -> None:
    saved = segment(write_video(tmp_path / "clip.mp4"), tmp_path / "out")
    labels, overlay = saved.files
    frames = list((tmp_path / "out/labels/clip").iterdir())
    assert (labels.count, labels.bytes) == (9, sum(file.stat().st_size for file in frames))
    assert overlay.bytes == (tmp_path / "out/overlay/clip.mp4").stat().st_size
    assert sum(saved.tally.class_pixels.values()) == 9 * 48 * 64
    assert saved.tally.windows == 9 * 6


@pytest.mark.parametrize("content", [b"", b"no video at all", None])
def test_what_is_no_video_is_an_error(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "clip.mp4"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DecodeError, match=r"clip\.mp4"):
        segment(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_paths_that_are_not_utf_8_are_errors_of_the_video(tmp_path: Path) -> None:
    good = write_video(tmp_path / "clip.mp4")
    odd = tmp_path / os.fsdecode(b"caf\xe9.mp4")
    odd.write_bytes(good.read_bytes())
    with pytest.raises(DecodeError, match=r"caf\\xe9\.mp4: OpenCV takes paths in UTF-8 only$"):
        segment(odd, tmp_path / "out")
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    with pytest.raises(WriteError, match=r"caf\\xe9/overlay: OpenCV takes paths in UTF-8 only"):
        segment(good, folder)
    assert not [path for path in folder.rglob("*") if path.is_file()]
    assert segment(good, folder, kinds=("labels",)).frames == 9


def test_a_pipe_or_a_folder_is_no_video(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "folder.mp4").mkdir()
    for name, cause in (("pipe", "is not a regular file"), ("folder", "is a folder"), ("none", "no such file")):
        with pytest.raises(DecodeError, match=rf"{name}\.mp4: {cause}$"):
            segment(tmp_path / f"{name}.mp4", tmp_path / "out")


def test_a_video_cut_short_gives_an_error_or_the_frames_that_are_there(tmp_path: Path) -> None:
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for index in range(20):
        writer.write(color_picture(48, 64, index))
    writer.release()
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    saved = segment(path, tmp_path / "out")
    assert 0 < saved.frames < 20
    assert len(list((tmp_path / "out/labels/clip").iterdir())) == saved.frames


def test_a_frame_that_opencv_raises_for_fails_the_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class FailingCapture:
        """A capture whose third frame does not fit into memory; the readers of those behind it wait by then."""

        def __init__(self, capture: cv2.VideoCapture) -> None:
            self._capture, self._reads = capture, 0

        def read(self) -> Any:
            self._reads += 1
            if self._reads == 3:
                time.sleep(0.1)
                raise cv2.error("Insufficient memory")
            return self._capture.read()

        def __getattr__(self, name: str) -> Any:
            return getattr(self._capture, name)

    path = write_video(tmp_path / "clip.mp4", frames=30)
    real = cv2.VideoCapture
    monkeypatch.setattr(cv2, "VideoCapture", lambda *arguments: FailingCapture(real(*arguments)))
    with pytest.raises(cv2.error, match="Insufficient memory"):
        segment(path, tmp_path / "out", workers=4)
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == []


def test_the_command_tells_of_a_video_cut_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(engine_module, "open_engine", lambda path, options: FakeEngine())
    (tmp_path / "model.onnx").write_bytes(b"a model")
    whole, cut = write_video(tmp_path / "a.avi", frames=40), tmp_path / "b.avi"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    (tmp_path / "c.avi").write_bytes(b"no video")
    inputs = [str(tmp_path / name) for name in ("a.avi", "b.avi", "c.avi")]
    assert main([*inputs, "--engine", str(tmp_path / "model.onnx"), "-o", str(tmp_path / "out"), "-q"]) == 5
    shown = capfd.readouterr().err
    assert "WARN" not in shown  # of OpenCV
    short, unreadable = (line for line in shown.splitlines() if line.startswith("algm-infer"))
    assert re.fullmatch(r"algm-infer: .*b\.avi: only \d+ of the 40 frames that its header announces .*", short)
    assert unreadable.endswith("c.avi: not a video that can be read")
    rows = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert [row["status"] for row in rows] == ["ok", "error", "error"]
    assert 0 < rows[1]["frames"] < 36
    assert (tmp_path / "out" / rows[1]["files"][0]["path"]).exists(), "the frames that are there are kept"


def test_a_frame_that_fails_fails_the_video_and_leaves_nothing(tmp_path: Path) -> None:
    class TiredEngine(FakeEngine):
        def run(self, images: NDArray[np.uint8], threshold: float | None = None) -> EngineOutput:
            if len(self.batches) == 20:
                raise RuntimeError("tired")
            return super().run(images, threshold)

    with pytest.raises(AlgmError, match="tired"):
        segment(write_video(tmp_path / "clip.mp4"), tmp_path / "out", engine=TiredEngine())
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == []
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("algm-")]


def test_a_model_that_fails_on_one_video_does_not_stop_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = FakeEngine()
    monkeypatch.setattr(engine_module, "open_engine", lambda path, options: engine)
    (tmp_path / "model.onnx").write_bytes(b"a model")
    Image.fromarray(color_picture(40, 40)).save(tmp_path / "a.png")
    Image.fromarray(color_picture(40, 40)).save(tmp_path / "c.png")
    write_video(tmp_path / "b.mp4")
    good, calls = engine.run, []

    def fails_once(images: NDArray[np.uint8], threshold: float | None = None) -> EngineOutput:
        calls.append(len(images))
        if len(calls) == 12:
            raise RuntimeError("a bad moment")
        return good(images, threshold)

    monkeypatch.setattr(engine, "run", fails_once)
    inputs = [str(tmp_path / name) for name in ("a.png", "b.mp4", "c.png")]
    assert main([*inputs, "--engine", str(tmp_path / "model.onnx"), "-o", str(tmp_path / "out")]) == 5
    lines = [json.loads(line) for line in (tmp_path / "out/results.jsonl").read_text().splitlines()]
    assert [line["status"] for line in lines] == ["ok", "error", "ok"]
    assert "a bad moment" in lines[1]["error"]


def test_an_overlay_that_lacks_frames_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video_module._OverlayVideo, "_write", lambda self, bgr: None)
    with pytest.raises(AlgmError, match="holds 0 of 9 frames"):
        segment(write_video(tmp_path / "clip.mp4"), tmp_path / "out")


def test_frames_are_read_as_they_are_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "clip.mp4", frames=200)
    read = done = 0
    ahead = []
    good = VideoReader._load

    def load(self: VideoReader, index: int) -> NDArray[np.uint8]:
        nonlocal read
        read += 1
        ahead.append(read - done)
        return good(self, index)

    def on_frame() -> None:
        nonlocal done
        done += 1

    monkeypatch.setattr(VideoReader, "_load", load)
    options = PipelineOptions(workers=2)
    segment_video(FakeEngine(), options, path, tmp_path / "out", "clip", ("labels",), on_frame=on_frame)
    assert done == 200
    assert max(ahead) <= 10


def test_the_limit_of_pixels_holds_for_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(engine_module, "open_engine", lambda path, options: FakeEngine())
    (tmp_path / "model.onnx").write_bytes(b"a model")
    path = write_video(tmp_path / "clip.mp4")
    arguments = [str(path), "--engine", str(tmp_path / "model.onnx"), "-o", str(tmp_path / "out"), "-q"]
    assert main([*arguments, "--max-pixels", str(64 * 48 - 1)]) == 5
    assert "clip.mp4: too large: 64 x 48 = 3,072 pixels, the limit is 3,071" in capfd.readouterr().err
    assert main([*arguments, "--max-pixels", str(64 * 48)]) == 0


@pytest.mark.parametrize("size", [(47, 63), (17, 16), (2, 2)])
def test_odd_sizes_lose_a_row_or_column_of_the_overlay(tmp_path: Path, size: tuple[int, int]) -> None:
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"FFV1"), 10, (size[1], size[0]))
    for index in range(3):
        writer.write(color_picture(*size, index))
    writer.release()
    height, width = read_video(path)[0].shape[:2]
    saved = segment(path, tmp_path / "out")
    assert saved.size == (height, width)
    assert read_video(tmp_path / "out/overlay/clip.mp4")[0].shape[:2] == (height // 2 * 2, width // 2 * 2)


def test_the_command_mixes_pictures_and_videos(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = FakeEngine()
    monkeypatch.setattr(engine_module, "open_engine", lambda path, options: engine)
    (tmp_path / "model.onnx").write_bytes(b"a model")
    inputs = tmp_path / "in"
    inputs.mkdir()
    for name in ("a.png", "c.png"):
        Image.fromarray(color_picture(40, 40)).save(inputs / name)
    write_video(inputs / "b.mp4")
    (inputs / "d.mp4").write_bytes(b"no video")
    arguments = [str(inputs), "--engine", str(tmp_path / "model.onnx"), "-o", str(tmp_path / "out")]
    assert main(arguments) == 5
    lines = [json.loads(line) for line in (tmp_path / "out/results.jsonl").read_text().splitlines()]
    assert [(line["name"], line["status"], line["frames"]) for line in lines] == [
        ("a", "ok", None),
        ("b", "ok", 9),
        ("c", "ok", None),
        ("d", "error", None),
    ]
    assert lines[3]["error"] == "not a video that can be read"
    assert len(capsys.readouterr().err.splitlines()) == 1
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert (summary["video_frames"], summary["ok"]) == (9, 3)
    work = sum(line["seconds"] for line in lines if line["status"] == "ok")
    assert sum(summary["work_seconds"].values()) == pytest.approx(work, abs=0.005)
    engine.batches.clear()
    (inputs / "d.mp4").unlink()
    assert main([*arguments, "--resume"]) == 0
    assert engine.batches == []
    (tmp_path / "out/labels/b/000004.png").unlink()
    assert main([*arguments, "--resume"]) == 0
    assert sum(engine.batches) == 9 * 6
    assert len(list((tmp_path / "out/labels/b").iterdir())) == 9


def test_frames_that_cannot_be_written_are_told_like_pictures(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "labels").write_text("in the way of the folder")
    with pytest.raises(WriteError, match=r"^cannot write the files of clip under .*out: File exists$"):
        segment(write_video(tmp_path / "clip.mp4"), tmp_path / "out")
