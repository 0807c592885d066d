"""The kinds of output files, one function each, and `save_result`, which writes those asked for."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from algm_trt.plugins.errors import AlgmError, UsageError
from algm_trt.runtime.class_lists import label_values
from algm_trt.runtime.files import renamed_together
from algm_trt.runtime.paint import full_palette
from algm_trt.runtime.png import write_png
from algm_trt.runtime.token_picture import token_picture

if TYPE_CHECKING:
    from algm_trt.runtime.result import SegmentationResult

JPEG_QUALITY: Final = 90
_JPEG_MAX_SIDE: Final = 65500  # libjpeg's limit
NAME_REFUSED: Final = (errno.EINVAL, errno.EILSEQ)
"""What vfat and SMB shares say of names that they cannot have, with a colon or a backslash for instance."""
_MAX_NAME_BYTES: Final = 250  # 255 in most file systems, less the longest suffix


class WriteError(AlgmError):
    """An output file that cannot be written."""


@dataclass(frozen=True)
class WrittenFile:
    """One output as recorded in results.jsonl.

    Attributes:
        path: relative to the output folder, with forward slashes.
        bytes: size of the file, or of all files of the folder.
        count: number of files of a folder, None for a file.
    """

    path: str
    bytes: int
    count: int | None = None


def save_result(result: SegmentationResult, folder: Path, name: str, what: str | Sequence[str]) -> list[WrittenFile]:
    """Write the files of one picture, all or none.

    Args:
        result: the picture's segmentation.
        folder: output folder; each kind has a subfolder of its name.
        name: of the files, without suffix; may hold folders, below the output folder.
        what: some of KINDS.

    Returns:
        What was written, in the order of `what`.

    Raises:
        UsageError: an unknown kind, or a name that is not relative, leads out of the folder or has an empty part.
        WriteError: a file that cannot be written.
    """
    kinds = parse_kinds(what)
    _check_name(name)
    targets = [output_path(kind, name) for kind in kinds]
    with write_errors(name, folder), renamed_together() as temporary:
        drafts = [temporary(folder / target) for target in targets]
        for kind, draft in zip(kinds, drafts, strict=True):
            KINDS[kind].write(result, draft)
        sizes = [draft.stat().st_size for draft in drafts]
    return [WrittenFile(target.as_posix(), size) for target, size in zip(targets, sizes, strict=True)]


def _check_name(name: str) -> None:
    """Names may come from whoever sent a picture: none may lead out of the output folder."""
    try:
        encoded = os.fsencode(name)
    except UnicodeEncodeError as error:
        raise UsageError(f"a file cannot have the name {name!r}") from error
    if b"\0" in encoded or any(part in ("", ".", "..") for part in name.split("/")):
        raise UsageError(f"files need a relative name, without '.', '..', empty parts and NUL, got {name!r}")


@contextmanager
def write_errors(name: str, folder: Path) -> Iterator[None]:
    """Say of what the system refuses whose files it is about.

    Raises:
        WriteError: in place of an OSError.
    """
    try:
        yield
    except OSError as error:
        hint = " (it may not take such a name)" if error.errno in NAME_REFUSED else ""
        raise WriteError(f"cannot write the files of {name} under {folder}: {error.strerror or error}{hint}") from error


def output_path(kind: str, name: str) -> Path:
    """Path below the output folder of one kind of file for the picture `name`.

    A name that would be too long for a file system with the suffix is cut and told apart by a hash.
    """
    folder, slash, last = name.rpartition("/")
    raw = os.fsencode(last)
    if len(raw) > _MAX_NAME_BYTES:
        digest = hashlib.sha1(raw, usedforsecurity=False).hexdigest()[:12]
        last = f"{raw[: _MAX_NAME_BYTES - 13].decode(errors='ignore')}~{digest}"
    return Path(kind) / f"{folder}{slash}{last}{KINDS[kind].suffix}"


def parse_kinds(what: str | Sequence[str]) -> tuple[str, ...]:
    """Read a list like "labels,overlay" or ["labels", "overlay"]; repetitions count once.

    Raises:
        UsageError: an unknown kind, or none.
    """
    words = what.split(",") if isinstance(what, str) else what
    kinds = tuple(dict.fromkeys(word.strip() for word in words if word.strip()))
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        raise UsageError(f"cannot save {', '.join(unknown) or 'nothing'}: choose from {', '.join(KINDS)}")
    return kinds


def write_overlay(picture: NDArray[np.uint8], path: Path) -> None:
    """Write (H, W, 3) uint8 RGB as JPEG.

    Raises:
        WriteError: a side beyond what JPEG can hold.
        OSError: the file cannot be written.
    """
    if max(picture.shape[:2]) > _JPEG_MAX_SIDE:
        raise WriteError(
            f"JPEG holds at most {_JPEG_MAX_SIDE} pixels a side, the picture is {picture.shape[1]}x{picture.shape[0]}: "
            "save color instead of overlay"
        )
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    _, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    path.write_bytes(data.data)


def coco_annotations(labels: NDArray[np.generic], classes: Sequence[str]) -> list[dict[str, Any]]:
    """One COCO annotation per class that is present, with uncompressed run lengths.

    All runs of the picture are found in one pass. Runs of one class never touch, so that its counts alternate between
    the gap before a run and the run.

    Args:
        labels: (H, W) class ids.
        classes: class names.

    Returns:
        Dictionaries with category_id (the class id), category_name, segmentation (size [H, W] and counts, column by
        column, beginning with zeros), area in pixels and bbox [x, y, width, height].
    """
    height, width = labels.shape
    columns = labels.ravel(order="F")
    starts = np.concatenate(([0], np.flatnonzero(columns[1:] != columns[:-1]) + 1))
    ends = np.append(starts[1:], columns.size)
    owners = columns[starts]
    order = np.argsort(owners, kind="stable")
    cuts = np.flatnonzero(np.diff(owners[order])) + 1
    annotations = []
    for runs in np.split(order, cuts):
        class_id = int(owners[runs[0]])
        annotations.append(
            {
                "category_id": class_id,
                "category_name": classes[class_id],
                "segmentation": {"size": [height, width], "counts": _counts(starts[runs], ends[runs], columns.size)},
                "area": int((ends[runs] - starts[runs]).sum()),
                "bbox": _bounding_box(starts[runs], ends[runs] - 1, height),
            }
        )
    return annotations


def _counts(starts: NDArray[np.intp], ends: NDArray[np.intp], pixels: int) -> list[int]:
    """Alternating lengths of zeros and ones."""
    counts = np.empty(2 * len(starts), np.intp)
    counts[0::2] = starts - np.concatenate(([0], ends[:-1]))
    counts[1::2] = ends - starts
    rest = pixels - int(ends[-1])
    return [*counts.tolist(), rest] if rest else counts.tolist()


def _bounding_box(first: NDArray[np.intp], last: NDArray[np.intp], height: int) -> list[int]:
    """[x, y, width, height] around runs given by their first and last pixel, counted column by column."""
    left, right = int(first.min()) // height, int(last.max()) // height
    crosses = bool((first // height != last // height).any())
    top = 0 if crosses else int((first % height).min())
    bottom = height - 1 if crosses else int((last % height).max())
    return [left, top, right - left + 1, bottom - top + 1]


def _write_labels(result: SegmentationResult, path: Path) -> None:
    """Class ids: a palette PNG, 16-bit grey where 8 bits do not hold the ids."""
    palette = full_palette(result.palette) if result.labels.dtype == np.uint8 else None
    with path.open("wb") as file:
        write_png(file, result.labels, palette)


def _write_overlay(result: SegmentationResult, path: Path) -> None:
    write_overlay(result.overlay(), path)


def _write_color(result: SegmentationResult, path: Path) -> None:
    with path.open("wb") as file:
        write_png(file, result.colors())


def _write_tokens(result: SegmentationResult, path: Path) -> None:
    picture = token_picture(result.image, result.plan, result.token_maps, result.patch_size)
    with path.open("wb") as file:
        write_png(file, picture)


def _write_probabilities(result: SegmentationResult, path: Path) -> None:
    """(K, H, W) float16 as .npy, class by class within each band of rows.

    Written by position rather than through a memory map: on a full disk a map kills the process.
    """
    height, width = result.labels.shape
    shape = (len(result.classes), height, width)
    with path.open("wb") as file:
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.float16)), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        origin = file.tell()
        for rows, band in result.probability_bands():
            classes_first = np.ascontiguousarray(band.transpose(2, 0, 1), np.float16)
            for class_id, values in enumerate(classes_first):
                file.seek(origin + 2 * width * (class_id * height + rows.start))
                file.write(values.data)


def _write_npz(result: SegmentationResult, path: Path) -> None:
    """An archive as `np.savez_compressed` writes it, but at zlib's fastest level: 7 % larger, in half of the time."""
    arrays = {
        "labels": result.labels,
        "confidence": result.confidence(),
        "token_counts": result.token_counts,
        "classes": np.array(result.classes),
    }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, values in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, values)


