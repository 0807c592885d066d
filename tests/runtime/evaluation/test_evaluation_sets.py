"""Layouts of data sets: drawn ones, and the samples of the official data where they lie beside the checkout."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.fake_engine import make_card
from PIL import Image

from algm_trt.plugins.errors import UsageError
from algm_trt.runtime.class_lists import dataset_classes
from algm_trt.runtime.decode import decode_image
from algm_trt.runtime.evaluation.label_files import LabelError
from algm_trt.runtime.evaluation.metrics import IGNORED
from algm_trt.runtime.evaluation.samples import Sample
from algm_trt.runtime.evaluation.sets import DATASETS, EvaluationSet, Places, open_set, spread
from algm_trt.runtime.limits import LAYOUTS

CARD = make_card()


def put(path: Path, values: object = 0) -> None:
    """A picture of 4x2 pixels: grey of these values for a PNG, else black."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.broadcast_to(np.asarray(values, np.uint8), (2, 4))
    Image.fromarray(pixels if path.suffix == ".png" else pixels[..., None].repeat(3, 2)).save(path)


def truths(data: EvaluationSet) -> dict[str, list[int]]:
    """First row of the ground truth of every picture, by name."""
    return {sample.name: data.truth(sample, (2, 4))[0].tolist() for sample in data.samples}


def test_ade20k(tmp_path: Path) -> None:
    for base in (tmp_path / "a", tmp_path / "b" / "ADEChallengeData2016"):
        put(base / "images" / "validation" / "ADE_val_1.jpg")
        put(base / "annotations" / "validation" / "ADE_val_1.png", [0, 1, 150, 255])
    for root in (tmp_path / "a", tmp_path / "b"):
        for split in (None, "val", "validation"):
            data = open_set("ade20k", root, CARD, Places(split=split))
            assert truths(data) == {"ADE_val_1": [IGNORED, 0, 149, IGNORED]}
            assert (data.short_side, data.max_ratio) == (512, 4)
            assert data.class_names == dataset_classes("ade20k").classes
    assert open_set("ade20k", tmp_path / "a", make_card(size=(640, 640))).short_side == 640


@pytest.mark.parametrize("kind", ["labelIds", "labelTrainIds"])
def test_cityscapes(tmp_path: Path, kind: str) -> None:
    put(tmp_path / "leftImg8bit" / "val" / "ulm" / "ulm_1_2_leftImg8bit.png")
    values, wanted = ([7, 33, 6, 11], [0, 18, IGNORED, 2]) if kind == "labelIds" else ([0, 18, 255, 2],) * 2
    wanted = [IGNORED if value == 255 else value for value in wanted]
    put(tmp_path / "gtFine" / "val" / "ulm" / f"ulm_1_2_gtFine_{kind}.png", values)
    put(tmp_path / "gtFine" / "val" / "ulm" / "ulm_1_2_gtFine_instanceIds.png", 99)
    data = open_set("cityscapes", tmp_path, CARD)
    assert truths(data) == {"ulm/ulm_1_2": wanted}
    assert (data.short_side, data.max_ratio) == (1024, 2)


def test_cityscapes_label_id_out_of_range(tmp_path: Path) -> None:
    put(tmp_path / "leftImg8bit" / "val" / "ulm" / "ulm_1_2_leftImg8bit.png")
    put(tmp_path / "gtFine" / "val" / "ulm" / "ulm_1_2_gtFine_labelIds.png", 34)
    with pytest.raises(LabelError, match="value 34 in 8 pixels"):
        truths(open_set("cityscapes", tmp_path, CARD))


def test_pascal_context(tmp_path: Path) -> None:
    base = tmp_path / "VOCdevkit" / "VOC2010"
    for name, value in (("2008_1", 0), ("2008_2", 59), ("2008_3", 255)):
        put(base / "JPEGImages" / f"{name}.jpg")
        put(base / "SegmentationClassContext" / f"{name}.png", value)
    listing = base / "ImageSets" / "SegmentationContext" / "val.txt"
    listing.parent.mkdir(parents=True)
    listing.write_text("2008_2\n\n2008_3\n")
    data = open_set("pascal_context", tmp_path, CARD)
    assert truths(data) == {"2008_2": [59] * 4, "2008_3": [IGNORED] * 4}
    assert (data.short_side, data.max_ratio) == (520, 8)
    with pytest.raises(UsageError, match=r"no file .*train\.txt"):
        open_set("pascal_context", base, CARD, Places(split="train"))


