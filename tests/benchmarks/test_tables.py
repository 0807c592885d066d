"""Tables of benchmarks/README.md come from the recorded results."""

from __future__ import annotations

import json
from typing import Any

import pytest
import tables

RUN: dict[str, Any] = {
    "model": "ViT",
    "threads": 1,
    "pictures": "4 drawn scenes",
    "windows_merged": [0.4, 0.6],
    "variants": [
        {
            "name": "ONNX Runtime FP32",
            "kind": kind,
            "ms": {"lower_quartile": ms, "median": ms, "upper_quartile": ms},
            "tokens_at_the_end": [tokens, None],
            "labels_equal_to_fp32": 1.0,
        }
        for kind, ms, tokens in (("dense", 400.0, 1025), ("merged", 200.0, 430))
    ],
    "ratios": {
        "ONNX Runtime FP32, merged over ONNX Runtime FP32, dense": {
            "times_as_fast": {"lower_quartile": 1.9, "median": 2.0, "upper_quartile": 2.1},
            "least": 1.6,
            "holds": True,
        }
    },
    "not_run": {"OpenVINO bf16, merged": "not installed"},
}


def test_readme_shows_the_tables_of_the_recorded_results() -> None:
    text = tables.README.read_text(encoding="utf-8")
    assert text == tables.filled(text), "renew it with: python benchmarks/tables.py --write"


def test_readme_has_a_block_for_every_table() -> None:
    blocks = [match[1] for match in tables.BLOCK.finditer(tables.README.read_text(encoding="utf-8"))]
    assert sorted(blocks) == sorted(tables.TABLES)


@pytest.mark.parametrize("name", tables.TABLES)
def test_every_recorded_result_makes_a_table(name: str) -> None:
    recorded = (tables.RESULTS / name).is_file()
    assert (tables.table(name) != tables.MISSING) == recorded


def test_a_table_without_a_result_says_so() -> None:
    assert tables.filled("<!-- table: train_camvid.json -->\nold\n<!-- end -->\n").count("old") == 0


def test_cpu_table_has_times_ratios_and_what_was_left_out() -> None:
    text = tables.cpu_table({"runs": [RUN], "trained": [{"checkpoint": "sample", "not_run": "not installed"}]})
    assert "ViT, one thread, 4 drawn scenes, 50 % of the windows merged:" in text
    assert "| ONNX Runtime FP32 | 400 | 200 | 2.00x | 430 | 100.00 % |" in text
    assert "2.00x [1.90 2.10] | >= 1.6x, holds |" in text
    assert "Left out: OpenVINO bf16, merged (not installed)" in text


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [(1.0, 2, "100.00 %"), (0.999996, 2, "99.99 %"), (0.9999956, 3, "99.999 %"), (0.96, 0, "96 %"), (0.999, 0, "99 %")],
)
def test_almost_all_is_not_all(value: float, digits: int, text: str) -> None:
    assert tables._percent(value, digits) == text


def test_a_promise_that_is_broken_is_shown() -> None:
    broken = json.loads(json.dumps(RUN))
    broken["ratios"]["ONNX Runtime FP32, merged over ONNX Runtime FP32, dense"]["holds"] = False
    assert "**does not hold**" in tables.cpu_table({"runs": [broken], "trained": []})


def test_training_that_was_cut_off() -> None:
    tested = {"run": "dense", "mean_iou": 0.5, "pixel_accuracy": 0.9, "tokens_kept": 1.0, "pictures": 2}
    record = {
        "network": "ViT",
        "steps": 3,
        "batch": 2,
        "start": "random",
        "layers": [1, 5],
        "threshold": 0.9,
        "device": "CPU",
        "trained": {"dense": {"test": [tested]}, "algm": {}},
    }
    text = tables.train_camvid(record)
    assert "| trained dense, run dense | 50.00 | 90.00 | 100.0 % | 2 |" in text
    assert "The speed was not measured." in text
