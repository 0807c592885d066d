"""Output names of inputs: as short as they can be, and so distinct that no two outputs meet in any file system."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from algm_trt.runtime.paths import absolute_path


@dataclass(frozen=True)
class FoundFile:
    """A file that gets an output name.

    Attributes:
        path: the file.
        relative: parts of its path below the folder that was named, suffix included.
        is_video: its outputs fill a folder of its name.
    """

    path: Path
    relative: tuple[str, ...]
    is_video: bool


def distinct_names(files: Sequence[FoundFile]) -> list[str]:
    """An output name for each file.

    All files of a collision move on together to their next longer name until no two collide, so that no name depends on
    the order of the files. Files that even their whole paths do not tell apart (in case only) are numbered by path.
    """
    names = [_plain_name(file) for file in files]
    longer: dict[int, list[str]] = {}
    while True:
        colliding = _colliding(files, names)
        for index in colliding:
            if index not in longer:
                longer[index] = _longer_names(files[index])
        movable = [index for index in colliding if longer[index]]
        if not movable:
            return _numbered(files, names, colliding)
        for index in movable:
            names[index] = longer[index].pop(0)


def _plain_name(file: FoundFile) -> str:
    stem = Path(file.relative[-1]).stem
    return "/".join((*file.relative[:-1], stem if stem.strip(".") else file.relative[-1]))


def _longer_names(file: FoundFile) -> list[str]:
    """Further names, shortest first: with the suffix, then without and with it below each folder above the file."""
    full = "/".join(file.relative)
    above = absolute_path(file.path).parts[1 : -len(file.relative)]
    prefixes = ["/".join(above[start:]) for start in range(len(above) - 1, -1, -1)]
    return [full, *(f"{prefix}/{name}" for prefix in prefixes for name in (_plain_name(file), full))]


def _colliding(files: Sequence[FoundFile], names: Sequence[str]) -> list[int]:
    """Indices of files whose outputs could meet.

    Names collide that are equal but for case; that lie below the name of a video, where its frames go; and that lie
    below a folder called like another name with a suffix, as that name's output files are.
    """
    keys = [_key(name) for name in names]
    counts = Counter(keys)
    videos = {key for key, file in zip(keys, files, strict=True) if file.is_video}
    bad = {key for key, count in counts.items() if count > 1}
    for key in counts:
        parts = key.split("/")
        for end in range(1, len(parts)):
            folder = "/".join(parts[:end])
            stem, dot, _ = folder.rpartition(".")
            if folder in videos:
                bad |= {key, folder}
            if dot and stem in counts:
                bad |= {key, stem}
    return [index for index, key in enumerate(keys) if key in bad]


def _numbered(files: Sequence[FoundFile], names: Sequence[str], colliding: Sequence[int]) -> list[str]:
    result = list(names)
    taken = {_key(name) for name in names}
    for index in sorted(colliding, key=lambda index: str(files[index].path)):
        base, number = "/".join(files[index].relative), 1
        while _key(f"{base}~{number}") in taken:
            number += 1
        result[index] = f"{base}~{number}"
        taken.add(_key(result[index]))
    return result


def _key(name: str) -> str:
    """Equal for names that a file system may take for one: case and composed letters do not count."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