def test_coco_stuff_pixelmaps_and_train_ids(tmp_path: Path) -> None:
    put(tmp_path / "val2017" / "000000000139.jpg")
    put(tmp_path / "stuffthingmaps_trainval2017" / "val2017" / "000000000139.png", [0, 12, 181, 255])
    data = open_set("coco_stuff", tmp_path, CARD)
    assert data.coding.classes == 171
    assert truths(data) == {"000000000139": [0, 11, 170, IGNORED]}

    put(tmp_path / "mm" / "images" / "val2017" / "000000000139.jpg")
    put(tmp_path / "mm" / "annotations" / "val2017" / "000000000139.png", 200)
    put(tmp_path / "mm" / "annotations" / "val2017" / "000000000139_labelTrainIds.png", [0, 11, 170, 255])
    assert truths(open_set("coco_stuff", tmp_path / "mm", CARD)) == {"000000000139": [0, 11, 170, IGNORED]}

    put(tmp_path / "ten" / "images" / "test2014" / "COCO_1.jpg")
    put(tmp_path / "ten" / "annotations" / "test2014" / "COCO_1_labelTrainIds.png", [1, 12, 171, 0])
    ten = open_set("coco_stuff", tmp_path / "ten", CARD, Places(split="test2014"))
    assert truths(ten) == {"COCO_1": [0, 11, 170, IGNORED]}


def test_coco_stuff_value_that_coco_never_used(tmp_path: Path) -> None:
    put(tmp_path / "val2017" / "1.jpg")
    put(tmp_path / "stuffthingmaps" / "val2017" / "1.png", 11)
    with pytest.raises(LabelError, match="value 11 in 8 pixels"):
        truths(open_set("coco_stuff", tmp_path, CARD))


def panoptic(root: Path, change: dict[str, object] | None = None) -> None:
    put(root / "val2017" / "7.jpg")
    folder = root / "annotations" / "panoptic_val2017"
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((2, 4, 3), np.uint8)
    pixels[0, :3] = [(1, 1, 0), (0, 0, 1), (1, 1, 0)]
    Image.fromarray(pixels).save(folder / "7.png")
    segments = [{"id": 257, "category_id": 200}, {"id": 65536, "category_id": 3}]
    data: dict[str, object] = {
        "categories": [{"id": 200, "name": "rug"}, {"id": 3, "name": "car"}, {"id": 90, "name": "toothbrush"}],
        "images": [{"id": 7, "file_name": "7.jpg"}],
        "annotations": [{"image_id": 7, "file_name": "7.png", "segments_info": segments}],
    }
    folder.with_suffix(".json").write_text(json.dumps(data | (change or {})))


def test_coco_panoptic(tmp_path: Path) -> None:
    panoptic(tmp_path)
    data = open_set("coco_panoptic", tmp_path, CARD)
    assert data.class_names == ("car", "toothbrush", "rug")
    assert truths(data) == {"7": [2, 0, 2, IGNORED]}
    by_name = Places(images=tmp_path / "val2017", labels=tmp_path / "annotations" / "panoptic_val2017.json")
    assert truths(open_set("coco_panoptic", tmp_path, CARD, by_name)) == truths(data)
    with pytest.raises(UsageError, match="leave out --ignore"):
        open_set("coco_panoptic", tmp_path, CARD, Places(ignore=0))
    endless = [{"id": float("inf"), "name": "rug"}]
    for change in ({"categories": 5}, {"images": []}, {"categories": []}, {"categories": endless}):
        panoptic(tmp_path, change)
        with pytest.raises(UsageError, match="not the JSON of COCO panoptic"):
            open_set("coco_panoptic", tmp_path, CARD)


