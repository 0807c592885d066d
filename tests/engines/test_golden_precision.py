"""Float16 against float32 on ONNX Runtime for the networks, settings and photographs of the golden cases.

The networks have random weights: their first attention is sharp and multiplies roundings, and labels hang on few
digits. Half of the cases need float32 up to the first merge. A trained network does not (`test_agreement.py`, the
sample).
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.engines import compare_precisions

from algm_trt.engines.agreement import fit_float16
from algm_trt.engines.source import read_model
from algm_trt.exporter import ExportOptions, export_onnx
from algm_trt.plugins.errors import UsageError
from algm_trt.runtime.card import ModelCard
from algm_trt.runtime.check_pictures import Picture
from algm_trt.runtime.decode import decode_image
from algm_trt.runtime.windows import canvas_image, plan_whole

pytestmark = [pytest.mark.shared, pytest.mark.heavy]

CASES = (
    "c01_mask_512_w2",
    "c02_mask_480_w2",
    "c03_mask_512_w4",
    "c04_mask_pad500x505",
    "c05_mask_300x451_nonsquare",
    "c06_linear_512_w2",
    "c07_distilled_512",
    "c09_batch4_512",
)


def export(golden: Path, meta: dict[str, object], path: Path) -> Path:
    """The case's network; dense where the merging window does not divide the grid."""
    settings = {
        "merge_layers": tuple(meta["selected_layers"]),  # type: ignore[arg-type]
        "merge_window": tuple(meta["merging_window_size"]),  # type: ignore[arg-type]
        "threshold": meta["threshold"],
    }
    common = {"size": tuple(meta["input_hw"]), "verify": False}  # type: ignore[arg-type]
    checkpoint = golden / "models" / str(meta["model"])
    try:
        return export_onnx(checkpoint, path, ExportOptions(**common, **settings)).path  # type: ignore[arg-type]
    except UsageError:
        return export_onnx(checkpoint, path, ExportOptions(**common, merge=False)).path  # type: ignore[arg-type]


def photograph(path: Path, card: ModelCard) -> Picture:
    picture = decode_image(path)
    return path.stem, canvas_image(picture, plan_whole((picture.shape[0], picture.shape[1]), card.size))


@pytest.mark.parametrize("case", CASES)
def test_float16_keeps_golden_labels(case: str, shared: Path, tmp_path: Path) -> None:
    golden = shared / "golden"
    meta = json.loads((golden / "cases" / case / "meta.json").read_text())
    source = read_model(export(golden, meta, tmp_path / "model.onnx"))
    pictures = [photograph(golden / "images" / f"{name}.png", source.card) for name in meta["images"]]
    half, agreement = fit_float16(source.proto, source.card, pictures)
    print(f"{case}: labels {agreement.labels_equal:.4%}, tokens {agreement.tokens_difference:.3%}")
    print(agreement.table())
    # With all roundings in place labels hang on the last digits: scores that differ by 0.007 change 1.5 % of c03's.
    assert agreement.labels_equal > 0.98, agreement.table()
    # ONNX Runtime 1.23 to 1.26 misses this gate in c02 by 44 of 230400 pixels (99.481 %), with the tokens of all other
    # versions: from 1.23 on it drops half of the roundings that 1.22 makes, and before 1.27 its layer normalisation is
    # less exact.
    as_onnx_runtime_does = compare_precisions(source.proto, half, source.card, pictures)
    assert as_onnx_runtime_does.passed, as_onnx_runtime_does.table()
