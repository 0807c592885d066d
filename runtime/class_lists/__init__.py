"""Class names and colours: of the data sets known by name, of a file of the user, or numbered.

The lists lie beside this file, *.json. ADE20K, Cityscapes and Pascal Context have the names, ids and colours of the
official ALGM code; COCO-Stuff has the 171 classes in the order and colours of mmsegmentation, where eight colours stand
for two or three classes each; CamVid has the 11 classes of SegNet.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Final

from algm_trt.plugins.errors import AlgmError
from algm_trt.plugins.spec import MAX_CLASSES
from algm_trt.runtime.json_text import json_value

Colour = tuple[int, int, int]

_SPELLINGS: Final = {
    "ade20k": ("ade", "ade150", "ade20k150", "ade20klarge", "adechallengedata2016", "sceneparsing"),
    "cityscapes": ("cityscapes19",),
    "pascal_context": ("pascalcontext60", "pcontext", "pcontext60", "context60"),
    "coco_stuff": ("cocostuff171", "cocostuff10k", "cocostuff164k"),
    "camvid": ("camvid11",),
}
# Values of official label files that are not the class ids. ADE20K keeps 0 for "no class"; Cityscapes evaluates 19 of
# its 34 classes (cityscapesScripts, labels.py); COCO-Stuff stores COCO's ids less 1, of which some were never labelled.
_LABEL_VALUES: Final = {
    "ade20k": tuple(range(1, 151)),
    "cityscapes": (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33),
    "coco_stuff": tuple(sorted(set(range(182)) - {11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90})),
}
_WORD: Final = re.compile(r"[^,\s]+")
_NUMBER: Final = re.compile(r"\d{1,9}")


class ClassListError(AlgmError):
    """A list of classes that cannot be read or makes no sense."""


class UnknownDatasetError(AlgmError):
    """No class list has that data-set name."""


@dataclass(frozen=True)
class DatasetClasses:
    """What the class ids of a model mean.

    Attributes:
        name: data-set name, or "" for a list of the user's own.
        classes: class names; the index is the class id.
        palette: one (red, green, blue) of 0..255 per class.
        ignore_index: value of label files for "no class", never a class id. For ADE20K it is 255, the value after the
            official shift of the stored ids 1..150 to 0..149.
    """

    name: str
    classes: tuple[str, ...]
    palette: tuple[Colour, ...]
    ignore_index: int = 255

    def __post_init__(self) -> None:
        _check_count(len(self.classes))
        if len(self.palette) != len(self.classes):
            raise ClassListError(f"{len(self.classes)} classes with {len(self.palette)} colours: give one colour each")
        for index, (name, colour) in enumerate(zip(self.classes, self.palette, strict=True)):
            if not name.strip():
                raise ClassListError(f"class {index} has no name")
            if len(colour) != 3 or not all(0 <= value <= 255 for value in colour):
                raise ClassListError(f"class {index} ({name}): a colour is three numbers of 0..255, got {colour}")
        if not len(self.classes) <= self.ignore_index <= MAX_CLASSES:
            raise ClassListError(
                f"the ignore value {self.ignore_index} must lie above the class ids 0..{len(self.classes) - 1} "
                f"and be at most {MAX_CLASSES}"
            )


def known_datasets() -> tuple[str, ...]:
    """Names of the data sets whose classes are known."""
    return tuple(_SPELLINGS)


def dataset_classes(name: str) -> DatasetClasses:
    """Classes of a data set by its name; case, hyphens, underscores and spaces do not matter.

    Raises:
        UnknownDatasetError: no such data set; the message lists the known ones.
    """
    wanted = _plain(name)
    for known, spellings in _SPELLINGS.items():
        if wanted == _plain(known) or wanted in spellings:
            return _packaged(known)
    raise UnknownDatasetError(
        f"unknown data set {name!r}: known are {', '.join(_SPELLINGS)}; give other class names with --classes FILE"
    )


def label_values(dataset: str, classes: int) -> tuple[int, ...]:
    """The value of each class in the official label files of a data set, which are what its evaluation server takes.

    Args:
        dataset: name of a model's data set, or "".
        classes: number of the model's classes.

    Returns:
        One value per class: the class ids themselves for other data sets, and for other numbers of classes.
    """
    values = _LABEL_VALUES.get(dataset, ())
    return values if len(values) == classes else tuple(range(classes))


def numbered_classes(count: int) -> DatasetClasses:
    """Classes "class 0" to "class COUNT-1" with distinct colours, for a model of which nothing else is known.

    Raises:
        ClassListError: count is not in 1..65535.
    """
    _check_count(count)
    return _with_colours([f"class {index}" for index in range(count)], None, name="", ignore_index=None)


def read_class_file(path: str | Path) -> DatasetClasses:
    """Classes from a file of the user (`--classes FILE`).

    Text has one class per line, `name`, `name,R,G,B` or `name R G B`; empty lines and lines that begin with # do not
    count. JSON is a list of names, a list of {"name", "color"}, or {"classes": either list, "palette": colours,
    "ignore_index": value, "name": data set}, of which only "classes" must be there. Either all classes have a colour or
    none; without colours they get those of `numbered_classes`.

    Raises:
        ClassListError: the file cannot be read or holds no class list; the message says where.
    """
    path = Path(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ClassListError(f"{path}: the class list cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise ClassListError(f"{path}: the class list is not UTF-8 text") from error
    try:
        if path.suffix.lower() == ".json" or text.lstrip()[:1] in ("[", "{"):
            return _from_json(text)
        return _from_lines(text.splitlines())
    except ClassListError as error:
        raise ClassListError(f"{path}: {error}") from error


@cache
def _packaged(name: str) -> DatasetClasses:
    file = resources.files(__name__) / f"{name}.json"
    return _from_json(file.read_text(encoding="utf-8"))


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.casefold())


def _check_count(count: int) -> None:
    if not 1 <= count <= MAX_CLASSES:
        raise ClassListError(f"a model has 1 to {MAX_CLASSES} classes, got {count}")


def _numbered_colour(index: int) -> Colour:
    """Colour of PASCAL VOC: the bits of the index, dealt in turn to red, green and blue from the highest bit down.

    No two indices below 2**24 share a colour, because no bit is lost.
    """
    channels = [0, 0, 0]
    for position in range(24):
        channels[position % 3] |= (index >> position & 1) << (7 - position // 3)
    red, green, blue = channels
    return red, green, blue


def _with_colours(
    names: Sequence[str], colours: Sequence[Colour] | None, *, name: str, ignore_index: int | None
) -> DatasetClasses:
    if colours is None:
        colours = [_numbered_colour(index) for index in range(len(names))]
    if ignore_index is None:
        ignore_index = 255 if len(names) <= 255 else MAX_CLASSES
    return DatasetClasses(name, tuple(names), tuple(colours), ignore_index)


def _from_lines(lines: Sequence[str]) -> DatasetClasses:
    entries = [_line_entry(line) for line in map(str.strip, lines) if line and not line.startswith("#")]
    return _from_entries(entries, name="", ignore_index=None)


def _line_entry(line: str) -> tuple[str, Colour | None]:
    """Name and colour, which is the last three words where those are numbers: time is linear in the line's length."""
    numbers = list(_WORD.finditer(line))[-3:]
    if len(numbers) == 3 and all(_NUMBER.fullmatch(word[0]) for word in numbers):
        before = line[: numbers[0].start()]
        if before.strip():
            red, green, blue = (int(word[0]) for word in numbers)
            return before.rstrip(", \t"), (red, green, blue)
    return line, None