def test_camvid_with_and_without_list_and_as_segnet_has_it(tmp_path: Path) -> None:
    for name in ("a", "b"):
        put(tmp_path / "images" / "test" / f"{name}.png")
        put(tmp_path / "labels" / "test" / f"{name}.png", [0, 10, 11, 3])
    assert truths(open_set("camvid", tmp_path, CARD)).keys() == {"a", "b"}
    (tmp_path / "test.txt").write_text("b\n")
    data = open_set("camvid", tmp_path, CARD)
    assert truths(data) == {"b": [0, 10, IGNORED, 3]}
    assert data.short_side is None
    (tmp_path / "test.txt").write_text(f"b\n{'c' * 300}\n")  # no file can have such a name
    assert [len(sample.name) for sample in open_set("camvid", tmp_path, CARD).samples] == [1, 300]

    put(tmp_path / "segnet" / "val" / "c.png")
    put(tmp_path / "segnet" / "valannot" / "c.png", 11)
    (tmp_path / "segnet" / "val.txt").write_text("/SegNet/CamVid/val/c.png /SegNet/CamVid/valannot/c.png\n")
    segnet = open_set("camvid", tmp_path / "segnet", CARD, Places(split="val"))
    assert truths(segnet) == {"c": [IGNORED] * 4}
    put(tmp_path / "other" / "c.png")
    elsewhere = open_set("camvid", tmp_path / "segnet", CARD, Places(split="val", images=tmp_path / "other"))
    assert [sample.image for sample in elsewhere.samples] == [tmp_path / "other" / "c.png"]


def test_folder_pairs_by_name_and_keeps_what_lacks_its_counterpart(tmp_path: Path) -> None:
    put(tmp_path / "images" / "deep" / "x.JPG")
    put(tmp_path / "labels" / "deep" / "x.png", [0, 4, 255, 1])
    put(tmp_path / "images" / "only_picture.jpg")
    put(tmp_path / "labels" / "only_label.png")
    put(tmp_path / "images" / ".hidden.jpg")
    data = open_set("folder", tmp_path, CARD)
    names = {sample.name: sample for sample in data.samples}
    assert list(names) == ["deep/x", "only_label", "only_picture"]
    assert data.truth(names["deep/x"], (2, 4))[0].tolist() == [0, 4, IGNORED, 1]
    assert not names["only_label"].image.exists()
    with pytest.raises(LabelError, match="no such label file"):
        data.truth(names["only_picture"], (2, 4))


def test_folder_leaves_out_what_is_no_picture_and_takes_the_first_of_several_suffixes(tmp_path: Path) -> None:
    names = [f"{index:02}" for index in range(16)]
    for index, name in enumerate(names):  # in both orders: a folder may list its files in either
        for suffix in (".png", ".bmp", ".gif")[:: 1 if index % 2 else -1]:
            put(tmp_path / "labels" / f"{name}{suffix}")
        put(tmp_path / "images" / f"{name}.jpg")
    (tmp_path / "images" / "Thumbs.db").write_bytes(b"thumbs")
    (tmp_path / "labels" / "notes.txt").write_text("notes")
    samples = open_set("folder", tmp_path, CARD).samples
    assert [sample.name for sample in samples] == names
    assert {sample.label.suffix for sample in samples} == {".png"}


def test_linked_folders_are_read_and_loops_end(tmp_path: Path) -> None:
    put(tmp_path / "elsewhere" / "images" / "x.jpg")
    put(tmp_path / "elsewhere" / "labels" / "x.png", 3)
    for kind in ("images", "labels"):
        put(tmp_path / kind / f"y.{'jpg' if kind == 'images' else 'png'}")
        (tmp_path / kind / "more").symlink_to(tmp_path / "elsewhere" / kind)
        (tmp_path / kind / "loop").symlink_to(tmp_path / kind)
    assert truths(open_set("folder", tmp_path, CARD)) == {"more/x": [3] * 4, "y": [0] * 4}

    put(tmp_path / "elsewhere" / "ulm" / "ulm_1_2_leftImg8bit.png")
    put(tmp_path / "elsewhere" / "ulm" / "ulm_1_2_gtFine_labelTrainIds.png", 5)
    for kind in ("leftImg8bit", "gtFine"):
        (tmp_path / kind / "val").mkdir(parents=True)
        (tmp_path / kind / "val" / "ulm").symlink_to(tmp_path / "elsewhere" / "ulm")
    assert truths(open_set("cityscapes", tmp_path, CARD)) == {"ulm/ulm_1_2": [5] * 4}


def test_two_pictures_of_one_name_are_a_problem_of_this_name(tmp_path: Path) -> None:
    for name in ("0.jpg", "0.png", "1.jpg"):
        put(tmp_path / "images" / name)
    for name in ("0.png", "1.png"):
        put(tmp_path / "labels" / name)
    two, one = open_set("folder", tmp_path, CARD).samples
    assert two.problem == "two pictures of this name, 0.jpg and 0.png; choose with --image-suffix"
    assert one.problem == ""
    chosen = open_set("folder", tmp_path, CARD, Places(image_suffix=".png")).samples[0]
    assert (chosen.problem, chosen.image.name) == ("", "0.png")

    (tmp_path / "test.txt").write_text("0\n1\n")
    places = Places(images=tmp_path / "images", labels=tmp_path / "labels")
    assert [bool(sample.problem) for sample in open_set("camvid", tmp_path, CARD, places).samples] == [True, False]


