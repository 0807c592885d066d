"""Data sets with ground truth, in the folders that their makers or mmsegmentation's preparation leave on disk.

Only a layout that is not there at all is an error here, and one in which no picture has the name of a label file; what
else is wrong with a picture is found when it is read, see `samples`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np

from algm_trt.plugins.errors import UsageError
from algm_trt.runtime.card import ModelCard
from algm_trt.runtime.class_lists import dataset_classes, label_values
from algm_trt.runtime.evaluation.label_files import (
    LabelCoding,
    Truth,
    plain_coding,
    read_label_map,
    read_panoptic,
    read_truth,
)
from algm_trt.runtime.evaluation.samples import Sample, first_file, first_folder, first_with, listed, paired
from algm_trt.runtime.json_text import json_value
from algm_trt.runtime.paths import printable
from algm_trt.runtime.sources import walk

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class EvaluationSet:
    """Pictures with ground truth and how the official evaluation shows them to a model.

    Attributes:
        dataset: its name.
        split: part of it, or "".
        samples: the pictures.
        coding: of its label files.
        class_names: names of its K classes, or empty where the set does not say.
        short_side: pixels that the official evaluation resizes a picture's short side to; None: as it is.
        max_ratio: the long side is at most this times `short_side`; None: no limit.
    """

    dataset: str
    split: str
    samples: tuple[Sample, ...]
    coding: LabelCoding
    class_names: tuple[str, ...] = ()
    short_side: int | None = None
    max_ratio: float | None = None

    def shown_at(self, short_side: int | None) -> tuple[int | None, float | None]:
        """Short side and largest ratio that pictures are shown at.

        Args:
            short_side: pixels; None takes the official evaluation's, 0 takes pictures as they are.
        """
        side = self.short_side if short_side is None else short_side or None
        return side, self.max_ratio if side else None

    def truth(self, sample: Sample, size: tuple[int, int]) -> Truth:
        """Ground truth of a picture of `size` = (height, width): (H, W) uint16, see `label_files`.

        Raises:
            LabelError: the label file cannot serve.
        """
        if sample.segments is not None:
            return read_panoptic(sample.label, sample.segments, size)
        return read_truth(sample.label, self.coding, size)


@dataclass(frozen=True)
class Places:
    """What a caller may say about where files lie and what they mean; None and "" take what the layout says.

    Attributes:
        split: part of the data set.
        images: folder of the pictures, in place of the layout's.
        labels: folder of the label files, in place of the layout's; for coco_panoptic the annotations' JSON.
        image_suffix: end of the pictures' names that their label files do not share, such as "_img.jpg".
        label_suffix: the same of the label files, such as "_gt.png".
        ignore: stored value that does not count; for "folder" in place of the model's, for others one more.
        label_map: JSON file {"stored value": class id or null}.
    """

    split: str | None = None
    images: Path | None = None
    labels: Path | None = None
    image_suffix: str = ""
    label_suffix: str = ""
    ignore: int | None = None
    label_map: Path | None = None


def open_set(dataset: str, root: Path, card: ModelCard, places: Places | None = None) -> EvaluationSet:
    """List the pictures of a data set.

    Args:
        dataset: one of `DATASETS`.
        root: its folder.
        card: of the model; "folder" takes the number of classes and the ignore value from it.
        places: what differs from the official layout.

    Raises:
        UsageError: an unknown data set, a layout that is not there, or an empty one.
    """
    if dataset not in DATASETS:
        raise UsageError(f"unknown data set '{dataset}': expected {', '.join(DATASETS)}")
    if not root.is_dir():
        raise UsageError(f"{printable(root)}: there is no such folder")
    places = places or Places()
    found = DATASETS[dataset](root, card, places)
    if not found.samples:
        raise UsageError(f"{printable(root)}: no picture of {dataset} {found.split} found".replace("  ", " "))
    if places.label_map is not None:
        ignored = card.ignore_index if places.ignore is None else places.ignore
        coding = read_label_map(places.label_map, found.coding.classes, ignored)
        return _replaced(found, coding)
    if places.ignore is not None:
        ids = {value: number for value, number in found.coding.ids.items() if value != places.ignore}
        return _replaced(found, LabelCoding(found.coding.classes, ids, found.coding.ignored | {places.ignore}))
    return found


def spread(items: Sequence[_Item], count: int) -> list[_Item]:
    """Some of a list, in its order and at equal distances: neighbours, such as frames of a video, are alike.

    The first and the last are among them.

    Args:
        items: of any kind.
        count: how many, at least 1; all of them where there are not so many.

    Raises:
        UsageError: a count below 1.
    """
    if count < 1:
        raise UsageError(f"at least 1 must be taken, got {count}")
    if count >= len(items):
        return list(items)
    return [items[int(index)] for index in np.linspace(0, len(items) - 1, count).round()]


def _replaced(found: EvaluationSet, coding: LabelCoding) -> EvaluationSet:
    if any(sample.segments is not None for sample in found.samples):
        raise UsageError("panoptic annotations say themselves what their values mean: leave out --ignore, --label-map")
    return replace(found, coding=coding)


def _ade20k(root: Path, card: ModelCard, places: Places) -> EvaluationSet:
    split = {None: "validation", "val": "validation", "train": "training"}.get(places.split) or str(places.split)
    named = places.images and places.labels
    base = root if named else first_with("images", root, root / "ADEChallengeData2016")
    pairs = _pairs(base / "images" / split, base / "annotations" / split, places)
    # 512 for models of 512 pixels, 640 for those of 640, as the official configurations have it
    return _known("ade20k", split, pairs, _official_coding("ade20k", 150, {0, 255}), max(512, *card.size), 4)


def _cityscapes(root: Path, card: ModelCard, places: Places) -> EvaluationSet:
    split = places.split or "val"
    images = places.images or first_folder(root / "leftImg8bit" / split)
    labels = places.labels or first_folder(root / "gtFine" / split)
    # the ids of training win where both lie on disk: cityscapesScripts makes them of the others
    suffix = places.label_suffix or "_gtFine_labelTrainIds.png"
    if not places.label_suffix and not any(parts[-1].endswith(suffix) for parts in walk(labels, recursive=True)):
        suffix = "_gtFine_labelIds.png"
    by_label_id = suffix.endswith("_labelIds.png")
    coding = _official_coding("cityscapes", 19, {*range(34), 255}) if by_label_id else plain_coding(19)
    samples = paired(images, labels, places.image_suffix or "_leftImg8bit.png", suffix)
    return _known("cityscapes", split, samples, coding, 1024, 2)


def _pascal_context(root: Path, card: ModelCard, places: Places) -> EvaluationSet:
    split = places.split or "val"
    base = first_with("JPEGImages", root, root / "VOC2010", root / "VOCdevkit" / "VOC2010")
    lists = [base / "ImageSets" / kind / f"{split}.txt" for kind in ("SegmentationContext", "Segmentation")]
    images = places.images or base / "JPEGImages"
    labels = places.labels or first_folder(base / "SegmentationClassContext")
    samples = listed(first_file(*lists), images, labels, places.image_suffix, places.label_suffix)
    return _known("pascal_context", split, samples, plain_coding(60), 520, 8)


def _coco_stuff(root: Path, card: ModelCard, places: Places) -> EvaluationSet:
    split = places.split or "val2017"
    images = places.images or first_folder(root / "images" / split, root / split)
    labels = places.labels or first_folder(
        root / "annotations" / split,
        root / "stuffthingmaps_trainval2017" / split,
        root / "stuffthingmaps" / split,
        root / "labels" / split,
    )
    suffix = places.label_suffix
    by_train_id = not suffix and any(labels.glob("*_labelTrainIds.png"))
    coding = _official_coding("coco_stuff", 171, {255})
    if by_train_id:
        suffix = "_labelTrainIds.png"
        # mmsegmentation prepares COCO-Stuff 10k (splits of 2014) with 0 for "no class", 164k with 255
        coding = plain_coding(171, first=1) if split.endswith("2014") else plain_coding(171)
    samples = paired(images, labels, places.image_suffix, suffix)
    return _known("coco_stuff", split, samples, coding, 512, 4)


def _coco_panoptic(root: Path, card: ModelCard, places: Places) -> EvaluationSet:
    split = places.split or "val2017"
    annotations = places.labels or first_file(
        root / "annotations" / f"panoptic_{split}.json", root / f"panoptic_{split}.json"
    )
    images = places.images or first_folder(root / split, root / "images" / split)
    try:
        data = json_value(annotations.read_text(encoding="utf-8"))
        names, samples = _panoptic_samples(data, images, annotations.with_suffix(""))
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else error
        raise UsageError(f"{printable(annotations)}: not the JSON of COCO panoptic annotations ({reason})") from error
    split = "" if places.labels else split
    return EvaluationSet("coco_panoptic", split, samples, LabelCoding(len(names), {}), names, 512, 4)


def _panoptic_samples(
    data: Mapping[str, Any], images: Path, labels: Path
) -> tuple[tuple[str, ...], tuple[Sample, ...]]:
    """Class names in the order of the category ids, and the pictures of the annotations."""
    categories = sorted(data["categories"], key=lambda category: int(category["id"]))
    ids = {int(category["id"]): number for number, category in enumerate(categories)}
    files = {image["id"]: str(image["file_name"]) for image in data["images"]}
    samples = []
    for entry in data["annotations"]:
        picture = images / files[entry["image_id"]]
        segments = {int(segment["id"]): ids[int(segment["category_id"])] for segment in entry["segments_info"]}
        samples.append(Sample(picture.stem, picture, labels / entry["file_name"], segments))
    return tuple(str(category["name"]) for category in categories), tuple(samples)


def _camvid(root: Path, card: ModelCard, places: Places) -> EvaluationSet:
    split = places.split or "test"
    images = places.images or first_folder(root / "images" / split, root / split)
    labels = places.labels or first_folder(root / "labels" / split, root / f"{split}annot")
    listing = root / f"{split}.txt"
    samples = (
        listed(listing, images, labels, places.image_suffix, places.label_suffix)
        if listing.is_file()
        else paired(images, labels, places.image_suffix, places.label_suffix)
    )
    return _known("camvid", split, samples, plain_coding(11, ignored=11), None, None)


def _folder_of_pairs(root: Path, card: ModelCard, places: Places) -> EvaluationSet:
    split = places.split or ""
    samples = _pairs(root / "images" / split, root / "labels" / split, places)
    coding = plain_coding(len(card.classes), card.ignore_index if places.ignore is None else places.ignore)
    return EvaluationSet("folder", split, tuple(samples), coding, card.classes, card.short_side)


DATASETS: Final[Mapping[str, Callable[[Path, ModelCard, Places], EvaluationSet]]] = {
    "ade20k": _ade20k,
    "cityscapes": _cityscapes,
    "pascal_context": _pascal_context,
    "coco_stuff": _coco_stuff,
    "coco_panoptic": _coco_panoptic,
    "camvid": _camvid,
    "folder": _folder_of_pairs,
}


def _known(
    name: str,
    split: str,
    samples: Sequence[Sample],
    coding: LabelCoding,
    short_side: int | None,
    max_ratio: float | None,
) -> EvaluationSet:
    """A set whose classes are known by its name."""
    names = dataset_classes(name).classes
    return EvaluationSet(name, split, tuple(samples), coding, names, short_side, max_ratio)


def _official_coding(dataset: str, classes: int, others: Set[int]) -> LabelCoding:
    """Of the official label files; of `others`, what is no class does not count."""
    ids = {value: number for number, value in enumerate(label_values(dataset, classes))}
    return LabelCoding(classes, ids, frozenset(others - ids.keys()))


def _pairs(images: Path, labels: Path, places: Places) -> list[Sample]:
    """Pictures and label files of the layout's two folders, or of those that the caller names."""
    images = places.images or first_folder(images)
    labels = places.labels or first_folder(labels)
    return paired(images, labels, places.image_suffix, places.label_suffix)
