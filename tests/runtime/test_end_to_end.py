"""A real ONNX model from pictures to files: batches, interrupts, killed runs, full disks, all the photographs."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from helpers.models import TINY, random_segmenter
from helpers.pictures import drawn_scene
from PIL import Image

from algm_trt.exporter.graph import build_graph
from algm_trt.runtime import load
from algm_trt.runtime.card import METADATA_KEY, MergeSettings, ModelCard
from algm_trt.runtime.class_lists import numbered_classes

COMMAND = [sys.executable, "-c", "import sys; from algm_trt.runtime.cli import main; sys.exit(main())"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Segmenter with random weights that merges."""
    merge = MergeSettings(layers=(1, 3), window=(2, 2), threshold=0.8)
    classes = numbered_classes(TINY.n_cls)
    card = ModelCard(
        classes=classes.classes,
        palette=classes.palette,
        size=TINY.image_size,
        patch_size=TINY.patch_size,
        stride=96,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        merge=merge,
    )
    graph = build_graph(random_segmenter(TINY, merge), TINY.image_size, "fp32")
    graph.metadata_props.add(key=METADATA_KEY, value=card.to_json())
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    onnx.save(graph, path)
    return path


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for index in range(40):
        Image.fromarray(drawn_scene(150 + index, 200, index)).save(folder / f"p{index:02d}.png")
    return folder


def results(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def drafts(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if ".part" in path.name]


def infer(model: Path, inputs: Path, out: Path, *arguments: str) -> list[str]:
    return [*COMMAND, str(inputs), "--engine", str(model), "-o", str(out), "--device", "cpu", *arguments]


def run(command: list[str], before: Callable[[], None] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, preexec_fn=before, timeout=300)


def test_results_are_the_same_bits_alone_and_in_any_batch(model: Path, pictures: Path) -> None:
    paths = sorted(pictures.iterdir())[:9]
    with load(model, device="cpu", threads=2) as segmenter:
        alone = {path: segmenter(path, logits=True) for path in paths}
        for batch_size, order in ((8, paths), (5, paths[::-1])):
            for path, result in zip(order, segmenter(order, batch_size=batch_size, logits=True), strict=True):
                assert np.array_equal(result.labels, alone[path].labels)
                assert np.array_equal(result.logits, alone[path].logits)
                assert np.array_equal(result.token_counts, alone[path].token_counts)
                assert np.array_equal(result.token_maps, alone[path].token_maps)


def test_the_threshold_decides_how_much_merges(model: Path, pictures: Path) -> None:
    with load(model, device="cpu") as segmenter:
        kept = [segmenter(pictures / "p00.png", threshold=threshold).token_counts for threshold in (2.0, 0.8, -1.0)]
    local = [int(counts[:, 1].sum()) for counts in kept]
    assert local[0] == kept[0][:, 0].sum() == 65 * len(kept[0])
    assert local[0] > local[1] > local[2] == 17 * len(kept[2])


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_a_run_that_is_stopped_goes_on_where_it_was(
    model: Path, pictures: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    out = tmp_path / "out"
    command = infer(model, pictures, out, "--save", "labels,overlay,npz", "--workers", "1")
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    lines = out / "results.jsonl"
    while not (lines.exists() and lines.read_bytes().count(b"\n") >= 4) and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(number)
    _, messages = process.communicate(timeout=60)
    assert process.returncode == code
    if number != signal.SIGKILL:
        assert messages == "algm-infer: interrupted; what is done stays valid, --resume goes on from there\n"
        assert drafts(out) == []
    before = [line["name"] for line in results(out)]
    assert 4 <= len(before) < 40
    done = run([*command, "--resume"])
    assert (done.returncode, done.stderr) == (0, "")
    assert f"40 of 40 inputs done ({len(before)} before)" in done.stdout
    assert [line["name"] for line in results(out)] == [f"p{index:02d}" for index in range(40)]
    assert drafts(out) == []
    whole = tmp_path / "whole"
    run(infer(model, pictures, whole, "--save", "labels"))
    for path in (whole / "labels").iterdir():
        assert path.read_bytes() == (out / "labels" / path.name).read_bytes()


def test_files_that_the_machine_refuses_are_error_lines(model: Path, pictures: Path, tmp_path: Path) -> None:
    def limit_files() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    out = tmp_path / "out"
    done = run(infer(model, pictures, out, "--save", "labels,probs"), limit_files)
    assert done.returncode == 5
    lines = results(out)
    assert len(lines) == 40
    assert {line["error"].rpartition(": ")[2] for line in lines} == {"File too large"}
    assert [path for path in out.rglob("*") if path.is_file()] == [out / "results.jsonl", out / "summary.json"]
    assert json.loads((out / "summary.json").read_text())["failed"] == 40


def test_a_progress_bar_on_a_terminal_only(model: Path, pictures: Path, tmp_path: Path) -> None:
    assert run(infer(model, pictures, tmp_path / "out")).stderr == ""
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    command = infer(model, pictures, tmp_path / "out")
    process = subprocess.Popen(command, stderr=theirs, stdout=subprocess.DEVNULL)
    os.close(theirs)
    shown = b""
    while True:
        try:
            chunk = os.read(ours, 4096)
        except OSError:
            break
        if not chunk:
            break
        shown += chunk
    os.close(ours)
    assert process.wait(timeout=60) == 0
    assert b"40/40" in shown
    assert b"image/s" in shown


@pytest.mark.shared
@pytest.mark.heavy
def test_all_photographs_in_one_run(model: Path, shared: Path, tmp_path: Path) -> None:
    photos = shared / "data" / "photos"
    out = tmp_path / "out"
    command = infer(model, photos, out, "--recursive", "--batch-size", "8")
    measured = f"import resource, subprocess, sys; code = subprocess.run({command!r}, stderr=-3).returncode;"
    measured += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(code)"
    done = run([sys.executable, "-c", measured])
    assert done.returncode == 5
    assert int(done.stdout.splitlines()[-1]) < 4 * 2**20, "more than 4 GiB"
    lines = {Path(line["path"]).relative_to(photos).as_posix(): line for line in results(out)}
    listed = json.loads((photos / "manifest.json").read_text())["files"]
    for entry in listed:
        line = lines.pop(entry["file"])
        if entry["expect"] in ("error", "refuse", "refuse_or_tile"):
            assert line["status"] == "error", entry["file"]
            assert line["error"]
        if entry["expect"] == "ok":
            assert line["status"] == "ok", entry["file"]
            size = entry["width"], entry["height"]
            if (entry["exif_orientation"] or 1) > 4:
                size = size[::-1]
            assert Image.open(out / "labels" / f"{line['name']}.png").size == size == (line["width"], line["height"])
    assert lines == {}
    assert drafts(out) == []
