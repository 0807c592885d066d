"""README.md: its figures are the recorded ones, its links lead somewhere, its commands have the options shown."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from algm_trt.engines.cli import main as build_engine
from algm_trt.engines.doctor.cli import main as doctor
from algm_trt.exporter.cli import main as export
from algm_trt.plugins.build import main as build_plugins
from algm_trt.runtime.bench.cli import main as bench
from algm_trt.runtime.cli import main as infer
from algm_trt.runtime.evaluation.cli import main as evaluate

ROOT = Path(__file__).parents[1]
COMMANDS = {
    "algm-bench": bench,
    "algm-build-engine": build_engine,
    "algm-build-plugins": build_plugins,
    "algm-doctor": doctor,
    "algm-eval": evaluate,
    "algm-export": export,
    "algm-infer": infer,
}
PAGES = ["README.md", "examples/README.md", "benchmarks/README.md"]
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")
COMMAND = re.compile(r"(algm-[a-z]+(?:-[a-z]+)?) ([^`#\n]*)")


def recorded(name: str) -> Any:
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text(encoding="utf-8"))


def readme() -> str:
    """The page with every line break as one space."""
    return " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    path = ROOT / page
    links = LINK.findall(path.read_text(encoding="utf-8"))
    assert [link for link in links if not (path.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES)
def test_commands_have_the_options_shown(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    shown = COMMAND.findall((ROOT / page).read_text(encoding="utf-8"))
    for command, rest in shown:
        with pytest.raises(SystemExit):
            COMMANDS[command](["--help"])
        known = capsys.readouterr().out
        for option in re.findall(r"(?<!\S)--?[a-z][a-z0-9-]*", rest):
            assert re.search(rf"(?<![\w-]){option}(?![\w-])", known), f"{command} has no {option}"


def test_figures_of_the_official_code() -> None:
    golden, text = recorded("golden"), readme()
    assert sum(row["backend"] == "onnxruntime" for row in golden["rows"] if "max_score_difference" in row) == 16
    assert golden["max_score_difference"] < 1e-5
    assert golden["token_counts_equal"]
    assert golden["patches_in_another_token"] == 0
    assert golden["least_labels_equal"] >= 0.999992
    assert golden["least_labels_equal_sliding"] == 1
    assert "16 outputs of the official code" in text
    assert "within 1e-5" in text
    assert "at least 99.9992 % equal" in text


def test_figures_of_merging() -> None:
    merging, text = recorded("merging_cpu"), readme()
    times = merging["median_ms"]
    assert f"{times['merged']:.0f} ms against {times['dense']:.0f} ms" in text
    assert f"{merging['speedup_merged_over_dense']:.2f} times as fast" in text
    assert f"the labels take {merging['labels_in_model_share']:.0%}".replace("%", " %") in text


def test_figures_of_all_ways_on_a_cpu() -> None:
    table, text = recorded("cpu_table"), readme()
    (run,) = (run for run in table["runs"] if run["backbone"] == "vit_small" and run["threads"] == 2)
    merged = {row["name"]: row["ms"]["median"] for row in run["variants"] if row["kind"] == "merged"}
    official = {name: time for name, time in merged.items() if name.startswith("official")}
    assert min(official, key=official.__getitem__) == "official compiled bf16"
    fastest, eager = official["official compiled bf16"], official["official eager FP32"]
    assert f"{fastest:.0f} ms, official FP32 {eager:.0f} ms" in text
    ours = [merged[name] for name in ("ONNX Runtime FP32", "OpenVINO FP32", "OpenVINO bf16")]
    assert "ONNX Runtime {:.0f} ms, OpenVINO {:.0f} ms, OpenVINO in bfloat16 {:.0f} ms".format(*ours) in text
    equal = sorted(row["labels_equal"] for row in table["trained"])
    assert " and ".join(f"{100 * share:.2f} %" for share in equal) in text


def test_figures_of_camvid() -> None:
    tradeoff, models, text = recorded("camvid_tradeoff"), recorded("camvid_cpu"), readme()
    training = tradeoff["training_threshold"]
    speed = {row["threshold"]: row["images_per_second"]["median"] for row in tradeoff["curve"]}
    assert f"{speed[training]:.1f} images/s at the training threshold, {speed[None]:.1f} dense" in text
    dense, merged = (row for row in models["curve"] if row["threshold"] in (None, training))
    assert f"dense {100 * dense['mean_iou']:.2f} mIoU" in text
    assert f"merged {100 * merged['mean_iou']:.2f} with {merged['tokens_kept']:.0%}".replace("%", " %") in text