def test_pictures_and_label_files_in_one_folder(tmp_path: Path) -> None:
    put(tmp_path / "0.jpg")
    put(tmp_path / "0.png", 2)
    (sample,) = open_set("folder", tmp_path, CARD, Places(images=tmp_path, labels=tmp_path)).samples
    assert (sample.image.name, sample.label.name, sample.problem) == ("0.jpg", "0.png", "")


def test_names_of_which_none_pair_say_what_they_are_like(tmp_path: Path) -> None:
    put(tmp_path / "images" / "0_img.jpg")
    put(tmp_path / "labels" / "0_gt.png")
    with pytest.raises(
        UsageError, match=r"like 0_img\.jpg, label files like 0_gt\.png: .* --image-suffix and --label-suffix"
    ):
        open_set("folder", tmp_path, CARD)


def test_names_that_differ_in_their_subfolders_alone(tmp_path: Path) -> None:
    put(tmp_path / "images" / "p0.jpg")
    put(tmp_path / "masks" / "p0.png")
    with pytest.raises(UsageError, match=r"like images/p0\.jpg, label files like p0\.png: they lie in subfolders"):
        open_set("folder", tmp_path, CARD, Places(images=tmp_path, labels=tmp_path / "masks"))


def test_folder_with_suffixes_ignore_value_and_label_map(tmp_path: Path) -> None:
    put(tmp_path / "imgs" / "00_img.jpg")
    put(tmp_path / "gts" / "00_gt.png", [0, 1, 7, 7])
    places = {"images": tmp_path / "imgs", "labels": tmp_path / "gts", "image_suffix": "_img.jpg"}
    data = open_set("folder", tmp_path, CARD, Places(**places, label_suffix="_gt.png", ignore=7))
    assert truths(data) == {"00": [0, 1, IGNORED, IGNORED]}
    (tmp_path / "gts" / "00_gt.png").rename(tmp_path / "gts" / "00.ids")  # a suffix that is named counts whatever it is
    ids = open_set("folder", tmp_path, CARD, Places(**places, label_suffix=".ids", ignore=7))
    assert truths(ids) == {"00": [0, 1, IGNORED, IGNORED]}
    (tmp_path / "gts" / "00.ids").rename(tmp_path / "gts" / "00_gt.png")
    table = tmp_path / "map.json"
    table.write_text('{"0": null, "1": 4, "7": 0}')
    mapped = open_set("folder", tmp_path, CARD, Places(**places, label_suffix="_gt.png", label_map=table))
    assert truths(mapped) == {"00": [IGNORED, 4, 0, 0]}


def test_ignore_zero_beats_the_class_zero(tmp_path: Path) -> None:
    put(tmp_path / "images" / "x.jpg")
    put(tmp_path / "labels" / "x.png", [0, 1, 2, 0])
    assert truths(open_set("folder", tmp_path, CARD, Places(ignore=0))) == {"x": [IGNORED, 1, 2, IGNORED]}


def test_ignore_adds_to_what_a_data_set_ignores_and_replaces_it_in_a_folder(tmp_path: Path) -> None:
    put(tmp_path / "images" / "validation" / "x.jpg")
    put(tmp_path / "annotations" / "validation" / "x.png", [0, 1, 2, 255])
    found = truths(open_set("ade20k", tmp_path, CARD, Places(ignore=2)))
    assert found == {"x": [IGNORED, 0, IGNORED, IGNORED]}
    put(tmp_path / "labels" / "validation" / "x.png", [0, 1, 2, 255])
    with pytest.raises(LabelError, match="value 255"):
        truths(open_set("folder", tmp_path, CARD, Places(split="validation", ignore=2)))