def _write_coco(result: SegmentationResult, path: Path) -> None:
    """A data set of one picture, as readers of COCO want it; the picture is named as in the folder that it lies in."""
    height, width = result.labels.shape
    file_name = PurePosixPath(result.name).with_name(result.file).as_posix() if result.file else result.name
    data = {
        "images": [{"id": 1, "file_name": file_name, "width": width, "height": height}],
        "annotations": [
            {"id": number, "image_id": 1, "iscrowd": 0, **annotation}
            for number, annotation in enumerate(coco_annotations(result.labels, result.classes), start=1)
        ],
        "categories": [{"id": class_id, "name": name} for class_id, name in enumerate(result.classes)],
    }
    path.write_text(json.dumps(data), encoding="ascii")


def _write_submission(result: SegmentationResult, path: Path) -> None:
    """The values that label files of the data set have, as grey PNG."""
    values = np.array(label_values(result.dataset, len(result.classes)))
    table = values.astype(np.uint8) if values.max() < 256 else values.astype(np.uint16)
    with path.open("wb") as file:
        write_png(file, table[result.labels])


@dataclass(frozen=True)
class Kind:
    """One kind of output: the suffix of its files, and the function that writes a result to a path."""

    suffix: str
    write: Callable[[SegmentationResult, Path], None]


KINDS: Final[dict[str, Kind]] = {
    "labels": Kind(".png", _write_labels),
    "overlay": Kind(".jpg", _write_overlay),
    "color": Kind(".png", _write_color),
    "probs": Kind(".npy", _write_probabilities),
    "npz": Kind(".npz", _write_npz),
    "coco": Kind(".json", _write_coco),
    "tokens": Kind(".png", _write_tokens),
    "submission": Kind(".png", _write_submission),
}
