"""What a run leaves behind about itself: results.jsonl, one line per input, and summary.json. They make it resumable.

A line is appended once the files that it names are in place, so that a run may be killed at any time. A run holds a
lock on its results file: two runs that write the same one would undo each other.
"""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from algm_trt.plugins.errors import AlgmError
from algm_trt.runtime.files import draft_of, renamed_together
from algm_trt.runtime.paths import printable
from algm_trt.runtime.sources import Source
from algm_trt.runtime.write_watch import cure_of
from algm_trt.runtime.writers import WrittenFile

if TYPE_CHECKING:
    from algm_trt.runtime.result import SegmentationResult

_BAND_PIXELS = 2**17


@dataclass(frozen=True)
class Tally:
    """What is counted over windows and pixels; tallies of frames and pictures add up.

    Attributes:
        windows: number of windows.
        token_sums: tokens over all windows: grid and extra, after the local merge, after the global ones.
        class_pixels: number of pixels of each class that is present, by class id.
    """

    windows: int = 0
    token_sums: tuple[float, ...] = (0.0, 0.0, 0.0)
    class_pixels: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, result: SegmentationResult) -> Tally:
        """Count one result."""
        labels, pixels = result.labels.ravel(), np.zeros(len(result.classes), np.int64)
        for start in range(0, labels.size, _BAND_PIXELS):  # bincount makes 8 bytes of every label
            pixels += np.bincount(labels[start : start + _BAND_PIXELS], minlength=len(pixels))
        present = {str(class_id): int(pixels[class_id]) for class_id in np.flatnonzero(pixels)}
        sums = tuple(float(total) for total in result.token_counts.sum(axis=0, dtype=np.int64))
        return cls(len(result.token_counts), sums, present)

    def __add__(self, other: Tally) -> Tally:
        pixels = Counter(self.class_pixels)
        pixels.update(other.class_pixels)
        sums = tuple(mine + its for mine, its in zip(self.token_sums, other.token_sums, strict=True))
        return Tally(self.windows + other.windows, sums, dict(pixels))

    def token_means(self) -> tuple[float, ...] | None:
        """`token_sums` per window, rounded to a hundredth of a token; None without windows."""
        return tuple(round(total / self.windows, 2) for total in self.token_sums) if self.windows else None


