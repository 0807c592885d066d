"""How far the labels of one run of an evaluation are from those of another, and on which pictures most.

The first run's labels wait in a temporary folder, so that memory does not depend on the number of pictures.
"""

from __future__ import annotations

import heapq
import threading
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from algm_trt.runtime.evaluation.metrics import IGNORED

WORST: Final = 10

Labels = NDArray[np.uint8] | NDArray[np.uint16]

_COLUMN_WIDTH = 480
_TITLE_HEIGHT = 16
_DIFFERENT = (255, 0, 0)
_IGNORED_COLOUR = (0, 0, 0)


class LabelStore:
    """Label maps on disk under the numbers of their pictures; safe to use from several threads."""

    def __init__(self, folder: Path):
        self._folder = folder

    def put(self, index: int, labels: Labels) -> None:
        """Keep the labels (H, W) of a picture."""
        (self._folder / f"{index}").write_bytes(_packed(labels))

    def get(self, index: int) -> NDArray[np.uint16] | None:
        """Labels (H, W) of a picture, or None if there are none."""
        path = self._folder / f"{index}"
        return _unpacked(path.read_bytes()) if path.is_file() else None


@dataclass(frozen=True, order=True)
class _Worst:
    """A picture that drifted; ordered by how far, and the earlier one of equals counts as farther."""

    unequal: float
    order: int
    labels: bytes


class Drift:
    """Counts equal labels of a run and the first run, and remembers the pictures that differ most.

    Safe to use from several threads; the result does not depend on the order in which pictures come.
    """

    def __init__(self, reference: LabelStore):
        self._reference = reference
        self._lock = threading.Lock()
        self._worst: list[_Worst] = []
        self._equal: dict[int, float] = {}
        self.pictures = 0
        self.pixels = 0
        self.equal = 0

    def compare(self, index: int, labels: Labels) -> None:
        """Count one picture; one that the first run failed on has nothing to be compared with and is left out."""
        expected = self._reference.get(index)
        if expected is None:
            return
        equal = int(np.count_nonzero(labels == expected))
        with self._lock:
            self.pictures += 1
            self.pixels += labels.size
            self.equal += equal
            self._equal[index] = equal / labels.size
            if equal < labels.size:
                self._remember(_Worst(1 - equal / labels.size, -index, b""), labels)

    @property
    def share_equal(self) -> float:
        """Share of the pixels of all pictures that have equal labels; NaN without pictures."""
        return self.equal / self.pixels if self.pixels else float("nan")

    @property
    def shares_equal(self) -> dict[int, float]:
        """Share of equal labels of each picture, by its number."""
        return dict(self._equal)

    def worst(self) -> list[tuple[int, float]]:
        """Number and share of unequal pixels of the pictures that differ most, worst first."""
        return [(-entry.order, entry.unequal) for entry in sorted(self._worst, reverse=True)]

    def worst_labels(self, index: int) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
        """The first run's labels and this run's of one of the worst pictures: (H, W) each.

        Raises:
            KeyError: it is not one of them.
        """
        packed = {-entry.order: entry.labels for entry in self._worst}
        expected = self._reference.get(index)
        if index not in packed or expected is None:
            raise KeyError(index)
        return expected, _unpacked(packed[index])

    def _remember(self, entry: _Worst, labels: Labels) -> None:
        if len(self._worst) == WORST and entry < self._worst[0]:
            return
        entry = _Worst(entry.unequal, entry.order, _packed(labels))
        if len(self._worst) < WORST:
            heapq.heappush(self._worst, entry)
        else:
            heapq.heapreplace(self._worst, entry)


def side_by_side(
    picture: NDArray[np.uint8],
    columns: Sequence[tuple[str, NDArray[Any]]],
    palette: Sequence[tuple[int, int, int]],
) -> Image.Image:
    """Draw a picture beside several label maps of it, and where the last two maps differ in red.

    Args:
        picture: (H, W, 3) uint8 RGB.
        columns: title and class ids (H, W) of each map; IGNORED is black.
        palette: one (red, green, blue) per class.
    """
    colours = np.zeros((IGNORED + 1, 3), np.uint8)
    colours[: len(palette)] = palette
    colours[IGNORED] = _IGNORED_COLOUR
    first, last = columns[-2][1], columns[-1][1]
    differs = first != last
    marked = picture // 3
    marked[differs] = _DIFFERENT
    panels = [("picture", picture), *((title, colours[labels]) for title, labels in columns)]
    panels.append((f"differs: {differs.mean():.2%}", marked))
    return _in_a_row(panels)


def _in_a_row(panels: Sequence[tuple[str, NDArray[np.uint8]]]) -> Image.Image:
    height, width = panels[0][1].shape[:2]
    shrink = min(1.0, _COLUMN_WIDTH / width)
    size = max(1, round(width * shrink)), max(1, round(height * shrink))
    sheet = Image.new("RGB", (size[0] * len(panels), size[1] + _TITLE_HEIGHT), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (title, pixels) in enumerate(panels):
        left = number * size[0]
        panel = Image.fromarray(np.ascontiguousarray(pixels)).resize(size, Image.Resampling.BOX)
        sheet.paste(panel, (left, _TITLE_HEIGHT))
        draw.text((left + 2, 2), title.encode("latin-1", "replace").decode("latin-1"), fill="black")
    return sheet


def _packed(labels: Labels) -> bytes:
    """Labels as bytes: height and width, then the ids, deflated."""
    values = labels.astype("<u2")
    return np.array(values.shape, "<u4").tobytes() + zlib.compress(values.tobytes(), 1)


def _unpacked(data: bytes) -> NDArray[np.uint16]:
    height, width = np.frombuffer(data[:8], "<u4").tolist()
    return np.frombuffer(zlib.decompress(data[8:]), "<u2").astype(np.uint16).reshape(height, width)