def test_some_of_a_list_lie_at_equal_distances() -> None:
    assert spread(range(9), 3) == [0, 4, 8]
    assert spread(range(9), 1) == [0]
    assert spread("abc", 3) == spread("abc", 7) == ["a", "b", "c"]
    assert spread((), 2) == []
    for total in range(1, 40):
        for count in range(1, total + 1):
            chosen = spread(range(total), count)
            assert len(set(chosen)) == count
            assert chosen == sorted(chosen)
            assert count == 1 or (chosen[0], chosen[-1]) == (0, total - 1)
    with pytest.raises(UsageError, match="at least 1"):
        spread("abc", 0)


def test_commands_offer_every_layout() -> None:
    assert tuple(DATASETS) == LAYOUTS


@pytest.mark.parametrize("dataset", DATASETS)
def test_layout_that_is_not_there_says_what_was_looked_for(tmp_path: Path, dataset: str) -> None:
    with pytest.raises(UsageError, match="there is no"):
        open_set(dataset, tmp_path, CARD)


def test_empty_folder_and_unknown_data_set(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    with pytest.raises(UsageError, match="no picture of folder found"):
        open_set("folder", tmp_path, CARD)
    with pytest.raises(UsageError, match="unknown data set 'ade'"):
        open_set("ade", tmp_path, CARD)
    with pytest.raises(UsageError, match="no such folder"):
        open_set("folder", tmp_path / "missing", CARD)


# Samples of the official data.


def read_all(data: EvaluationSet) -> list[tuple[Sample, np.ndarray]]:
    found = []
    for sample in data.samples:
        height, width, _ = decode_image(sample.image).shape
        found.append((sample, data.truth(sample, (height, width))))
    return found


@pytest.mark.shared
def test_official_samples(shared: Path) -> None:
    formats = shared / "data" / "formats"
    ade = read_all(open_set("ade20k", formats / "ade20k_sceneparsing", CARD))
    assert [sample.name for sample, _ in ade] == [f"ADE_val_0000000{number}" for number in (1, 2, 3)]
    assert {int(value) for _, truth in ade for value in np.unique(truth)} <= {*range(150), IGNORED}
    full = read_all(open_set("ade20k", formats / "ade20k_full_as150", CARD, Places(split="train")))
    assert len(full) == 3

    city = open_set("cityscapes", formats / "mmseg_tests" / "pseudo_cityscapes_dataset", CARD)
    ((sample, by_train_id),) = read_all(city)
    by_id = open_set(
        "cityscapes",
        formats / "mmseg_tests" / "pseudo_cityscapes_dataset",
        CARD,
        Places(label_suffix="_gtFine_labelIds.png"),
    )
    assert sample.name == "frankfurt/frankfurt_000000_000294"
    # the two files of this sample were shrunk one by one: 70 of their 32768 pixels lie on other sides of a border
    assert np.mean(read_all(by_id)[0][1] == by_train_id) > 0.99


@pytest.mark.shared
def test_official_samples_of_coco_and_voc(shared: Path) -> None:
    formats = shared / "data" / "formats"
    coco = formats / "coco_panoptic"
    places = Places(
        images=coco / "sample_data" / "input_images", labels=coco / "sample_data" / "panoptic_examples.json"
    )
    data = open_set("coco_panoptic", coco, CARD, places)
    categories = json.loads((coco / "sample_data" / "panoptic_examples.json").read_text())["categories"]
    ids = sorted(category["id"] for category in categories)
    for sample, truth in read_all(data):
        stored = np.asarray(Image.open(coco / "semantic_as_ids" / f"{sample.name}.png"))
        assert np.array_equal(np.where(stored == 255, IGNORED, np.searchsorted(ids, stored)), truth)

    voc = formats / "voc_colour"
    card = make_card(classes=21)
    pairs = Places(images=voc, labels=voc / "as_index", image_suffix="_image.png", label_suffix=".png")
    found = read_all(open_set("folder", voc, card, pairs))
    assert {sample.name for sample, _ in found} == {"1", "23", "114"}
    assert {int(value) for _, truth in found for value in np.unique(truth)} == {0, 1, 3, 17, IGNORED}

    colours = Places(images=voc, labels=voc, image_suffix="_image.png", label_suffix="_target.png")
    with pytest.raises(LabelError, match="colours, not class ids"):
        read_all(open_set("folder", voc, card, colours))


@pytest.mark.shared
def test_camvid_sample(shared: Path) -> None:
    data = open_set("camvid", shared / "data" / "camvid", CARD)
    assert len(data.samples) == 203
    assert all(sample.image.is_file() and sample.label.is_file() for sample in data.samples)
