"""Ground truth from label files: stored values to class ids, checked pixel by pixel.

Nothing is repaired here. A file that is missing, of another size, or holds a value that is neither a class nor ignored
raises, so that its picture is named and left out, and never averaged in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from algm_trt.plugins.errors import AlgmError, UsageError
from algm_trt.runtime.evaluation.metrics import IGNORED, MOST_CLASSES
from algm_trt.runtime.json_text import json_value
from algm_trt.runtime.paths import printable

Truth = NDArray[np.uint16]

_VALUES: Final = 2**16  # stored values lie below
_INVALID: Final = IGNORED - 1
_MODES: Final = ("1", "L", "P", "I;16", "I;16L", "I;16B", "I", "RGB")
_NAMED_VALUES: Final = 5


class LabelError(AlgmError):
    """A label file that cannot serve as ground truth."""


@dataclass(frozen=True)
class LabelCoding:
    """What the values of a label file mean.

    Attributes:
        classes: number of classes K.
        ids: stored value -> class id of 0..K-1.
        ignored: stored values of pixels that do not count.
    """

    classes: int
    ids: Mapping[int, int] = field(hash=False)
    ignored: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        if not 1 <= self.classes <= MOST_CLASSES:
            raise UsageError(f"ground truth of {self.classes} classes: 1 to {MOST_CLASSES} can be evaluated")
        if any(not 0 <= value < _VALUES for value in (*self.ids, *self.ignored)):
            raise UsageError(f"values of label files must lie in 0..{_VALUES - 1}")
        wrong = [number for number in self.ids.values() if not 0 <= number < self.classes]
        if wrong:
            raise UsageError(f"class id {wrong[0]} is outside 0..{self.classes - 1}")

    @cached_property
    def table(self) -> Truth:
        """(65536,) class id, IGNORED or an invalid mark of every stored value."""
        table = np.full(_VALUES, _INVALID, np.uint16)
        table[list(self.ids)] = list(self.ids.values())
        table[list(self.ignored)] = IGNORED
        return table


def plain_coding(classes: int, ignored: int = 255, first: int = 0) -> LabelCoding:
    """Stored values first..first+K-1 are the classes in order; `ignored` does not count, even where it is a class.

    A file of K classes with `first=1` has 0 for "no class", as ADE20K does; that does not count either.
    """
    ids = {first + number: number for number in range(classes) if first + number != ignored}
    return LabelCoding(classes, ids, frozenset({ignored, *range(first)}))


def read_label_map(path: Path, classes: int, ignored: int) -> LabelCoding:
    """A coding from a JSON file of the user: {"stored value": class id, or null for ignored}.

    Raises:
        UsageError: the file cannot be read or is not such a table.
    """
    try:
        data = json_value(path.read_text(encoding="utf-8"))
        given = {int(value): _class_id_or_none(number) for value, number in data.items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UsageError(f'{path}: not a label map such as {{"1": 0, "2": 1, "3": null}} ({error})') from error
    ids = {value: number for value, number in given.items() if number is not None}
    return LabelCoding(classes, ids, frozenset({ignored, *(given.keys() - ids.keys())} - ids.keys()))


def read_truth(path: Path, coding: LabelCoding, size: tuple[int, int]) -> Truth:
    """Class ids of a label file.

    Args:
        path: picture of one value per pixel: grey, palette (the indices count, not the colours) or 16 bits; also RGB
            with three equal channels.
        coding: what the values mean.
        size: height and width that the picture has.

    Returns:
        (H, W) uint16 class ids, IGNORED where the pixel does not count.

    Raises:
        LabelError: see the head of this module.
    """
    values = _one_channel(_read(path, size), path)
    truth = coding.table[np.clip(values, 0, _VALUES - 1)]
    invalid = (truth == _INVALID) | (values < 0) | (values >= _VALUES)
    if invalid.any():
        wrong = values[invalid]
        raise LabelError(f"{printable(path)}: {_describe(wrong)} of no class and not ignored; {_cure(wrong)}")
    return truth


def read_panoptic(path: Path, segments: Mapping[int, int], size: tuple[int, int]) -> Truth:
    """Class ids of a COCO panoptic PNG, in which a segment has the colour id = R + 256 G + 65536 B, and 0 is nothing.

    Args:
        path: the PNG.
        segments: segment id -> class id.
        size: height and width that the picture has.

    Raises:
        LabelError: see the head of this module; also a segment that the annotations do not list.
    """
    colours = _read(path, size)
    if colours.ndim != 3:
        raise LabelError(f"{printable(path)}: a panoptic label file is an RGB picture")
    found, places = np.unique(colours.astype(np.int64) @ np.array([1, 2**8, 2**16]), return_inverse=True)
    unknown = [int(number) for number in found if number and int(number) not in segments]
    if unknown:
        raise LabelError(f"{printable(path)}: segment {unknown[0]} is not in the annotations")
    ids = np.array([segments[int(number)] if number else IGNORED for number in found], np.uint16)
    return ids[places].reshape(size)


def _class_id_or_none(value: object) -> int | None:
    if value is not None and type(value) is not int:
        raise ValueError(f"{value!r} is not a class id")
    return value


def _read(path: Path, size: tuple[int, int]) -> NDArray[np.generic]:
    """Pixels of a label file, (H, W) or (H, W, 3)."""
    try:
        if not path.is_file():
            raise LabelError(f"{printable(path)}: there is no such label file; --label-suffix names another end")
        with Image.open(path) as picture:
            if (picture.height, picture.width) != size:
                raise LabelError(
                    f"{printable(path)}: {picture.width}x{picture.height} pixels, "
                    f"but the picture has {size[1]}x{size[0]}"
                )
            if picture.format == "JPEG":
                raise LabelError(f"{printable(path)}: JPEG does not keep class ids; store labels as PNG")
            if picture.mode not in _MODES:
                raise LabelError(f"{printable(path)}: a picture of mode {picture.mode} holds no class ids")
            if picture.mode == "RGB" and "RGB;16" in str(picture.tile):  # Pillow keeps the upper 8 of them
                raise LabelError(f"{printable(path)}: colours of 16 bits; store the ids as grey or palette PNG")
            return np.asarray(picture)
    except LabelError:
        raise
    except Exception as error:  # Pillow's readers raise errors of many types on damaged data
        reason = " ".join(str(error).split()) or type(error).__name__
        raise LabelError(f"{printable(path)}: the label file cannot be read ({reason})") from error


def _one_channel(pixels: NDArray[np.generic], path: Path) -> NDArray[np.int64]:
    if pixels.ndim == 3:
        if (pixels != pixels[..., :1]).any():
            raise LabelError(f"{printable(path)}: colours, not class ids; store the ids as grey or palette PNG")
        pixels = pixels[..., 0]
    return pixels.astype(np.int64)


def _describe(values: NDArray[np.int64]) -> str:
    """Such as "value 7 in 12 pixels"."""
    found = np.unique(values)
    named = ", ".join(str(value) for value in found[:_NAMED_VALUES])
    more = ", ..." if len(found) > _NAMED_VALUES else ""
    return f"value{'s' if len(found) > 1 else ''} {named}{more} in {values.size} pixels"


def _cure(values: NDArray[np.int64]) -> str:
    """How algm-eval is told what unknown values mean."""
    found = np.unique(values)
    if len(found) == 1 and 0 <= found[0] < _VALUES:
        return f"--ignore {found[0]} leaves them out, --label-map says what values mean"
    return "--label-map says what values mean"
