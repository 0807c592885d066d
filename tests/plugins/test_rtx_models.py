"""Rung L3: NVIDIA's parser and builder take complete FP16 exports with the plugin library, for devices not here."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from helpers.models import random_segmenter
from helpers.rtx import TARGETS, RtxReport, build_with_rtx

from algm_trt.exporter.config import SegmenterConfig
from algm_trt.exporter.graph import build_graph
from algm_trt.plugins import spec
from algm_trt.runtime.card import MergeSettings

pytestmark = [pytest.mark.rtx, pytest.mark.heavy]

SIZE = (512, 512)
MERGE = MergeSettings(layers=(1, 5), window=(2, 2), threshold=0.9)
LARGEST_BATCH = 8


def config(width: int, **changes: object) -> SegmenterConfig:
    heads = width // 64
    values: dict[str, object] = {
        "image_size": SIZE,
        "patch_size": 16,
        "d_model": width,
        "n_layers": 12,
        "n_heads": heads,
        "d_ff": 4 * width,
        "n_cls": 150,
        "decoder_heads": heads,
    }
    return SegmenterConfig(**(values | changes))  # type: ignore[arg-type]


MODELS = {
    "vit_tiny": config(192),
    "vit_small": config(384),
    "linear decoder": config(192, decoder="linear", decoder_layers=0),
    "distilled": config(192, distilled=True, normalization="deit"),
}


def build(model: onnx.ModelProto, library: Path | None, sm: str) -> RtxReport:
    """Build with the functions stripped: a missing plugin must fail, not build the slow graph."""
    stripped = onnx.ModelProto()
    stripped.CopyFrom(model)
    del stripped.functions[:]
    shapes = tuple((batch, *SIZE, 3) for batch in (1, 4, LARGEST_BATCH))
    profile = {"images": shapes}
    return build_with_rtx(stripped.SerializeToString(), library, sm, profile)


@pytest.mark.parametrize("sm", TARGETS)
@pytest.mark.parametrize("name", MODELS)
def test_complete_export_builds(name: str, sm: str, plugin_library: Path) -> None:
    model = build_graph(random_segmenter(MODELS[name], MERGE), SIZE, "fp16")
    report = build(model, plugin_library, sm)
    assert report.errors == []
    assert report.unused_inputs == []
    assert report.plugin_layers == sum(node.domain == spec.DOMAIN for node in model.graph.node)
    assert report.plan_bytes > 0
    assert report.outputs["logits"][1] == [-1, 150, 32, 32]
    assert report.outputs["labels"][1] == [-1, *SIZE]


def test_activation_memory_is_of_the_order_of_the_dense_model(plugin_library: Path) -> None:
    merged = build(build_graph(random_segmenter(MODELS["vit_small"], MERGE), SIZE, "fp16"), plugin_library, "SM89")
    dense = build(build_graph(random_segmenter(MODELS["vit_small"], None), SIZE, "fp16"), plugin_library, "SM89")
    assert merged.activation_bytes is not None
    assert dense.activation_bytes is not None
    assert merged.activation_bytes < 4 * dense.activation_bytes


def test_without_the_library_nothing_is_built() -> None:
    report = build(build_graph(random_segmenter(MODELS["vit_tiny"], MERGE), SIZE, "fp16"), None, "SM89")
    assert report.plan_bytes == 0
    assert any("Algm" in error for error in report.errors)
