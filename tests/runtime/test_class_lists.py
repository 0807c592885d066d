"""Class lists: the packaged ones hold the right facts, files of the user are read or refused with the place."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from algm_trt.plugins.errors import AlgmError
from algm_trt.plugins.spec import MAX_CLASSES
from algm_trt.runtime.class_lists import (
    ClassListError,
    DatasetClasses,
    UnknownDatasetError,
    dataset_classes,
    known_datasets,
    label_values,
    numbered_classes,
    read_class_file,
)

# Name: number of classes, ignore value, and a few (id, name, colour) of the official lists.
FACTS = {
    "ade20k": (
        150,
        255,
        [
            (0, "wall", (120, 120, 120)),
            (1, "building, edifice", (180, 120, 120)),
            (12, "person, individual, someone, somebody, mortal, soul", (150, 5, 61)),
            (75, "swivel chair", (10, 0, 255)),
            (149, "flag", (92, 0, 255)),
        ],
    ),
    "cityscapes": (
        19,
        255,
        [(0, "road", (128, 64, 128)), (11, "person", (220, 20, 60)), (18, "bicycle", (119, 11, 32))],
    ),
    "pascal_context": (
        60,
        255,
        [(0, "background", (120, 120, 120)), (15, "person", (255, 6, 82)), (59, "wood", (31, 0, 255))],
    ),
    "coco_stuff": (
        171,
        255,
        [(0, "person", (0, 192, 64)), (80, "banner", (0, 192, 0)), (170, "wood", (64, 64, 0))],
    ),
    "camvid": (
        11,
        11,
        [(0, "sky", (128, 128, 128)), (3, "road", (128, 64, 128)), (10, "bicyclist", (0, 128, 192))],
    ),
}


# Name: (class name, value in the official label files) of a few classes.
LABEL_VALUES = {
    "ade20k": [("wall", 1), ("flag", 150)],
    "cityscapes": [("road", 7), ("wall", 12), ("traffic light", 19), ("person", 24), ("train", 31), ("bicycle", 33)],
    "pascal_context": [("background", 0), ("wood", 59)],
    "coco_stuff": [("person", 0), ("fire hydrant", 10), ("stop sign", 12), ("toothbrush", 89), ("wood", 181)],
    "camvid": [("sky", 0), ("bicyclist", 10)],
}


@pytest.mark.parametrize("dataset", FACTS)
def test_label_files_have_their_own_values(dataset: str) -> None:
    classes = dataset_classes(dataset).classes
    values = label_values(dataset, len(classes))
    assert len(values) == len(set(values)) == len(classes)
    assert [(name, values[classes.index(name)]) for name, _ in LABEL_VALUES[dataset]] == LABEL_VALUES[dataset]


def test_other_classes_are_their_own_values() -> None:
    assert label_values("", 3) == (0, 1, 2)
    assert label_values("cityscapes", 20) == tuple(range(20))


def test_every_data_set_is_known() -> None:
    assert known_datasets() == tuple(FACTS)


@pytest.mark.parametrize("name", FACTS)
def test_packaged_lists_have_the_known_classes(name: str) -> None:
    count, ignore_index, samples = FACTS[name]
    classes = dataset_classes(name)
    assert classes.name == name
    assert len(classes.classes) == len(set(classes.classes)) == len(classes.palette) == count
    assert classes.ignore_index == ignore_index
    for index, class_name, colour in samples:
        assert (classes.classes[index], classes.palette[index]) == (class_name, colour)


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("ADE20K", "ade20k"),
        ("ade", "ade20k"),
        ("ade20k_large", "ade20k"),
        ("ADE20K-150", "ade20k"),
        ("Cityscapes", "cityscapes"),
        ("pascal_context", "pascal_context"),
        ("Pascal-Context 60", "pascal_context"),
        ("pascalcontext", "pascal_context"),
        ("coco_stuff", "coco_stuff"),
        ("COCO-Stuff-171", "coco_stuff"),
        ("cocostuff171", "coco_stuff"),
        ("CamVid", "camvid"),
        ("camvid-11", "camvid"),
    ],
)
def test_every_spelling_finds_its_data_set(spelling: str, name: str) -> None:
    assert dataset_classes(spelling).name == name


@pytest.mark.parametrize("name", ["", "imagenet", "pascal_context_59"])
def test_unknown_data_set(name: str) -> None:
    with pytest.raises(UnknownDatasetError, match=r"ade20k, cityscapes.*--classes FILE"):
        dataset_classes(name)


def test_numbered_classes_have_distinct_colours() -> None:
    classes = numbered_classes(MAX_CLASSES)
    assert classes.classes[:2] == ("class 0", "class 1")
    assert classes.classes[-1] == f"class {MAX_CLASSES - 1}"
    assert len(set(classes.palette)) == MAX_CLASSES
    assert classes.palette[:4] == ((0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0))  # the colours of PASCAL VOC
    assert numbered_classes(21).palette == classes.palette[:21]


@pytest.mark.parametrize(("count", "ignore_index"), [(1, 255), (255, 255), (256, 65535), (65535, 65535)])
def test_the_ignore_value_is_never_a_class(count: int, ignore_index: int) -> None:
    assert numbered_classes(count).ignore_index == ignore_index


@pytest.mark.parametrize("count", [0, -1, MAX_CLASSES + 1])
def test_an_impossible_number_of_classes_is_refused(count: int) -> None:
    with pytest.raises(ClassListError, match="1 to 65535"):
        numbered_classes(count)


def test_inconsistent_lists_are_refused() -> None:
    red = (255, 0, 0)
    for arguments, words in (
        (("", ("a", "b"), (red,)), "2 classes with 1 colours"),
        (("", ("a", " "), (red, red)), "class 1 has no name"),
        (("", ("a",), ((0, 0, 256),)), r"class 0 \(a\)"),
        (("", ("a",), (red,), 0), "ignore value 0"),
    ):
        with pytest.raises(ClassListError, match=words):
            DatasetClasses(*arguments)  # type: ignore[arg-type]
    assert issubclass(ClassListError, AlgmError)


def write(folder: Path, text: str, name: str = "classes.txt") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_text_without_colours(tmp_path: Path) -> None:
    text = "\ufeff# my classes\nroad\n\n  tree, bush  \r\nlane 1 2\nétang\n"
    classes = read_class_file(write(tmp_path, text))
    assert classes.classes == ("road", "tree, bush", "lane 1 2", "étang")
    assert classes.palette == numbered_classes(4).palette
    assert (classes.name, classes.ignore_index) == ("", 255)


def test_text_with_colours(tmp_path: Path) -> None:
    text = "road,128,64,128\nbuilding, edifice, 1,2,3\nopen sky 4 5 6\nsea\t7\t8\t9\nx10, 10, 11 ,12,\n"
    classes = read_class_file(write(tmp_path, text))
    assert classes.classes == ("road", "building, edifice", "open sky", "sea", "x10")
    assert classes.palette == ((128, 64, 128), (1, 2, 3), (4, 5, 6), (7, 8, 9), (10, 11, 12))


@pytest.mark.parametrize(
    "data",
    [
        ["a", "b"],
        {"classes": ["a", "b"]},
    ],
)
def test_json_without_colours(tmp_path: Path, data: object) -> None:
    for name in ("c.json", "c.txt"):
        classes = read_class_file(write(tmp_path, json.dumps(data), name))
        assert (classes.classes, classes.palette) == (("a", "b"), numbered_classes(2).palette)


@pytest.mark.parametrize(
    "data",
    [
        [{"name": "a", "color": [1, 2, 3]}, {"name": "b", "color": [4, 5, 6]}],
        {"classes": ["a", "b"], "palette": [[1, 2, 3], [4, 5, 6]], "name": "mine", "ignore_index": 7},
        {"classes": [{"name": "a"}, {"name": "b"}], "palette": [[1, 2, 3], [4, 5, 6]]},
    ],
)
def test_json_with_colours(tmp_path: Path, data: object) -> None:
    classes = read_class_file(write(tmp_path, json.dumps(data), "c.json"))
    assert (classes.classes, classes.palette) == (("a", "b"), ((1, 2, 3), (4, 5, 6)))
    if isinstance(data, dict) and "name" in data:
        assert (classes.name, classes.ignore_index) == ("mine", 7)


@pytest.mark.parametrize(
    ("line", "name", "colour"),
    [
        ("a 1 2 3", "a", (1, 2, 3)),
        ("a , 1 , 2 , 3 ,", "a", (1, 2, 3)),
        ("traffic  light,1,2,3", "traffic  light", (1, 2, 3)),
        ("7,1,2,3", "7", (1, 2, 3)),
        ("1,2,3", "1,2,3", None),
        ("a1,2,3", "a1,2,3", None),
        ("a,1,2,3.5", "a,1,2,3.5", None),
        ("a,2,3," + "1" * 5000, "a,2,3," + "1" * 5000, None),
    ],
    ids=lambda value: str(value)[:20],
)
def test_lines_with_and_without_a_colour(
    tmp_path: Path, line: str, name: str, colour: tuple[int, int, int] | None
) -> None:
    classes = read_class_file(write(tmp_path, f"{line}\n", "c.txt"))
    assert classes.classes == (name,)
    assert classes.palette == (colour or (0, 0, 0),)


def test_a_long_line_is_read_in_no_time(tmp_path: Path) -> None:
    space = " " * 100_000
    start = time.perf_counter()
    read_class_file(write(tmp_path, f"a{space}1{space}2{space}b\n", "c.txt"))
    assert time.perf_counter() - start < 2


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("c.txt", "", "no class"),
        ("c.txt", "# only a comment\n", "no class"),
        ("c.txt", "a,1,2,3\nb\n", r"class 1 \(b\) has no colour"),
        ("c.txt", "a,1,2,300\n", r"class 0 \(a\).*300"),
        ("c.json", "{", "not valid JSON"),
        ("c.json", "[" * 100_000, "not valid JSON"),
        ("c.json", "[]", "no class"),
        ("c.json", '"a"', "expected a list"),
        ("c.json", '{"names": ["a"]}', "expected a list"),
        ("c.json", "[1]", "class 0 must be a name"),
        ("c.json", '[{"name": "a", "color": [1, 2]}]', "three whole numbers"),
        ("c.json", '[{"name": "a", "color": [1, 2, 0.5]}]', "three whole numbers"),
        ("c.json", '[{"name": "a", "color": [1, 2, -3]}]', "-3"),
        ("c.json", '{"classes": ["a"], "palette": [[1, 2, 3], [4, 5, 6]]}', "one colour per class"),
        ("c.json", '{"classes": ["a", "b"], "ignore_index": 1}', "ignore value 1"),
        ("c.json", '{"classes": ["a", "b"], "ignore_index": "x"}', "whole number"),
    ],
)
def test_bad_files_say_what_and_where(tmp_path: Path, name: str, text: str, words: str) -> None:
    path = write(tmp_path, text, name)
    with pytest.raises(ClassListError, match=words) as caught:
        read_class_file(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ClassListError, match="No such file"):
        read_class_file(tmp_path / "missing.txt")
    with pytest.raises(ClassListError, match="Is a directory"):
        read_class_file(tmp_path)
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(ClassListError, match="not UTF-8"):
        read_class_file(tmp_path / "latin.txt")


@pytest.mark.parametrize("name", FACTS)
def test_packaged_files_are_class_files_too(tmp_path: Path, name: str) -> None:
    known = dataset_classes(name)
    lines = [
        f"{label},{red},{green},{blue}" for label, (red, green, blue) in zip(known.classes, known.palette, strict=True)
    ]
    again = read_class_file(write(tmp_path, "\n".join(lines)))
    assert (again.classes, again.palette) == (known.classes, known.palette)


@pytest.mark.shared
def test_camvid_is_that_of_the_shared_data(shared: Path) -> None:
    data = json.loads((shared / "data" / "camvid" / "classes.json").read_text())
    camvid = dataset_classes("camvid")
    assert camvid.ignore_index == data["ignore_index"]
    expected = [(entry["name"], tuple(entry["color"])) for entry in data["classes"] if not entry.get("ignore")]
    assert list(zip(camvid.classes, camvid.palette, strict=True)) == expected
