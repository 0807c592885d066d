"""Rung L3 on complete models: TensorRT-RTX builds FP16 exports with the plugin library, functions stripped."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.rtx import TARGETS, RtxReport, build_with_rtx, missing_reason

from algm_trt.exporter.config import SegmenterConfig
from algm_trt.exporter.graph import build_graph
from algm_trt.exporter.segmenter import Segmenter
from algm_trt.plugins.spec import DOMAIN
from algm_trt.runtime.card import MergeSettings

pytestmark = [
    pytest.mark.rtx,
    pytest.mark.heavy,
    pytest.mark.skipif(missing_reason() is not None, reason=str(missing_reason())),
]

SIZE = (512, 512)
CLASSES = 150
SMALL = {"d_model": 192, "n_heads": 3, "decoder_heads": 3}
LARGER = {"d_model": 384, "n_heads": 6, "decoder_heads": 6}
MODELS = {
    "vit-ti-mask": SMALL,
    "vit-ti-linear": {**SMALL, "decoder": "linear", "decoder_layers": 0},
    "vit-ti-distilled": {**SMALL, "distilled": True, "normalization": "deit"},
    "vit-s-mask": LARGER,
}


def export(name: str, *, merge: bool = True) -> tuple[bytes, int]:
    """An FP16 export with random weights, functions stripped, and the number of its operators of ours."""
    config = SegmenterConfig(
        image_size=SIZE,
        patch_size=16,
        n_layers=12,
        d_ff=4 * int(MODELS[name]["d_model"]),
        n_cls=CLASSES,
        **MODELS[name],
    )
    settings = MergeSettings(layers=(1, 5), window=(2, 2), threshold=0.88) if merge else None
    model = build_graph(Segmenter(config, settings).eval(), SIZE, "fp16")
    del model.functions[:]
    return model.SerializeToString(), sum(node.domain == DOMAIN for node in model.graph.node)


def build(model: bytes, library: Path, sm: str) -> RtxReport:
    return build_with_rtx(model, library, sm, {"images": ((1, *SIZE, 3), (4, *SIZE, 3), (8, *SIZE, 3))})


@pytest.mark.parametrize("name", MODELS)
def test_complete_export_builds_for_every_target(name: str, plugin_library: Path) -> None:
    model, operators = export(name)
    for sm in TARGETS:
        report = build(model, plugin_library, sm)
        assert report.errors == []
        assert report.unused_inputs == []
        assert report.plugin_layers == operators > 10
        assert report.plan_bytes > 2**20
        assert report.outputs["logits"][1] == [-1, CLASSES, 32, 32]
        assert report.outputs["labels"] == ("UINT8", [-1, *SIZE])


@pytest.mark.parametrize("name", ["vit-ti-mask", "vit-s-mask"])
def test_merging_takes_no_more_memory_than_the_dense_model(name: str, plugin_library: Path) -> None:
    merged = build(export(name)[0], plugin_library, "SM80").activation_bytes
    dense = build(export(name, merge=False)[0], plugin_library, "SM80").activation_bytes
    assert merged is not None
    assert dense is not None
    assert merged < 1.25 * dense
