"""The whole way: checkpoint, ONNX, pictures, masks. On the sample that the project ships, and on the extra data."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest
from PIL import Image

from algm_trt.exporter import ExportOptions, export_onnx
from algm_trt.exporter.cli import main as algm_export
from algm_trt.runtime import load
from algm_trt.runtime.cli import main as algm_infer
from algm_trt.runtime.decode import decode_image
from algm_trt.runtime.engine import Engine, open_engine
from algm_trt.runtime.engine_options import EngineOptions
from algm_trt.runtime.field import LogitField
from algm_trt.runtime.windows import WindowPlan, crop

GIB = 2**30


def test_sample_from_checkpoint_to_masks(
    sample_checkpoint: Path, sample_pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, out = tmp_path / "model.onnx", tmp_path / "masks"
    classes = sample_checkpoint / "classes.txt"
    assert algm_export([str(sample_checkpoint), "-o", str(model), "--classes", str(classes)]) == 0
    assert "FAILED" not in capsys.readouterr().out
    report = json.loads((tmp_path / "model.onnx.json").read_text())
    assert report["verification"]["passed"]
    assert report["card"]["classes"] == [line.split(",")[0] for line in classes.read_text().splitlines()]

    assert algm_infer([str(sample_pictures), "--engine", str(model), "-o", str(out)]) == 0
    pictures = sorted(sample_pictures.iterdir())
    for picture in pictures:
        found = np.asarray(Image.open(out / "labels" / f"{picture.stem}.png"))
        expected = np.asarray(Image.open(sample_pictures.parent / "labels" / f"{picture.stem}.png"))
        assert found.shape == expected.shape
        assert np.mean(found == expected) >= 0.88, picture.name
    summary = json.loads((out / "summary.json").read_text())
    assert summary["ok"] == len(pictures)
    assert summary["tokens"]["share_kept"] <= 0.7


def test_python_interface_on_the_sample(sample_model: Path, sample_pictures: Path, tmp_path: Path) -> None:
    path = sorted(sample_pictures.iterdir())[0]
    with load(sample_model, threads=2) as segmenter:
        from_path = segmenter(path)
        array = decode_image(path)
        from_array, from_pillow = segmenter([array, Image.fromarray(array)], logits=True)
        assert from_path.labels.shape == array.shape[:2]
        assert np.array_equal(from_path.labels, from_array.labels)
        assert np.array_equal(from_path.labels, from_pillow.labels)
        assert from_path.logits is None
        assert from_array.logits.shape == (len(segmenter.card.classes), *array.shape[:2])
        assert np.array_equal(from_array.logits.argmax(axis=0), from_array.labels)
        assert (np.diff(from_path.token_counts, axis=1) <= 0).all()
        assert from_path.overlay().shape == array.shape
        assert all(file.is_file() for file in from_path.save(tmp_path))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_result_of_a_picture_does_not_depend_on_its_batch(
    sample_checkpoint: Path, sample_pictures: Path, tmp_path: Path, precision: str
) -> None:
    options = ExportOptions(precision=precision, verify=False)
    report = export_onnx(sample_checkpoint, tmp_path / "model.onnx", options)
    engine = open_engine(report.path, EngineOptions(device="cpu", threads=2))
    _same_bits_in_any_batch(engine, _crops(engine, sorted(sample_pictures.iterdir()), 8))


@pytest.mark.shared
@pytest.mark.heavy
def test_result_of_a_photograph_does_not_depend_on_its_batch(shared: Path, tmp_path: Path) -> None:
    report = export_onnx(
        shared / "golden" / "models" / "mask128", tmp_path / "model.onnx", ExportOptions(size=(512, 512), verify=False)
    )
    engine = open_engine(report.path, EngineOptions(device="cpu", threads=2))
    photos = sorted((shared / "data" / "photos" / "real").glob("*.jpg"))
    _same_bits_in_any_batch(engine, _crops(engine, photos, 8))


def _crops(engine: Engine, pictures: list[Path], count: int) -> np.ndarray:
    """Unlike pictures of the model's input size."""
    height, width = engine.card.size
    paths = [pictures[index % len(pictures)] for index in range(count)]
    images = [cv2.resize(decode_image(path), (width, height), interpolation=cv2.INTER_AREA) for path in paths]
    return np.stack([np.roll(image, 7 * index, axis=1) for index, image in enumerate(images)])


