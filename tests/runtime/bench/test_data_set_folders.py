"""Roots of data sets are refused as folders of pictures, with what to give instead; folders of pictures are not."""

from __future__ import annotations

from pathlib import Path

import pytest

from algm_trt.plugins.errors import UsageError
from algm_trt.runtime.bench.data_set_folders import refuse_data_set
from algm_trt.runtime.limits import LAYOUTS


def make(root: Path, *files: str) -> Path:
    for file in files:
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


@pytest.mark.parametrize(
    ("files", "cure", "pictures"),
    [
        (("images/validation/a.jpg", "annotations/validation/a.png"), "ade20k", "images"),
        (("A/images/validation/a.jpg", "A/annotations/validation/a.png"), "ade20k", "A/images"),
        (("leftImg8bit/val/c/a.png", "gtFine/val/c/b.png"), "cityscapes", "leftImg8bit"),
        (("V/2010/JPEGImages/a.jpg", "V/2010/SegmentationClassContext/a.png"), "pascal_context", "V/2010/JPEGImages"),
        (("JPEGImages/a.jpg", "SegmentationClass/a.png"), "", "JPEGImages"),
        (("val2017/a.jpg", "stuffthingmaps/val2017/a.png"), "coco_stuff", "val2017"),
        (("images/val2017/a.jpg", "annotations/val2017/a_labelTrainIds.png"), "coco_stuff", "images"),
        (("val2017/a.jpg", "annotations/panoptic_val2017/a.png"), "coco_panoptic", "val2017"),
        (("images/test/a.png", "labels/test/a.png", "test.txt"), "camvid", "images"),
        (("test/a.png", "testannot/a.png"), "camvid", "test"),
        (("images/a.png", "labels/a.png"), "folder", "images"),
        (("img_dir/train/a.png", "ann_dir/train/a.png"), "", "img_dir"),
    ],
)
def test_roots_of_data_sets(tmp_path: Path, files: tuple[str, ...], cure: str, pictures: str) -> None:
    make(tmp_path, *files)
    with pytest.raises(UsageError, match="is the root of a data set: ") as refused:
        refuse_data_set(tmp_path)
    message = str(refused.value)
    assert (f"give --dataset {cure}, or the folder" if cure else "give the folder of the pictures") in message
    assert message.endswith(f"such as --data {tmp_path / pictures}")
    assert cure in ("", *LAYOUTS)
    refuse_data_set(tmp_path / pictures)


@pytest.mark.parametrize(
    "files",
    [
        ("a.jpg", "b/c.png"),
        ("labels/a.png", "overlay/a.png"),
        ("images/a.jpg", "annotations/instances.json"),
        ("images/a.jpg", "labels/a.txt"),
    ],
)
def test_folders_of_pictures(tmp_path: Path, files: tuple[str, ...]) -> None:
    refuse_data_set(make(tmp_path, *files))


def test_what_is_no_folder_is_left_to_others(tmp_path: Path) -> None:
    refuse_data_set(tmp_path / "nowhere")
    refuse_data_set(make(tmp_path, "list.txt") / "list.txt")
