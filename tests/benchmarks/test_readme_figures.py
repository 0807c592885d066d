"""Figures that stand in prose are those of the recorded results: the README, and the sample's accuracy."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

import pytest
import tables

ROOT = Path(__file__).parents[2]
Record = dict[str, Any]

# A number that stands by itself: not the 16 of float16 or the 512s of 512x512.
NUMBER = re.compile(r"(?<![\w./-])\d+(?:\.\d+)?(?:e-?\d+)?(?![\w/-]|\.\d)")


def rows_of(text: str) -> list[list[str]]:
    """Cells of the rows of a Markdown table."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines][2:]


def readme_rows() -> list[tuple[str, str, str]]:
    """What, figure and file name of each row of the README's table of figures."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text.split("## What it is held to")[1].split("\n## ")[0]
    rows = []
    for what, figure, source in rows_of(section):
        link = re.fullmatch(r"\[([\w.]+)\]\(benchmarks/results/\1\)", source)
        assert link, f"'{source}' does not name a recorded result"
        rows.append((what, re.sub(r"\]\([^)]*\)", "]", figure), link[1]))
    return rows


def recorded(name: str) -> Record:
    data: Record = json.loads((tables.RESULTS / name).read_text(encoding="utf-8"))
    return data


def rounded_down(value: float, digits: int) -> str:
    return f"{math.floor(value * 10**digits) / 10**digits:.{digits}f}"


def power_above(value: float) -> float:
    """The least power of ten that is not below a value."""
    return float(f"1e{math.ceil(math.log10(value))}")


def golden(record: Record) -> list[str]:
    assert record["token_counts_equal"]
    assert record["patches_in_another_token"] == 0
    forward = [row for row in record["rows"] if "max_score_difference" in row]
    return [
        str(len(forward) // 2),
        f"{power_above(record['max_score_difference']):.0e}".replace("e-0", "e-"),
        rounded_down(100 * record["least_labels_equal"], 4),
    ]


def sliding(record: Record) -> list[str]:
    assert record["least_labels_equal_sliding"] == 1
    return []


def camvid(record: Record) -> list[str]:
    dense, merged = record["curve"][0], at_training(record["curve"], record["settings"]["training_threshold"])
    names = ("FP16 from FP32", "FP32 from PyTorch", "int8 from FP32")
    names = (*(f"ONNX Runtime {name}" for name in names), "OpenVINO bf16 from FP32")
    differences = [abs(100 * record["claims"][name]["miou_difference"]) for name in names]
    shares = [f"{100 * dense['mean_iou']:.2f}", f"{100 * merged['mean_iou']:.2f}", f"{100 * merged['tokens_kept']:.0f}"]
    return [str(dense["pictures"]), *shares, *(f"{difference:.2g}" for difference in differences)]


def merging(record: Record) -> list[str]:
    times = record["median_ms"]
    what = re.findall(r"(\d+) (?:classes|threads)", record["what"])
    share = f"{100 * record['labels_share']:.0f}"
    return [
        *what,
        f"{times['merged']:.0f}",
        f"{times['dense']:.0f}",
        f"{record['speedup_merged_over_dense']:.2f}",
        share,
    ]


def cpu_table(record: Record) -> list[str]:
    run = next(run for run in record["runs"] if "d384" in run["model"] and run["threads"] == 2)
    times = {row["name"]: row["ms"]["median"] for row in run["variants"] if row["kind"] == "merged"}
    official = {name: value for name, value in times.items() if name.startswith("official")}
    assert min(official, key=lambda name: official[name]) == "official compiled bf16"
    names = ("official compiled bf16", "official eager FP32", "ONNX Runtime FP32", "OpenVINO FP32")
    figures = ["2", *(f"{times[name]:.0f}" for name in names)]
    for name in ("OpenVINO bf16", "ONNX Runtime int8"):
        equal = sorted(100 * row["labels_equal"] for row in record["trained"] if row["name"] == name)
        figures += [f"{times[name]:.0f}", *(f"{share:.2f}" for share in equal)]
    return figures


def browser(record: Record) -> list[str]:
    times = {}
    for result in record["results"]:
        times[result["network"]] = {row["model"]: row["ms"] for row in result["models"]}
        if result["network"] == "sample":
            assert {row["labels_equal"] for row in result["models"]} == {1.0}
            assert {row["pictures_with_equal_counts"] for row in result["models"]} == {result["pictures"]}
    return [f"{times['vit_small']['dense'] / times['vit_small']['merged']:.2f}"]


def tradeoff(record: Record) -> list[str]:
    merged = at_training(record["curve"], record["training_threshold"])
    assert len(record["curve"]) == 1 + 7, "the README says seven thresholds"
    return [f"{row['images_per_second']['median']:.1f}" for row in (merged, record["curve"][0])]


def at_training(curve: list[Record], threshold: float) -> Record:
    return next(row for row in curve if row["threshold"] == threshold)


FIGURES: list[tuple[str, Callable[[Record], list[str]]]] = [
    ("golden.json", golden),
    ("golden.json", sliding),
    ("camvid_cpu.json", camvid),
    ("merging_cpu.json", merging),
    ("cpu_table.json", cpu_table),
    ("camvid_tradeoff.json", tradeoff),
    ("onnxruntime_web.json", browser),
]


def test_every_row_of_the_readme_is_checked() -> None:
    assert [name for _, _, name in readme_rows()] == [name for name, _ in FIGURES]


@pytest.mark.parametrize("number", range(len(FIGURES)))
def test_figures_of_the_readme_are_recorded(number: int) -> None:
    what, figure, name = readme_rows()[number]
    assert NUMBER.findall(f"{what} {figure}") == FIGURES[number][1](recorded(name))


def test_what_bfloat16_gains_on_another_processor() -> None:
    """The sentence of benchmarks/README.md against the record that it names."""
    text = " ".join((ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8").split())
    sentence = re.search(r"it was ([\d.]+)x with one thread and ([\d.]+)x with two \(`(\w+\.json)`\)", text)
    assert sentence
    runs = [run for run in recorded(sentence[3])["runs"] if run["backbone"] == "vit_small"]
    over = "OpenVINO bf16, merged over official"
    found = {
        run["threads"]: ratio["times_as_fast"]["median"]
        for run in runs
        for name, ratio in run["ratios"].items()
        if name.startswith(over)
    }
    assert [f"{found[threads]:.2f}" for threads in (1, 2)] == [sentence[1], sentence[2]]


def test_accuracy_of_the_sample() -> None:
    """The table of examples/README.md against what training recorded."""
    file = ROOT / "examples" / "sample" / "metrics.json"
    record = json.loads(file.read_text(encoding="utf-8"), parse_float=Decimal)
    text = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
    assert f"On {record['held_out_scenes']} scenes" in text
    rows = [row for row in rows_of(text.split("metrics.json")[1]) if row[0].startswith(("dense", "merged"))]
    assert len(rows) == 1 + len(record["merged"])
    for name, *figures in rows:
        threshold = re.search(r"threshold ([\d.]+)", name)
        found = record["merged"][threshold[1]] if threshold else record["dense"]
        digits = {"pixel_accuracy": "0.1", "mean_iou": "0.1", "tokens_kept": "1"}
        assert figures == [
            f"{(100 * found[key]).quantize(Decimal(unit), ROUND_HALF_UP)} %" for key, unit in digits.items()
        ]
