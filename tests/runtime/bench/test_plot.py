"""The plot of algm-bench: what stands on its axes, and that equal figures make equal files."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from helpers.bench import install
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from PIL import Image

from algm_trt.plugins.errors import UsageError
from algm_trt.runtime.bench import plot
from algm_trt.runtime.bench.figures import TokenFigures
from algm_trt.runtime.bench.plot import _place_labels, check_plot, draw_plot
from algm_trt.runtime.bench.report import BenchOptions, BenchReport
from algm_trt.runtime.bench.run import run_bench
from algm_trt.runtime.timing import Samples


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> BenchReport:
    return measured(monkeypatch, tmp_path)


def measured(monkeypatch: pytest.MonkeyPatch, folder: Path, **options: object) -> BenchReport:
    install(monkeypatch, folder)
    given = {"models": ("merged.onnx", "dense.onnx"), "thresholds": (0.5, 0.9), "batches": (1, 2), "pictures": 2}
    return run_bench(BenchOptions(quiet=True, rounds=2, whole_job=False, **(given | options)))  # type: ignore[arg-type]


def test_what_stands_in_the_plot(report: BenchReport, tmp_path: Path) -> None:
    target = tmp_path / "plot.svg"
    draw_plot(report, target)
    text = target.read_text()
    for words in (
        "tokens kept (%)",
        "images/s, model alone",
        "(32x32, batch of 2, unlike pictures)",
        "merged.onnx",
        "dense.onnx (dense)",
        ">0.5<",
        ">0.9<",
    ):
        assert words in text
    assert "mean IoU" not in text
    again = tmp_path / "again.svg"
    draw_plot(report, again)
    assert again.read_bytes() == target.read_bytes()


def test_models_of_unlike_batches_and_sizes_say_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    models = ("wide.onnx", "small.plan")
    report = measured(monkeypatch, tmp_path, models=models, batches=(2, 8), pictures=8, repeat_one=True)
    draw_plot(report, tmp_path / "plot.svg")
    text = (tmp_path / "plot.svg").read_text()
    assert "(one picture repeated)" in text
    assert "wide.onnx (24x40, batch of 8)" in text
    assert "small.plan (32x32, batch of 2)" in text


@pytest.mark.parametrize("suffix", [".png", ".PNG", ".svg", ".pdf"])
def test_the_suffix_chooses_the_format(report: BenchReport, tmp_path: Path, suffix: str) -> None:
    target = tmp_path / "new" / f"plot{suffix}"
    check_plot(target)
    draw_plot(report, target)
    assert target.stat().st_size > 2000
    if suffix.lower() == ".png":
        with Image.open(target) as picture:
            picture.verify()
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def test_labels_of_points_that_lie_close_do_not_cover_each_other() -> None:
    figure = Figure(figsize=(5, 3.5), layout="constrained")
    axes = figure.add_subplot()
    points = [(20 + index % 3, 30 + index % 2) for index in range(6)] + [(90, 90)]
    (line,) = axes.plot(*zip(*points, strict=True), "o", markersize=5)
    labels = [axes.annotate("0.95", point, (0, 0), textcoords="offset points", fontsize=7) for point in points[:-1]]
    nameless = axes.annotate("", points[-1], (0, 0), textcoords="offset points")
    _place_labels(figure, axes, axes.legend([line], ["a model"]))
    boxes = [label.get_window_extent() for label in labels]
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
    centres = [axes.transData.transform(point) for point in points]
    assert not any(box.contains(*centre) for box in boxes for centre in centres)
    assert nameless.get_position() == (0, 0)


def test_the_text_of_the_highest_point_is_inside(
    report: BenchReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heights: list[float] = []

    def place(figure: Figure, axes: Axes, legend: Legend) -> None:
        _place_labels(figure, axes, legend)
        heights.extend([*(text.get_window_extent().y1 for text in axes.texts), figure.bbox.y1])

    monkeypatch.setattr(plot, "_place_labels", place)
    seconds = [Samples(((1 / rate,), (1 / rate,))) for rate in (64, 64, 50, 50, 34, 34)]
    results = [
        replace(result, model=replace(result.model, samples=times, sizes=(1,)))
        for result, times in zip(report.results, seconds, strict=True)
    ]
    draw_plot(replace(report, results=tuple(results)), tmp_path / "plot.svg")
    *texts, top = heights
    assert len(texts) == 3
    assert max(texts) <= top


def test_points_that_hardly_differ_lie_close(
    report: BenchReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spans: list[float] = []

    def place(figure: Figure, axes: Axes, legend: Legend) -> None:
        left, right = axes.get_xlim()
        spans.append(right - left)

    monkeypatch.setattr(plot, "_place_labels", place)
    alike = [
        replace(result, tokens=TokenFigures(np.array([[10**6, kept, kept]], np.int32)))
        for result, kept in zip(report.results[3::2], (500_000, 500_001), strict=True)
    ]
    draw_plot(replace(report, results=tuple(alike)), tmp_path / "plot.svg")
    draw_plot(report, tmp_path / "plot.svg")
    assert spans[0] == pytest.approx(1)
    assert spans[1] > 1


def test_dollars_in_a_name_are_dollars(report: BenchReport, tmp_path: Path) -> None:
    variant = replace(report.results[0].variant, model="$a_$.onnx")
    named = replace(report, results=(replace(report.results[0], variant=variant),))
    draw_plot(named, tmp_path / "plot.svg")
    assert "$a_$.onnx" in (tmp_path / "plot.svg").read_text()


def test_other_formats_are_refused() -> None:
    with pytest.raises(UsageError, match="must end in"):
        check_plot(Path("plot.gif"))
