"""Pictures and their label files, found by their names or by a list.

A picture without a label file, or a label file without a picture, is in the list all the same: reading it fails and is
reported. So are two pictures of one name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Final

from algm_trt.plugins.errors import UsageError
from algm_trt.runtime.paths import natural_key, printable
from algm_trt.runtime.sources import PICTURE_SUFFIXES, walk

LABEL_SUFFIXES: Final = (".png", ".tif", ".tiff", ".bmp", ".gif", ".pgm")


@dataclass(frozen=True)
class Sample:
    """One picture with ground truth.

    Attributes:
        name: relative path without suffix, for messages and files.
        image: the picture's file.
        label: the label file.
        segments: of a panoptic label file: segment id -> class id.
        problem: why it cannot be scored, whatever its files hold; "" if nothing is known against it.
    """

    name: str
    image: Path
    label: Path
    segments: Mapping[int, int] | None = field(default=None, hash=False)
    problem: str = ""


def paired(images: Path, labels: Path, image_suffix: str, label_suffix: str) -> list[Sample]:
    """Files of equal names in two folders and their subfolders; also those that lack their counterpart.

    Args:
        images: folder of the pictures.
        labels: folder of the label files.
        image_suffix: end of the pictures' names that label files do not share; "" is that of any picture.
        label_suffix: the same of the label files.

    Raises:
        UsageError: a folder is not there, or no picture has the name of a label file.
    """
    pictures = _by_name(first_folder(images), image_suffix, sorted(PICTURE_SUFFIXES))
    truths = _by_name(first_folder(labels), label_suffix, LABEL_SUFFIXES)
    if pictures and truths and not pictures.keys() & truths.keys():
        first = (min(found.values())[0].relative_to(folder) for found, folder in ((pictures, images), (truths, labels)))
        picture, truth = map(printable, first)
        endings = "algm-eval takes the ends that differ as --image-suffix and --label-suffix"
        folders = "they lie in subfolders that differ, name the folders in which they are alike"
        alike = {PurePath(name).name for name in pictures} & {PurePath(name).name for name in truths}
        raise UsageError(
            f"{printable(images)}: no picture has the name of a label file in {printable(labels)}. Pictures are called "
            f"like {picture}, label files like {truth}: {folders if alike else endings}"
        )
    samples = []
    for name in sorted(pictures.keys() | truths.keys(), key=natural_key):
        image = pictures.get(name, [images / f"{name}{image_suffix or '.jpg'}"])
        label = truths.get(name, [labels / f"{name}{label_suffix or '.png'}"])[0]
        problem = _ambiguous([path for path in image if path != label])  # both may lie in one folder
        samples.append(Sample(name, image[0], label, problem=problem))
    return samples


def _ambiguous(pictures: Sequence[Path]) -> str:
    """What is wrong with so many pictures of one name; "" if it is one."""
    if len(pictures) < 2:
        return ""
    named = " and ".join(printable(path.name) for path in pictures[:2])
    return f"two pictures of this name, {named}; choose with --image-suffix"


def listed(listing: Path, images: Path, labels: Path, image_suffix: str, label_suffix: str) -> list[Sample]:
    """The pictures that a split file names, one a line; of a line of two paths the first counts.

    Args:
        listing: the split file.
        images: folder of the pictures.
        labels: folder of the label files.
        image_suffix: end of the pictures' names; "" is .jpg or .png.
        label_suffix: the same of the label files; "" is .png.

    Raises:
        UsageError: the list cannot be read.
    """
    try:
        lines = listing.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{printable(listing)}: the list of the split cannot be read ({error})") from error
    names = [Path(line.split()[0]).name for line in lines if line.strip()]
    endings = [image_suffix] if image_suffix else [".jpg", ".png"]
    samples = []
    for name in names:
        stem = Path(name).stem if Path(name).suffix.lower() in PICTURE_SUFFIXES else name
        candidates = [images / f"{stem}{ending}" for ending in endings]
        pictures = [path for path in candidates if _is_file(path)] or candidates[:1]
        label = labels / f"{stem}{label_suffix or '.png'}"
        samples.append(Sample(stem, pictures[0], label, problem=_ambiguous(pictures)))
    return samples


def _is_file(path: Path) -> bool:
    """Whether there is such a file; no where a name is too long for one."""
    try:
        return path.is_file()
    except OSError:
        return False


def _by_name(folder: Path, suffix: str, suffixes: Sequence[str]) -> dict[str, list[Path]]:
    """Files below a folder by their relative names without suffix; those of one name in the order of the suffixes."""
    found: dict[str, list[tuple[int, Path]]] = {}
    for parts in walk(folder, recursive=True):
        relative, path = "/".join(parts), folder.joinpath(*parts)
        rank = 0 if suffix else _rank(path.suffix.lower(), suffixes)
        name = relative.removesuffix(suffix or path.suffix)
        if rank >= 0 and relative.endswith(suffix) and name:
            found.setdefault(name, []).append((rank, path))
    return {name: [path for _, path in sorted(files)] for name, files in found.items()}


def _rank(ending: str, suffixes: Sequence[str]) -> int:
    return suffixes.index(ending) if ending in suffixes else -1


def first_folder(*candidates: Path) -> Path:
    """The first that is a folder; UsageError if none is."""
    return _first(candidates, Path.is_dir, "folder")


def first_file(*candidates: Path) -> Path:
    """The first that is a file; UsageError if none is."""
    return _first(candidates, Path.is_file, "file")


def first_with(part: str, *candidates: Path) -> Path:
    """The first that has a folder of the name `part`; UsageError if none has."""
    return first_folder(*(path / part for path in candidates)).parent


def _first(candidates: Sequence[Path], test: Callable[[Path], bool], what: str) -> Path:
    for path in candidates:
        if test(path):
            return path
    tried = " or ".join(printable(path) for path in candidates)
    raise UsageError(f"there is no {what} {tried}; name others with --images and --labels")
