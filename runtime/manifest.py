"""What a run leaves behind about itself: results.jsonl, one line per input, and summary.json. They make it resumable.

A line is appended once the files that it names are in place, so that a run may be killed at any time. A run holds a
lock on its results file: two runs that write the same one would undo each other.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from algm_trt.plugins.errors import AlgmError
from algm_trt.runtime.file_lock import leads_to, lock_alone
from algm_trt.runtime.files import renamed_together, replace_patiently
from algm_trt.runtime.paths import printable
from algm_trt.runtime.records import Record, Totals, input_state
from algm_trt.runtime.sources import Source
from algm_trt.runtime.write_watch import cure_of
from algm_trt.runtime.writers import WrittenFile

_LONGEST_LINE: Final = 2**24
"""Characters: the most classes that there are take a tenth of it. What is longer is no line of ours."""


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
            _deliver(self.path)
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
                temporary(self._summary_path, nameless=True).write_text(
                    json.dumps(summary, indent=1) + "\n", encoding="ascii"
                )
        except OSError as error:
            raise AlgmError(f"cannot write {self._summary_path}: {error.strerror or error}") from error
        return self._summary_path

    def __enter__(self) -> Manifest:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):  # each line was delivered
            self._file.close()

    def _begin(self, sources: Mapping[str, Source], resume: bool) -> FileIO:
        """Replace the results file by one that holds the lines to keep.

        The new file is locked under its temporary name, before the lock of the old one is tried, and stays locked when
        it is renamed: of two runs that begin at the same time, one sees the other.
        """
        given = {str(source.path) for source in sources.values()}
        draft = self.path.with_name(f".{self.path.name}.part")
        file = _open_locked(draft, self.path)
        try:
            if self.path.exists():
                old = _open_locked(self.path, self.path)
                with suppress(OSError):  # NFS tells of a disk that was full for the run before
                    old.close()
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
            _deliver(draft)
            self._remove_summary()  # of an earlier run: this one may be killed before its own
            replace_patiently(draft, self.path)
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
            for line in iter(lambda: file.readline(_LONGEST_LINE), ""):
                record = Record.from_json(line)
                if record is not None:
                    yield record

    def _holds(self, record: Record, source: Source | None) -> bool:
        """Whether a line of an earlier run says what this run would say again."""
        if record.status != "ok" or record.run != self._run:
            return False
        if source is not None and (str(source.path) != record.path or input_state(source.path) != record.input_state):
            return False
        return all(_is_whole(self.folder, file) for file in record.files)


def _is_whole(folder: Path, file: WrittenFile) -> bool:
    path = folder / file.path
    try:
        if file.count is None:
            return path.stat().st_size == file.bytes
        sizes = [entry.stat().st_size for entry in os.scandir(path)]
        return len(sizes) == file.count and sum(sizes) == file.bytes
    except (OSError, ValueError):  # the latter for a path that no file can have
        return False


def _write_line(file: FileIO, record: Record) -> None:
    """Unbuffered, so that a full disk is seen here and not when the file is closed."""
    line = record.to_json().encode("ascii") + b"\n"
    if file.write(line) != len(line):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _deliver(path: Path) -> None:
    """Have a server take what was written: NFS keeps it here until a descriptor of the file is closed.

    It is another opening of the file: SMB shares would give up the lock with a copy of the descriptor that has it.

    Raises:
        OSError: it cannot be written; the server says only now that its disk is full.
    """
    os.close(os.open(path, os.O_WRONLY))


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
    if lock_alone(file.fileno()) and leads_to(path, file.fileno()):
        return file
    file.close()
    raise AlgmError(
        f"another run is writing {printable(results)}: wait for it, or give each run its own --output or --shard"
    )
