"""What a run reads: inputs of the command line to a list of pictures and videos with distinct output names.

The list depends on the inputs and the files only, so every shard of a run sees the same list and the same names.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias

from algm_trt.plugins.errors import UsageError
from algm_trt.runtime.output_names import FoundFile, distinct_names
from algm_trt.runtime.paths import absolute_path, natural_key, printable, real_path
from algm_trt.runtime.writers import KINDS

Medium = Literal["image", "video"]
Refused: TypeAlias = Callable[[Path, OSError], None]
"""What is done about a folder that cannot be read: raises, or returns where it is to be left out."""

PICTURE_SUFFIXES: Final = frozenset(
    {".jpg", ".jpeg", ".jfif", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".jp2", ".ppm", ".pgm", ".avif"}
)
VIDEO_SUFFIXES: Final = frozenset({".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v"})
_SUFFIXES_TOLD: Final = 5
RUN_FILES: Final = ("results*.jsonl", "summary*.json")
_LONGEST_LINE: Final = 2**14
"""Bytes, four times the longest path. Names of longer ones take time that grows with the square of their length."""
LIST_SUFFIXES: Final = frozenset({".txt", ".lst"})


@dataclass(frozen=True)
class Source:
    """One picture or video to read.

    Attributes:
        path: the file.
        name: where its outputs go below the output folder: relative, with `/`, without the file's suffix. No two
            sources of a list have names that differ in case only.
        medium: "image" or "video".
    """

    path: Path
    name: str
    medium: Medium

    def __post_init__(self) -> None:
        if not self.name or any(part in ("", ".", "..") for part in self.name.split("/")):
            raise ValueError(f"not a relative output name: {self.name!r}")


def find_sources(
    inputs: Sequence[str], *, recursive: bool, tell: Callable[[str], None] = lambda text: None
) -> list[Source]:
    """The pictures and videos that the inputs of a command name, in their order, each file once.

    An input is a file (taken whatever its suffix), a folder (files with the suffix of a picture or video, in natural
    order; hidden ones and what earlier runs wrote are left out), a pattern with * ? [ ] or ** (files as in a folder,
    any suffix if the pattern spells the suffix out), or a list file (.txt, .lst: a path per line, relative to the
    list's folder, # for comments). The files of a list are not looked for here: one that is missing fails alone, later.

    Names keep the structure below the folder, the fixed part of the pattern, or the list's folder; a file named by
    itself has its stem. Files whose names would collide get their suffix too, then folders above, then a number.

    Args:
        inputs: files, folders, patterns and list files.
        recursive: also read the subfolders of folders.
        tell: is told which files of a folder are no pictures or videos by their suffix, and which folders below one
            that was named cannot be read.

    Raises:
        UsageError: nothing was named, or an input names nothing that can be read.
    """
    if not inputs:
        raise UsageError("no input: name pictures, videos, folders, patterns or list files")
    found = [file for text in inputs for file in _expand(text, recursive, tell)]
    kept = _without_repeats(found)
    return [
        Source(file.path, name, "video" if file.is_video else "image")
        for file, name in zip(kept, distinct_names(kept), strict=True)
    ]


def parse_shard(text: str) -> tuple[int, int]:
    """Index and count of "I/N", 1 <= I <= N.

    Raises:
        UsageError: anything else.
    """
    match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text.strip())
    if match is None:
        raise UsageError(f"a shard is given as I/N, such as 2/8, got {text!r}")
    index, count = int(match[1]), int(match[2])
    _check_shard(index, count)
    return index, count


def shard(sources: Sequence[Source], index: int, count: int) -> list[Source]:
    """Part `index` of `count` (1-based) of a list: every count-th source.

    Dealt out in turn, not by a hash of the name: the parts then differ by at most one source, and neighbours, which are
    often of one size, spread over all of them. All parts together are the list, if all are made from the same files.

    Raises:
        UsageError: not 1 <= index <= count.
    """
    _check_shard(index, count)
    return list(sources[index - 1 :: count])


def _check_shard(index: int, count: int) -> None:
    if not 1 <= index <= count:
        raise UsageError(f"shard {index}/{count} does not exist: I/N needs 1 <= I <= N")


def _expand(text: str, recursive: bool, tell: Callable[[str], None]) -> list[FoundFile]:
    path = Path(text)
    if not text:
        raise UsageError("an input is empty")
    try:
        with suppress(FileNotFoundError, NotADirectoryError, ValueError):
            path.lstat()  # says why, where a path is not simply missing; from Python 3.14 on is_dir does not
        if path.is_dir():
            return _in_folder(path, recursive, tell)
        if path.is_file() and path.suffix.lower() in LIST_SUFFIXES:
            return _in_list(path)
        if path.exists() or path.is_symlink():
            return [_found(path, (path.name,))]
        if _is_pattern(text):
            return _in_pattern(path, tell)
    except (OSError, ValueError) as error:
        where = printable(getattr(error, "filename", None) or text)
        raise UsageError(f"{where}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    raise UsageError(f"{printable(text)}: no such file or folder")


def _found(path: Path, relative: tuple[str, ...]) -> FoundFile:
    return FoundFile(path, relative, is_video=path.suffix.lower() in VIDEO_SUFFIXES)


def _in_folder(folder: Path, recursive: bool, tell: Callable[[str], None]) -> list[FoundFile]:
    files, others = [], Counter[str]()
    for parts in walk(folder, recursive, refused=_left_out(folder, tell)):
        if _has_known_suffix(parts[-1]):
            files.append(_found(folder.joinpath(*parts), parts))
        else:
            others[Path(parts[-1]).suffix or parts[-1]] += 1
    kinds = ", ".join(f"{count} {printable(suffix)}" for suffix, count in others.most_common(_SUFFIXES_TOLD))
    if not files:
        hint = "" if recursive else " (its subfolders are read with --recursive)"
        beside = f"; it holds {kinds}" if kinds else ""
        raise UsageError(f"{printable(folder)}: no picture or video in this folder{hint}{beside}")
    if others:
        more = ", ..." if len(others) > _SUFFIXES_TOLD else ""
        tell(f"{printable(folder)}: left out, no pictures or videos by their suffix: {kinds}{more}")
    return _sorted(files)


def _in_list(path: Path) -> list[FoundFile]:
    folder = path.parent
    files = []
    text = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    if b"\0" in text:
        raise UsageError(f"{printable(path)}: not a list in UTF-8: it holds zero bytes, as UTF-16 does")
    for raw in text.splitlines():
        if len(raw) > _LONGEST_LINE:
            raise UsageError(f"{printable(path)}: not a list: a line of {len(raw)} bytes is no path")
        line = os.fsdecode(raw.strip())
        if line and not line.startswith("#"):
            files.append(_found(folder / line, _below(folder, line)))
    if not files:
        raise UsageError(f"{printable(path)}: the list names no file")
    return files


def _below(folder: Path, line: str) -> tuple[str, ...]:
    """Path of a list's line below the list's folder; for a file elsewhere as much of the path as has a name."""
    root, target = absolute_path(folder), absolute_path(folder / line)
    if target.is_relative_to(root):
        return target.relative_to(root).parts or (target.name or "_",)
    return tuple(part for part in Path(os.path.normpath(line)).parts if part.strip("/") not in ("", "..")) or ("_",)


def _in_pattern(pattern: Path, tell: Callable[[str], None]) -> list[FoundFile]:
    fixed = next(index for index, part in enumerate(pattern.parts) if _is_pattern(part))
    root = Path(*pattern.parts[:fixed])
    any_suffix = bool(pattern.suffix) and not _is_pattern(pattern.suffix)
    found = _matches(root, pattern.parts[fixed:], _left_out(root, tell), set())
    matches = {parts for parts in found if any_suffix or _has_known_suffix(parts[-1])}
    if not matches:
        raise UsageError(f"{printable(pattern)}: no such file, and no picture or video matches this pattern")
    return _sorted([_found(root.joinpath(*parts), parts) for parts in matches])


def _left_out(named: Path, tell: Callable[[str], None]) -> Refused:
    """Folders that cannot be read are told, once, and left out; the one that the user named is an error."""
    told = set()

    def refused(folder: Path, error: OSError) -> None:
        if folder == named:
            raise error
        if folder not in told:
            told.add(folder)
            tell(f"{printable(folder)}: left out, cannot be read ({error.strerror or error})")

    return refused


def _raised(_: Path, error: OSError) -> None:
    raise error


def _matches(
    folder: Path, patterns: tuple[str, ...], refused: Refused, seen: set[tuple[Path, tuple[str, ...]]]
) -> Iterator[tuple[str, ...]]:
    """Files below a folder that match a pattern part by part; ** stands for any number of folders.

    Several ** lead to one folder in many ways: `seen` has where the search has been, and with what left of the pattern.
    """
    if (folder, patterns) in seen:
        return
    seen.add((folder, patterns))
    first, rest = patterns[0], patterns[1:]
    if first == "**":
        for parts in walk(folder, recursive=True, folders=True, refused=refused) if rest[:1] != ("**",) else [()]:
            for tail in _matches(folder.joinpath(*parts), rest or ("*",), refused, seen):
                yield (*parts, *tail)
        return
    try:
        entries = _entries(folder)
    except OSError as error:
        refused(folder, error)
        return
    for entry in entries:
        if not fnmatch.fnmatchcase(entry.name, first) or (entry.name.startswith(".") and not first.startswith(".")):
            continue
        if rest and _is_folder(entry):
            yield from ((entry.name, *tail) for tail in _matches(folder / entry.name, rest, refused, seen))
        elif not rest and not _is_folder(entry):
            yield (entry.name,)


def walk(
    folder: Path, recursive: bool, *, folders: bool = False, refused: Refused = _raised
) -> Iterator[tuple[str, ...]]:
    """Files below a folder as path parts, or with `folders` the folder itself and all folders below it.

    Hidden names are left out, and so is what earlier runs wrote. A folder is entered once even if links lead to it
    again, so loops end.

    Args:
        folder: where to begin.
        recursive: also read its subfolders.
        folders: give folders, not files.
        refused: is called with a folder that cannot be read, itself or one below it, and the error.

    Raises:
        OSError: a folder cannot be read, and `refused` raises.
    """
    visited = set()
    real: deque[tuple[str, ...]] = deque([()])
    links: deque[tuple[str, ...]] = deque()
    while real or links:
        # Links last: a link to a folder of this tree must not take over the names of its files.
        parts = (real or links).popleft()
        here = folder.joinpath(*parts)
        try:
            status = here.stat()
            if (status.st_dev, status.st_ino) in visited:
                continue
            visited.add((status.st_dev, status.st_ino))
            entries = [entry for entry in _entries(here) if not entry.name.startswith(".")]
        except OSError as error:
            refused(here, error)
            continue
        if folders:
            yield parts
        written = KINDS if _is_output(entry.name for entry in entries) else ()
        for entry in entries:
            below = (*parts, entry.name)
            if not _is_folder(entry):
                if not folders:
                    yield below
            elif recursive and entry.name not in written:
                (links if entry.is_symlink() else real).append(below)


def _is_output(names: Iterable[str]) -> bool:
    """Whether these are in the output folder of a run: its results and its summary are."""
    names = list(names)
    return all(any(fnmatch.fnmatchcase(name, pattern) for name in names) for pattern in RUN_FILES)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """What a folder holds, in natural order."""
    with os.scandir(folder) as entries:
        return sorted(entries, key=lambda entry: natural_key(entry.name))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder, or a link that leads to one: some links lead to themselves."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _sorted(files: list[FoundFile]) -> list[FoundFile]:
    return sorted(files, key=lambda file: [natural_key(part) for part in file.relative])


def _has_known_suffix(name: str) -> bool:
    suffix = Path(name).suffix.lower()
    return suffix in PICTURE_SUFFIXES or suffix in VIDEO_SUFFIXES


def _is_pattern(text: str) -> bool:
    return any(char in text for char in "*?[")


def _without_repeats(files: Sequence[FoundFile]) -> list[FoundFile]:
    """The first of all ways to name each file. A link to a file is a file of its own: it has its own name."""
    real_folders: dict[Path, Path] = {}
    kept: dict[Path, FoundFile] = {}
    for file in files:
        folder = file.path.parent
        if folder not in real_folders:
            real_folders[folder] = real_path(folder)
        kept.setdefault(real_folders[folder] / file.path.name, file)
    return list(kept.values())
