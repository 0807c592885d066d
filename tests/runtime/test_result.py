"""A result: pictures made from it, probabilities, logits, text for people."""

from __future__ import annotations

import io
import json
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.fake_engine import PALETTE, FakeEngine, color_picture, make_card
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

from algm_trt.plugins.errors import MissingDependencyError, UsageError
from algm_trt.runtime.field import LogitField
from algm_trt.runtime.result import SegmentationResult
from algm_trt.runtime.segmenter import Segmenter
from algm_trt.runtime.window_runner import HostScores
from algm_trt.runtime.windows import plan_slide


@pytest.fixture
def picture() -> NDArray[np.uint8]:
    return color_picture(45, 71)


@pytest.fixture
def result(picture: NDArray[np.uint8]) -> SegmentationResult:
    return Segmenter(FakeEngine())(picture)


def test_colors_are_the_palette_of_the_labels(result: SegmentationResult) -> None:
    assert np.array_equal(result.colors(), np.asarray(PALETTE, np.uint8)[result.labels])


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_overlay_mixes_picture_and_colors(result: SegmentationResult, alpha: float) -> None:
    expected = (1 - alpha) * result.image.astype(float) + alpha * result.colors()
    overlay = result.overlay(alpha)
    assert overlay.dtype == np.uint8
    assert np.abs(overlay - expected).max() <= 0.51


def test_overlay_is_half_picture_half_colors(result: SegmentationResult) -> None:
    assert np.array_equal(result.overlay(), result.overlay(0.5))


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_overlay_refuses_alpha_outside_the_unit_interval(result: SegmentationResult, alpha: float) -> None:
    with pytest.raises(UsageError, match="alpha"):
        result.overlay(alpha)


def test_a_pillow_picture_is_the_file_of_labels(result: SegmentationResult, tmp_path: Path) -> None:
    picture = result.to_pil()
    (path,) = result.save(tmp_path, what="labels")
    with Image.open(path) as saved:
        assert (picture.mode, picture.size) == (saved.mode, saved.size) == ("P", (71, 45))
        assert picture.getpalette() == saved.getpalette()
    assert np.array_equal(np.asarray(picture), result.labels)
    assert np.array_equal(np.asarray(picture.convert("RGB")), result.colors())
    again = io.BytesIO()
    picture.save(again, "PNG")
    assert again.getvalue()[24] == 8  # bits per pixel, though 4 would hold the ids


@pytest.mark.parametrize(("classes", "mode"), [(256, "P"), (257, "I;16")])
def test_a_pillow_picture_has_room_for_the_largest_id(classes: int, mode: str) -> None:
    result = Segmenter(FakeEngine(make_card(classes=classes)))(color_picture(9, 11))
    result.labels[0, :3] = classes - 1, 0, 1
    picture = result.to_pil()
    assert picture.mode == mode
    assert np.array_equal(np.asarray(picture), result.labels)


@pytest.mark.parametrize("classes", [5, 257])
def test_a_pillow_picture_is_a_copy(classes: int) -> None:
    result = Segmenter(FakeEngine(make_card(classes=classes)))(color_picture(45, 71))
    picture, before = result.to_pil(), result.labels.copy()
    result.labels[:] = 4
    assert not np.array_equal(before, result.labels)
    assert np.array_equal(np.asarray(picture), before)
    picture.putpixel((0, 0), 3)
    assert (result.labels == 4).all()


def test_run_lengths_are_those_of_the_file(result: SegmentationResult, tmp_path: Path) -> None:
    annotations = json.loads(json.dumps(result.to_coco_rle()))
    (path,) = result.save(tmp_path, what="coco")
    added = {"id", "image_id", "iscrowd"}
    assert annotations == [
        {key: value for key, value in annotation.items() if key not in added}
        for annotation in json.loads(path.read_text())["annotations"]
    ]
    assert [annotation["category_id"] for annotation in annotations] == np.unique(result.labels).tolist()
    for annotation in annotations:
        encoded = coco_mask.frPyObjects(annotation["segmentation"], *result.labels.shape)
        assert np.array_equal(coco_mask.decode(encoded), result.labels == annotation["category_id"])


def test_detections_of_supervision_are_the_classes_that_are_there(picture: NDArray[np.uint8]) -> None:
    supervision = pytest.importorskip("supervision", reason="supervision is not installed: extra supervision")
    card = make_card(classes=300)
    result = Segmenter(FakeEngine(card))(picture)
    result.labels[3:5, 7] = 299
    detections = result.to_supervision()
    assert isinstance(detections, supervision.Detections)
    assert detections.class_id.tolist() == np.unique(result.labels).tolist()
    assert detections["class_name"].tolist() == [card.classes[index] for index in detections.class_id]
    assert detections.confidence is None
    assert detections.mask.dtype == bool
    assert np.array_equal(detections.mask, [result.labels == index for index in detections.class_id])
    assert detections.area.tolist() == [annotation["area"] for annotation in result.to_coco_rle()]
    assert detections.xyxy[-1].tolist() == [7, 3, 7, 4]
    painted = supervision.MaskAnnotator(opacity=1.0).annotate(np.zeros_like(picture), detections[-1])
    assert np.array_equal(painted.any(axis=2), result.labels == 299)


