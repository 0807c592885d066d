"""Lines of results.jsonl, one per input, and what they add up to."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from algm_trt.runtime.json_text import json_object
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
            record = json_object(cls, line)
        except ValueError:
            return None
        return record if record.tokens is None or len(record.tokens) == len(Tally.token_sums) else None

    @property
    def input_state(self) -> tuple[int | None, int | None]:
        """What `input_state` said of the input."""
        return self.input_bytes, self.input_mtime_ns

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


def input_state(path: Path) -> tuple[int | None, int | None]:
    """Size in bytes and time of last change of an input; Nones if it is not there.

    Times behind the year 2262 count as that, so that they are numbers which lines of results may hold.
    """
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None, None
    return status.st_size, min(status.st_mtime_ns, 2**63 - 1)