def _from_json(text: str) -> DatasetClasses:
    try:
        data = json_value(text)
    except ValueError as error:
        raise ClassListError(f"not valid JSON ({error})") from error
    if isinstance(data, list):
        data = {"classes": data}
    if not isinstance(data, dict) or not isinstance(data.get("classes"), list):
        raise ClassListError('expected a list of class names, or an object with "classes"')
    entries = [_json_entry(index, item) for index, item in enumerate(data["classes"])]
    palette = data.get("palette")
    if palette is not None:
        if not isinstance(palette, list) or len(palette) != len(entries):
            raise ClassListError('"palette" must be a list with one colour per class')
        entries = [(name, _json_colour(index, palette[index])) for index, (name, _) in enumerate(entries)]
    name, ignore_index = data.get("name", ""), data.get("ignore_index")
    if not isinstance(name, str) or not (ignore_index is None or isinstance(ignore_index, int)):
        raise ClassListError('"name" must be a text and "ignore_index" a whole number')
    return _from_entries(entries, name=name, ignore_index=ignore_index)


def _json_entry(index: int, item: Any) -> tuple[str, Colour | None]:
    if isinstance(item, str):
        return item, None
    if isinstance(item, dict) and isinstance(item.get("name"), str):
        colour = item.get("color")
        return item["name"], None if colour is None else _json_colour(index, colour)
    raise ClassListError(f'class {index} must be a name or {{"name": ..., "color": [R, G, B]}}, got {item!r}')


def _json_colour(index: int, value: Any) -> Colour:
    if isinstance(value, list) and len(value) == 3 and all(type(part) is int for part in value):
        return value[0], value[1], value[2]
    raise ClassListError(f"class {index}: a colour is three whole numbers of 0..255, got {value!r}")


def _from_entries(
    entries: Sequence[tuple[str, Colour | None]], *, name: str, ignore_index: int | None
) -> DatasetClasses:
    if not entries:
        raise ClassListError("no class in it")
    names = [entry[0] for entry in entries]
    colours = [colour for _, colour in entries if colour is not None]
    if colours and len(colours) < len(entries):
        index = next(index for index, entry in enumerate(entries) if entry[1] is None)
        raise ClassListError(f"class {index} ({names[index]}) has no colour but others have: give all one or none")
    return _with_colours(names, colours or None, name=name, ignore_index=ignore_index)