def test_without_supervision_the_cure_is_named(result: SegmentationResult, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(MissingDependencyError, match=r"supervision cannot be imported .*'algm-trt\[supervision\]'"):
        result.to_supervision()


def test_probabilities_come_in_bands_that_cover_the_picture(
    result: SegmentationResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("algm_trt.runtime.result._BAND_VALUES", 5 * 71 * 7)
    bands = list(result.probability_bands())
    assert [rows.stop - rows.start for rows, _ in bands] == [7] * 6 + [3]
    whole = np.concatenate([band for _, band in bands])
    assert whole.shape == (45, 71, 5)
    assert np.allclose(whole.sum(axis=2), 1, atol=1e-5)
    assert np.array_equal(whole.argmax(axis=2), result.labels)
    assert np.array_equal(result.confidence(), whole.max(axis=2).astype(np.float16))


def test_logits_are_there_on_request_only(picture: NDArray[np.uint8], result: SegmentationResult) -> None:
    assert result.logits is None
    logits = Segmenter(FakeEngine())(picture, logits=True).logits
    assert logits is not None
    assert logits.shape == (5, 45, 71)
    assert logits.dtype == np.float32
    assert np.array_equal(logits.argmax(axis=0), result.labels)
    assert np.array_equal(logits.transpose(1, 2, 0), result.scores.field().rows(0, 45))


def test_a_result_keeps_its_scores_once() -> None:
    card = make_card(classes=2000)
    plan = plan_slide((64, 64), card.size, card.stride)
    tracemalloc.start()
    try:
        scores = HostScores(plan, card)
        once = tracemalloc.get_traced_memory()[0]
        for index in range(len(plan)):
            scores.put(index, np.zeros((2000, *card.grid), np.float32))
        scores.labels()
        assert 2000 * len(plan) * 4 < once <= tracemalloc.get_traced_memory()[0] < 1.3 * once
    finally:
        tracemalloc.stop()


def test_logits_come_back_as_the_model_gave_them() -> None:
    card = make_card()
    plan = plan_slide((45, 71), card.size, card.stride)
    given = np.random.default_rng(0).random((len(plan), 5, *card.grid), np.float32)
    scores = HostScores(plan, card)
    for index, logits in enumerate(given):
        scores.put(index, logits)
    np.testing.assert_array_equal(scores.logits(), given)
    np.testing.assert_array_equal(scores.field().at((9, 13)).logits(), given)
    elsewhere = LogitField(replace(plan, source=(9, 13)), given, card.patch_size)
    np.testing.assert_array_equal(scores.field().at((9, 13)).labels(), elsewhere.labels())
    assert scores.field().plan == plan


def test_text_for_people_does_not_print_arrays(result: SegmentationResult) -> None:
    assert repr(result).startswith("SegmentationResult('image', 71x45 pixels, 5 classes, 6 windows")


def test_results_are_told_apart_by_identity(picture: NDArray[np.uint8], result: SegmentationResult) -> None:
    again = Segmenter(FakeEngine())(picture)
    assert result != again
    assert len({result, again, result}) == 2


def test_tokens_kept_is_the_share_over_all_windows(result: SegmentationResult) -> None:
    assert result.tokens_kept == result.token_counts[:, 2].sum() / result.token_counts[:, 0].sum()
    dense = Segmenter(FakeEngine(make_card(merge=False)))(result.image)
    assert np.array_equal(dense.labels, result.labels)


def test_save_returns_the_paths_in_the_order_asked_for(result: SegmentationResult, tmp_path: Path) -> None:
    paths = result.save(tmp_path / "out", "sub/street", what=("overlay", "labels"))
    assert paths == [tmp_path / "out/overlay/sub/street.jpg", tmp_path / "out/labels/sub/street.png"]
    assert all(path.is_file() for path in paths)
    assert result.save(str(tmp_path), what="labels") == [tmp_path / "labels/image.png"]
    assert result.save(tmp_path, "both") == [tmp_path / "labels/both.png", tmp_path / "overlay/both.jpg"]


def test_save_refuses_unknown_kinds(result: SegmentationResult, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot save masks: choose from labels, overlay"):
        result.save(tmp_path, what=("labels", "masks"))


@pytest.mark.parametrize(
    "name", ["../x", "../../x", "a/../../x", "a/..", "/x", "", "a/", "a//b", "./x", ".", "a\0b", "\ud800", Path("../x")]
)
def test_save_stays_in_its_folder(result: SegmentationResult, tmp_path: Path, name: str | Path) -> None:
    with pytest.raises(UsageError, match="name"):
        result.save(tmp_path / "deep" / "out", name)
    with pytest.raises(UsageError, match="name"):
        result.save(tmp_path / "deep" / "out", str(tmp_path / "elsewhere"))
    assert list(tmp_path.iterdir()) == []


def test_save_takes_a_path_as_a_name(result: SegmentationResult, tmp_path: Path) -> None:
    assert result.save(tmp_path, Path("sub") / "street", what="labels") == [tmp_path / "labels/sub/street.png"]
    assert result.save(tmp_path, "..hidden", what="labels") == [tmp_path / "labels/..hidden.png"]