@dataclass(frozen=True)
class Record:
    """One line of results.jsonl.

    Attributes:
        path: the input.
        name: of its output files.
        status: "ok" or "error".
        run: fingerprint of the model and of the options that results depend on.
        error: what went wrong, one line; None if nothing did.
        width: of the upright picture in pixels; None if it could not be read.
        height: likewise.
        seconds: work on this input, in all threads together.
        tokens: means over the windows: grid and extra tokens, after the local merge, after the global ones.
        windows: number of windows, of all frames for a video.
        frames: number of frames of a video, None for a picture.
        class_pixels: number of pixels of each class that is present, by class id.
        files: what was written, relative to the output folder.
        input_bytes: size of the input file.
        input_mtime_ns: time of its last change.
    """

    path: str
    name: str
    status: str
    run: str
    error: str | None = None
    width: int | None = None
    height: int | None = None
    seconds: float = 0.0
    tokens: tuple[float, ...] | None = None
    windows: int | None = None
    frames: int | None = None
    class_pixels: Mapping[str, int] = field(default_factory=dict)
    files: tuple[WrittenFile, ...] = ()
    input_bytes: int | None = None
    input_mtime_ns: int | None = None

    def to_json(self) -> str:
        """One line of ASCII; bytes of a path that are not UTF-8 are kept as lone surrogates."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, line: str) -> Record | None:
        """Read a line; None if it is not whole, as the last line of a killed run may be."""
        try:
            data = json.loads(line)
            data["files"] = tuple(WrittenFile(**file) for file in data["files"])
            data["tokens"] = data["tokens"] and tuple(data["tokens"])
            return cls(**data)
        except (ValueError, KeyError, TypeError):
            return None

    def tally(self) -> Tally:
        """What the line adds to the totals."""
        windows = self.windows or 0
        return Tally(windows, tuple(mean * windows for mean in self.tokens or (0, 0, 0)), self.class_pixels)


@dataclass
class Totals:
    """Sums over the lines of a results file, so that no list of them is kept."""

    ok: int = 0
    failed: int = 0
    frames: int = 0
    tally: Tally = field(default_factory=Tally)

    def add(self, record: Record) -> None:
        """Count one line."""
        if record.status != "ok":
            self.failed += 1
            return
        self.ok += 1
        self.frames += record.frames or 0
        self.tally += record.tally()


def part_suffix(part: tuple[int, int] | None) -> str:
    """What the files of one shard have in their names: "" or "-2-of-8"."""
    return "" if part is None else f"-{part[0]}-of-{part[1]}"


class Manifest:
    """The results file of a run, open for appending.

    Attributes:
        done: names of this run's inputs that an earlier run finished.
        others: number of lines kept about inputs that this run was not given.
        totals: over all lines of the file.
        folder: output folder.
        path: of the results file.
    """

    def __init__(
        self,
        folder: Path,
        sources: Sequence[Source],
        run: str,
        *,
        resume: bool,
        part: tuple[int, int] | None = None,
    ):
        """Begin a results file, with the good lines of an earlier one when resuming.

        Args:
            folder: output folder, which exists.
            sources: inputs of this run.
            run: its fingerprint.
            resume: keep lines that are still true.
            part: index and number of the shard.

        Raises:
            AlgmError: the file cannot be written, or another run is writing it.
        """
        self.folder = folder
        self.path = folder / f"results{part_suffix(part)}.jsonl"
        self._summary_path = folder / f"summary{part_suffix(part)}.json"
        self._run = run
        self.done: set[str] = set()
        self.others = 0
        self.totals = Totals()
        try:
            self._file = self._begin({source.name: source for source in sources}, resume)
        except OSError as error:
            raise AlgmError(f"cannot write {self.path}: {error.strerror or error}") from error

    def append(self, record: Record) -> None:
        """Add a line; it is in the file when this returns.

        Raises:
            AlgmError: the line cannot be written, since the disk is full for instance.
        """
        try:
            _write_line(self._file, record)
        except OSError as error:
            raise AlgmError(f"cannot write {self.path}: {error.strerror or error}{cure_of(error)}") from error
        self.totals.add(record)

    def write_summary(self, summary: Mapping[str, Any]) -> Path:
        """Write summary.json and return its path.

        Raises:
            AlgmError: it cannot be written.
        """
        try:
            with renamed_together() as temporary:
                temporary(self._summary_path).write_text(json.dumps(summary, indent=1) + "\n", encoding="ascii")
        except OSError as error:
            raise AlgmError(f"cannot write {self._summary_path}: {error.strerror or error}") from error
        return self._summary_path

    def __enter__(self) -> Manifest:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def _begin(self, sources: Mapping[str, Source], resume: bool) -> FileIO:
        """Replace the results file by one that holds the lines to keep.

        The new file is locked under its temporary name, before the lock of the old one is tried, and stays locked when
        it is renamed: of two runs that begin at the same time, one sees the other.
        """
        given = {str(source.path) for source in sources.values()}
        draft = draft_of(self.path)
        file = _open_locked(draft, self.path)
        try:
            if self.path.exists():
                _open_locked(self.path, self.path).close()
            file.truncate(0)
            for record in self._lines() if resume else ():
                source = sources.get(record.name)
                has_other_name = source is None and record.path in given  # a file beside it is called the same by now
                if record.name in self.done or has_other_name or not self._holds(record, source):
                    continue
                _write_line(file, record)
                self.totals.add(record)
                if record.name in sources:
                    self.done.add(record.name)
                else:
                    self.others += 1
            self._remove_summary()  # of an earlier run: this one may be killed before its own
            draft.replace(self.path)
        except BaseException:
            draft.unlink(missing_ok=True)
            file.close()
            raise
        return file

    def _remove_summary(self) -> None:
        try:
            self._summary_path.unlink(missing_ok=True)
        except OSError as error:
            raise AlgmError(f"cannot write {self._summary_path}: {error.strerror or error}") from error

    def _lines(self) -> Iterator[Record]:
        if not self.path.exists():
            return
        with self.path.open(encoding="ascii", errors="replace") as file:
            for line in file:
                record = Record.from_json(line)
                if record is not None:
                    yield record

    def _holds(self, record: Record, source: Source | None) -> bool:
        """Whether a line of an earlier run says what this run would say again."""
        if record.status != "ok" or record.run != self._run:
            return False
        if source is not None and (str(source.path) != record.path or input_state(source.path) != _state(record)):
            return False
        return all(_is_whole(self.folder, file) for file in record.files)


def input_state(path: Path) -> tuple[int | None, int | None]:
    """Size in bytes and time of last change of an input; Nones if it is not there."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None, None
    return status.st_size, status.st_mtime_ns


def _state(record: Record) -> tuple[int | None, int | None]:
    return record.input_bytes, record.input_mtime_ns


def _is_whole(folder: Path, file: WrittenFile) -> bool:
    path = folder / file.path
    try:
        if file.count is None:
            return path.stat().st_size == file.bytes
        sizes = [entry.stat().st_size for entry in os.scandir(path)]
        return len(sizes) == file.count and sum(sizes) == file.bytes
    except OSError:
        return False


def _write_line(file: FileIO, record: Record) -> None:
    """Unbuffered, so that a full disk is seen here and not when the file is closed."""
    line = record.to_json().encode("ascii") + b"\n"
    if file.write(line) != len(line):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _open_locked(path: Path, results: Path) -> FileIO:
    """A file to append to that this process alone has, as long as it is open.

    Args:
        path: the file.
        results: the results file that it is or becomes.

    Raises:
        AlgmError: another run has it.
        OSError: it cannot be opened.
    """
    file = FileIO(path, "a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(file.fileno()), path.stat()):
            return file
    except (BlockingIOError, FileNotFoundError):
        pass  # a run that has it, or had it and gave it its final name
    except OSError:
        return file  # a file system without locks
    file.close()
    raise AlgmError(
        f"another run is writing {printable(results)}: wait for it, or give each run its own --output or --shard"
    )
