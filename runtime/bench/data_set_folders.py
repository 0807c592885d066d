"""Telling the root of a data set from a folder of pictures: times of its label files would say nothing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from algm_trt.plugins.errors import UsageError
from algm_trt.runtime.paths import natural_key, printable
from algm_trt.runtime.sources import PICTURE_SUFFIXES

_DEPTH: Final = 2
"""Folders below the root in which a data set is looked for: VOCdevkit/VOC2010 is two."""

# Name of the folder of label files, name of that of the pictures beside it, a pattern that must match something in the
# same place, and what to give; the first that fits counts.
_LAYOUTS: Final = (
    (r"gtFine|gtCoarse", r"leftImg8bit", "", "--dataset cityscapes"),
    (r"SegmentationClassContext", r"JPEGImages", "", "--dataset pascal_context"),
    (r"SegmentationClass.*|SegmentationObject", r"JPEGImages", "", ""),
    (r"stuffthingmaps.*", r"images|(train|val)2017", "", "--dataset coco_stuff"),
    (r"annotations", r"images|(train|val)2017", "annotations/panoptic_*2017", "--dataset coco_panoptic"),
    (r"annotations", r"images|(train|val)2017", "annotations/*2017", "--dataset coco_stuff"),
    (r"annotations", r"images", "annotations/validation", "--dataset ade20k"),
    (r"annotations|ann_dir|gts?|masks", r"images|img_dir|imgs", "", ""),
    (r"(train|val|test)annot", r"train|val|test", "", "--dataset camvid"),
    (r"labels", r"images", "test.txt", "--dataset camvid"),
    (r"labels", r"images|(train|val)2017", "labels/*2017", "--dataset coco_stuff"),
    (r"labels", r"images", "", "--dataset folder"),
)


def refuse_data_set(folder: Path) -> None:
    """Make sure that a folder of pictures to be timed is not the root of a data set, nor around one.

    Raises:
        UsageError: label files lie in it as in a known layout; the message says what to give instead.
    """
    level = [folder]
    for _ in range(_DEPTH + 1):
        for place in level:
            _refuse_layout(folder, place)
        level = [below for place in level for below in _folders(place)]


def _refuse_layout(folder: Path, place: Path) -> None:
    below = {path.name: path for path in _folders(place)}
    for label_name, picture_name, mark, dataset in _LAYOUTS:
        labels = next((below[name] for name in below if re.fullmatch(label_name, name)), None)
        pictures = next((below[name] for name in below if re.fullmatch(picture_name, name)), None)
        if labels is None or pictures is None or (mark and not any(place.glob(mark))) or not _holds_pictures(labels):
            continue
        raise UsageError(
            f"{printable(folder)} is the root of a data set: {printable(labels)} holds label files, which are no "
            f"pictures to measure on; give {f'{dataset}, or ' if dataset else ''}the folder of the pictures, such as "
            f"--data {printable(pictures)}"
        )


def _holds_pictures(folder: Path) -> bool:
    return any(path.suffix.lower() in PICTURE_SUFFIXES for path in folder.rglob("*"))


def _folders(place: Path) -> list[Path]:
    """Folders in a folder, in natural order; none where it is no folder or cannot be read, which is said elsewhere."""
    try:
        return sorted((path for path in place.iterdir() if path.is_dir()), key=lambda path: natural_key(path.name))
    except OSError:
        return []