def _same_bits_in_any_batch(engine: Engine, images: np.ndarray) -> None:
    together = engine.run(images)
    order = np.random.default_rng(0).permutation(len(images))
    shuffled = engine.run(images[order])
    for place, index in enumerate(order):
        alone = engine.run(images[index : index + 1])
        for field in ("logits", "labels", "token_counts", "token_map"):
            expected = getattr(alone, field)[0]
            assert np.array_equal(getattr(together, field)[index], expected), field
            assert np.array_equal(getattr(shuffled, field)[place], expected), field
    assert len({tuple(counts) for counts in together.token_counts.tolist()}) > 1


@pytest.mark.shared
@pytest.mark.parametrize("case", ["algm_bs1", "pure"])
def test_sliding_windows_agree_with_the_official_code(shared: Path, tmp_path: Path, case: str) -> None:
    golden = shared / "golden" / "cases" / "c08_sliding_768x1138"
    meta = json.loads((golden / "meta.json").read_text())
    merge = case != "pure"
    options = ExportOptions(
        size=(meta["window_size"],) * 2, threshold=meta["threshold"] if merge else None, merge=merge, verify=False
    )
    report = export_onnx(shared / "golden" / "models" / "mask128", tmp_path / "model.onnx", options)
    engine = open_engine(report.path, EngineOptions(device="cpu", threads=2))
    canvas = decode_image(shared / "golden" / "images" / f"{meta['images'][0]}.png")
    rows, columns = (tuple(sorted({anchor[axis] for anchor in meta["anchors"]})) for axis in (0, 1))
    plan = WindowPlan(tuple(meta["ori_shape"]), canvas.shape[:2], options.size, rows, columns)
    output = engine.run(np.stack([crop(canvas, plan, index) for index in range(len(plan))]))
    if merge:
        official = [merge["tokens_out"] for merge in meta[case]["merges"]]
        assert output.token_counts[:, 1:].flatten().tolist() == official
    labels = LogitField(plan, output.logits, engine.card.patch_size).labels()
    expected = np.asarray(Image.open(golden / f"{case}.png"))
    assert np.mean(labels == expected) >= 0.999


@pytest.mark.shared
@pytest.mark.heavy
def test_all_photographs_in_one_run(shared: Path, tmp_path: Path) -> None:
    """Good ones give masks of their upright size, broken ones a line with the cause; memory stays below 4 GiB."""
    photos = shared / "data" / "photos"
    report = export_onnx(shared / "checkpoints" / "camvid", tmp_path / "model.onnx", ExportOptions(verify=False))
    command = Path(sys.executable).with_name("algm-infer")
    out = tmp_path / "masks"
    process = psutil.Popen(
        [command, photos, "--recursive", "--engine", report.path, "-o", out, "--batch-size", "8", "--quiet"]
    )
    peak = 0
    while process.poll() is None:
        peak = max(peak, process.memory_info().rss)
        time.sleep(0.02)
    assert process.returncode == 5
    assert peak < 4 * GIB

    manifest = json.loads((photos / "manifest.json").read_text())["files"]
    lines = {json.loads(line)["path"]: json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()}
    assert len(lines) == len(manifest)
    for entry in manifest:
        line = lines[str(photos / entry["file"])]
        if entry["expect"] == "ok":
            assert line["status"] == "ok", line
            turned = entry["exif_orientation"] in (5, 6, 7, 8)
            size = (entry["height"], entry["width"]) if turned else (entry["width"], entry["height"])
            assert (line["width"], line["height"]) == size
            assert Image.open(out / "labels" / f"{line['name']}.png").size == size
        else:
            assert line["status"] == "error" or entry["expect"] == "error_or_partial", line
            assert line["status"] == "ok" or len(line["error"]) > 10
