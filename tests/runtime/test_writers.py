"""Every kind of output file, read back by other software."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers.fake_engine import FakeEngine, color_picture, make_card
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from algm_trt.plugins.errors import UsageError
from algm_trt.runtime import writers
from algm_trt.runtime.result import SegmentationResult
from algm_trt.runtime.segmenter import Segmenter
from algm_trt.runtime.writers import (
    KINDS,
    WriteError,
    WrittenFile,
    coco_annotations,
    output_path,
    parse_kinds,
    save_result,
    write_overlay,
)


@pytest.fixture
def result() -> SegmentationResult:
    return Segmenter(FakeEngine())(color_picture(45, 71))


def test_labels_are_a_palette_png(result: SegmentationResult, tmp_path: Path) -> None:
    (written,) = save_result(result, tmp_path, "street", "labels")
    assert written == WrittenFile("labels/street.png", (tmp_path / "labels/street.png").stat().st_size)
    picture = Image.open(tmp_path / written.path)
    assert picture.mode == "P"
    assert np.array_equal(np.asarray(picture), result.labels)
    assert np.array_equal(np.asarray(picture.convert("RGB")), result.colors())
    palette = picture.getpalette()
    assert palette is not None
    assert palette[3 * 255 :] == [0, 0, 0]


@pytest.mark.parametrize(("classes", "mode"), [(255, "P"), (256, "P"), (257, "I;16")])
def test_ids_that_8_bits_do_not_hold_are_16_bit_grey(classes: int, mode: str, tmp_path: Path) -> None:
    result = Segmenter(FakeEngine(make_card(classes=classes)))(color_picture(9, 11))
    result.labels[0, :3] = classes - 1, 0, 1
    result.save(tmp_path, what="labels")
    picture = Image.open(tmp_path / "labels/image.png")
    assert picture.mode == mode
    assert np.array_equal(np.asarray(picture), result.labels)


@pytest.mark.parametrize(
    ("dataset", "classes", "mode", "expected"),
    [
        ("ade20k", 150, "L", [1, 150]),
        ("cityscapes", 19, "L", [7, 33]),
        ("coco_stuff", 171, "L", [0, 181]),
        ("camvid", 11, "L", [0, 10]),
        ("", 256, "L", [0, 255]),
        ("", 257, "I;16", [0, 256]),
    ],
)
def test_submission_has_the_values_of_the_data_set(
    dataset: str, classes: int, mode: str, expected: list[int], tmp_path: Path
) -> None:
    card = replace(make_card(classes=classes), dataset=dataset)
    result = Segmenter(FakeEngine(card))(color_picture(9, 11))
    result.labels[0, :2] = 0, classes - 1
    result.save(tmp_path, what="submission")
    picture = Image.open(tmp_path / "submission/image.png")
    assert (picture.mode, picture.size) == (mode, (11, 9))
    assert np.asarray(picture)[0, :2].tolist() == expected


def test_overlay_is_a_jpeg_of_the_overlay(result: SegmentationResult, tmp_path: Path) -> None:
    save_result(result, tmp_path, "street", ["overlay"])
    bgr = cv2.imread(str(tmp_path / "overlay/street.jpg"))
    assert bgr is not None
    assert bgr.shape == (45, 71, 3)
    assert np.abs(bgr[..., ::-1].mean(axis=(0, 1)) - result.overlay().mean(axis=(0, 1))).max() < 2


def test_a_side_beyond_jpeg_is_refused_with_the_cure(tmp_path: Path) -> None:
    with pytest.raises(WriteError, match="save color instead"):
        write_overlay(np.zeros((1, 65501, 3), np.uint8), tmp_path / "x.jpg")
    write_overlay(np.zeros((1, 65500, 3), np.uint8), tmp_path / "x.jpg")
    assert cv2.imread(str(tmp_path / "x.jpg")).shape == (1, 65500, 3)


def test_color_is_a_png_of_the_colors(result: SegmentationResult, tmp_path: Path) -> None:
    save_result(result, tmp_path, "street", ["color"])
    assert np.array_equal(np.asarray(Image.open(tmp_path / "color/street.png")), result.colors())


def test_probabilities_are_float16_class_by_class(
    result: SegmentationResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("algm_trt.runtime.result._BAND_VALUES", 5 * 71 * 4)
    save_result(result, tmp_path, "street", ["probs"])
    probabilities = np.load(tmp_path / "probs/street.npy")
    assert probabilities.dtype == np.float16
    expected = result.scores.field().probabilities(0, 45).transpose(2, 0, 1).astype(np.float16)
    assert np.array_equal(probabilities, expected)


def test_npz_holds_labels_confidence_tokens_and_names(result: SegmentationResult, tmp_path: Path) -> None:
    save_result(result, tmp_path, "street", ["npz"])
    with np.load(tmp_path / "npz/street.npz") as data:
        assert np.array_equal(data["labels"], result.labels)
        assert np.array_equal(data["confidence"], result.confidence())
        assert np.array_equal(data["token_counts"], result.token_counts)
        assert tuple(data["classes"]) == result.classes


def random_labels(seed: int, size: tuple[int, int], classes: int) -> NDArray[np.int64]:
    rng = np.random.default_rng(seed)
    return (
        rng.integers(0, classes, (-(-size[0] // 3), -(-size[1] // 3))).repeat(3, 0).repeat(3, 1)[: size[0], : size[1]]
    )


@pytest.mark.parametrize("size", [(1, 1), (1, 13), (13, 1), (2, 2), (17, 29), (64, 41)])
@pytest.mark.parametrize("classes", [1, 2, 7])
def test_coco_annotations_decode_to_the_masks(size: tuple[int, int], classes: int) -> None:
    labels = random_labels(classes, size, classes)
    annotations = coco_annotations(labels, [f"c{index}" for index in range(classes)])
    assert [annotation["category_id"] for annotation in annotations] == np.unique(labels).tolist()
    for annotation in annotations:
        mask = labels == annotation["category_id"]
        encoded = coco_mask.frPyObjects(annotation["segmentation"], *size)
        assert np.array_equal(coco_mask.decode(encoded).astype(bool), mask)
        assert annotation["area"] == coco_mask.area(encoded) == mask.sum()
        assert annotation["bbox"] == coco_mask.toBbox(encoded).tolist()
        assert annotation["segmentation"]["counts"] == reference_counts(mask)
        assert annotation["category_name"] == f"c{annotation['category_id']}"


def reference_counts(mask: NDArray[np.bool_]) -> list[int]:
    counts, current = [0], False
    for value in mask.ravel(order="F"):
        if bool(value) != current:
            counts.append(0)
            current = bool(value)
        counts[-1] += 1
    return counts


def test_coco_file_is_a_data_set_that_readers_of_coco_take(result: SegmentationResult, tmp_path: Path) -> None:
    save_result(result, tmp_path, "street", ["coco"])
    data = COCO(tmp_path / "coco/street.json")
    (image,) = data.loadImgs(data.getImgIds())
    assert (image["width"], image["height"]) == (71, 45)
    labels = np.full((45, 71), 255, np.uint8)
    for annotation in data.loadAnns(data.getAnnIds(imgIds=image["id"])):
        mask = data.annToMask(annotation).astype(bool)
        assert mask.sum() == annotation["area"]
        labels[mask] = annotation["category_id"]
    np.testing.assert_array_equal(labels, result.labels)
    assert [category["name"] for category in data.loadCats(data.getCatIds())] == list(result.classes)


@pytest.mark.parametrize(("file", "expected"), [("street.v1.jpg", "a/street.v1.jpg"), ("", "a/street.v1")])
def test_coco_names_the_picture_as_it_lies_in_its_folder(
    result: SegmentationResult, tmp_path: Path, file: str, expected: str
) -> None:
    result = replace(result, name="a/street.v1", file=file)
    save_result(result, tmp_path, result.name, ["coco"])
    assert json.loads((tmp_path / "coco/a/street.v1.json").read_text())["images"][0]["file_name"] == expected


def test_tokens_are_a_png_of_the_picture_s_size(result: SegmentationResult, tmp_path: Path) -> None:
    save_result(result, tmp_path, "street", ["tokens"])
    assert Image.open(tmp_path / "tokens/street.png").size == (71, 45)


@pytest.mark.parametrize(
    "name",
    ["with space", "ünïcödé/日本語", "a.b.c", "deep/er/still", "back\\slash", os.fsdecode(b"latin\xe9"), "new\nline"],
)
def test_odd_names_are_kept(result: SegmentationResult, tmp_path: Path, name: str) -> None:
    files = save_result(result, tmp_path, name, list(KINDS))
    assert [file.path for file in files] == [f"{kind}/{name}{KINDS[kind].suffix}" for kind in KINDS]
    assert all((tmp_path / file.path).stat().st_size == file.bytes for file in files)


def test_names_too_long_for_a_file_system_are_cut_and_stay_apart(result: SegmentationResult, tmp_path: Path) -> None:
    names = ["sub/" + "é" * 125 + end for end in ("aaa", "aab")]
    for name in names:
        save_result(result, tmp_path, name, list(KINDS))
    assert len({output_path("coco", name) for name in names}) == 2
    assert len(list((tmp_path / "coco/sub").iterdir())) == 2


def test_kinds_are_read_from_text_or_a_list() -> None:
    assert parse_kinds(" labels, overlay,labels,") == ("labels", "overlay")
    assert parse_kinds(["probs"]) == ("probs",)
    for wrong in ("", "labels,png", ["Labels"]):
        with pytest.raises(UsageError, match="choose from"):
            parse_kinds(wrong)


def test_a_name_that_a_file_system_cannot_have_is_one_clear_error(
    result: SegmentationResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As vfat refuses a colon."""

    def refuse(draft: Path, target: Path) -> None:
        raise OSError(errno.EINVAL, "Invalid argument", str(draft), None, str(target))

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(WriteError, match=r"files of 12:30 under .*: Invalid argument \(it may not take such a name\)$"):
        save_result(result, tmp_path, "12:30", ["labels", "npz"])
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_full_disk_is_one_clear_error_and_leaves_nothing(
    result: SegmentationResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "draft"))

    monkeypatch.setitem(KINDS, "color", writers.Kind(".png", no_space))
    with pytest.raises(WriteError, match=r"cannot write the files of street under .*: No space left on device"):
        save_result(result, tmp_path, "street", ["labels", "color"])
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_file_where_a_folder_should_be_is_an_error(result: SegmentationResult, tmp_path: Path) -> None:
    (tmp_path / "labels").write_text("in the way")
    with pytest.raises(WriteError, match="cannot write"):
        save_result(result, tmp_path, "street", ["labels"])
