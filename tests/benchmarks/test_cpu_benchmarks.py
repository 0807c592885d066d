"""The CPU benchmarks at a small scale: they run, and their records say what they should."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import camvid_tradeoff
import numpy as np
import pytest
import streams
import tables
import whole_job
from official_format import Training, write_checkpoint
from parts import backends, cpu_variants, networks, thresholds
from parts.cpu_variants import Plan, measure, ratios

from algm_trt.exporter import ExportOptions, export_onnx
from algm_trt.exporter.checkpoint import load_checkpoint
from algm_trt.runtime.engine import open_engine
from algm_trt.runtime.sources import find_sources
from algm_trt.runtime.timing import Samples


def test_halfway_threshold_is_where_half_of_the_windows_merge() -> None:
    config = networks.random_config("tiny", 512)
    similarities = np.random.default_rng(0).uniform(-1, 1, 256)
    found = thresholds.halfway_threshold(lambda at: 1025 - 3 * float((similarities >= at).sum()), config)
    assert (similarities >= found).sum() == pytest.approx(128, abs=1)


def test_a_checkpoint_of_the_examples_is_read_as_it_was_written(tmp_path: Path) -> None:
    config = networks.random_config("tiny", 64)
    model = networks.random_segmenter(config, networks.MERGE)
    training = Training(dataset="camvid", crop=64, short_side=64, batch_size=1, log_dir="test")
    for merge in (None, networks.MERGE):
        read = load_checkpoint(write_checkpoint(tmp_path, model, merge, training))
        assert read.merge == merge
        assert read.crop == (64, 64)
        assert read.config.grid == config.grid


@pytest.mark.heavy
def test_variants_of_a_small_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_variants, "SIZE", 128)
    found = measure(Plan("tiny", threads=1, rounds=2, pictures=None, count=2, official=None))
    rows = {(row["name"], row["kind"]): row for row in found["variants"]}
    assert ("our PyTorch FP32", "merged") in rows
    assert rows["ONNX Runtime FP32", "dense"]["tokens_at_the_end"] == [65, 65]
    assert rows["ONNX Runtime FP32", "merged"]["labels_equal_to_fp32"] > 0.999
    assert 0.5 < rows["ONNX Runtime int8", "merged"]["labels_equal_to_fp32"] < 0.999
    assert np.mean(found["windows_merged"]) == pytest.approx(0.5, abs=0.1)
    assert len(rows["ONNX Runtime FP32", "merged"]["ms_of_calls"]) == 2


def test_ratios_take_the_fastest_official_variant() -> None:
    def times(seconds: float) -> Samples:
        return Samples(((seconds,), (seconds,)))

    found = ratios(
        {
            ("official eager FP32", "dense"): times(4.0),
            ("official eager FP32", "merged"): times(3.0),
            ("official eager bf16", "merged"): times(2.0),
            ("ONNX Runtime FP32", "dense"): times(3.0),
            ("ONNX Runtime FP32", "merged"): times(1.5),
            ("OpenVINO bf16", "merged"): times(1.1),
        },
        gated=True,
    )
    fastest = found["OpenVINO bf16, merged over official eager bf16, merged"]
    assert fastest["times_as_fast"]["median"] == pytest.approx(2 / 1.1)
    assert not fastest["holds"]
    assert found["ONNX Runtime FP32, merged over ONNX Runtime FP32, dense"]["holds"]
    assert found["ONNX Runtime FP32, merged over official eager FP32, merged"]["holds"]


def test_whole_job_counts_what_cannot_be_read(
    tmp_path: Path, drawn_camvid: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    for picture in sorted((drawn_camvid / "images" / "test").iterdir()):
        (photographs / picture.name).write_bytes(picture.read_bytes())
    (photographs / "broken.jpg").write_bytes(b"\xff\xd8no picture")
    record = tmp_path / "job.json"
    only = ["--models", "sample", "--backends", "ONNX Runtime FP32", "--json", str(record)]
    monkeypatch.setattr(sys, "argv", ["whole_job.py", str(photographs), *only])
    whole_job.main()
    rows = json.loads(record.read_text())["models"][0]["variants"]
    assert [(row["kind"], row["streams"]) for row in rows] == [(k, s) for k in ("dense", "merged") for s in (1, 2)]
    assert {(row["done"], row["failed"], row["inputs"]) for row in rows} == {(3, 1, 4)}
    assert [row["tokens"]["share_kept"] < 1.0 for row in rows] == [False, False, True, True]
    assert all(row["images_per_second"]["median"] > 0 for row in rows)
    assert rows[2]["times_as_fast_as_one_stream"]["median"] == 1


@pytest.mark.heavy
def test_streams_of_a_small_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "SIZE", 128)
    monkeypatch.setattr(streams, "BACKENDS", {name: backends.BACKENDS[name] for name in ["ONNX Runtime FP32"]})
    found = streams.measure("tiny", threads=2, count=3, rounds=2)
    one, two = [row for row in found["variants"] if row["kind"] == "merged"]
    assert (one["streams"], two["streams"]) == (1, 2)
    assert one["times_as_fast_as_one_stream"]["median"] == 1
    assert two["windows_per_second"]["median"] > 0
    assert min(two["ms_of_one_window"].values()) > 0
    assert "dense, 2 streams" in tables.streams({"threads": 2, "models": [found]})


def test_a_threshold_is_found_on_the_photographs_that_can_be_read(tmp_path: Path, drawn_camvid: Path) -> None:
    config = networks.random_config("tiny", 64)
    training = Training(dataset="none", crop=64, short_side=64, batch_size=1, log_dir="test")
    folder = write_checkpoint(tmp_path, networks.random_segmenter(config, networks.MERGE), networks.MERGE, training)
    model = export_onnx(folder, tmp_path / "model.onnx", ExportOptions(verify=False)).path
    (tmp_path / "empty.jpg").touch()
    sources = find_sources([str(tmp_path / "empty.jpg"), str(drawn_camvid / "images" / "test")], recursive=False)
    found = whole_job.with_half_merging(load_checkpoint(folder), tmp_path, sources)
    windows = list(whole_job.first_windows(sources, open_engine(model).card))
    counts = [open_engine(model).run(window[None], found.merge.threshold).token_counts[0, 1] for window in windows]
    assert len(windows) == 3
    assert np.mean(counts) == pytest.approx(1 + 16 - 3 * 2, abs=1.5)


def test_tradeoff_needs_the_accuracy_of_the_same_checkpoint(tmp_path: Path, sample_checkpoint: Path) -> None:
    accuracy = tmp_path / "camvid_cpu.json"
    accuracy.write_text(json.dumps({"settings": {"checkpoint_sha256": "another"}, "curve": []}))
    with pytest.raises(SystemExit, match="another checkpoint"):
        camvid_tradeoff.curve_of(accuracy, load_checkpoint(sample_checkpoint))


@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_tradeoff_is_drawn_the_same_every_time(tmp_path: Path, suffix: str) -> None:
    pytest.importorskip("matplotlib", reason="the plot needs the extra plot")
    points = [
        {"threshold": threshold, "mean_iou": quality, "images_per_second": {"median": rate}}
        for threshold, quality, rate in ((None, 0.32, 3.0), (0.9, 0.31, 6.0), (0.5, 0.29, 8.0))
    ]
    one, other = (tmp_path / f"{name}{suffix}" for name in "ab")
    for path in (one, other):
        camvid_tradeoff.draw(points, "backend", path)
    assert one.stat().st_size > 1000
    assert one.read_bytes() == other.read_bytes()
