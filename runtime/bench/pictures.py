"""What algm-bench measures on: unlike pictures, drawn or from a folder, or one of them over and over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from algm_trt.plugins.errors import AlgmError, UsageError
from algm_trt.runtime.card import ModelCard
from algm_trt.runtime.decode import decode_image
from algm_trt.runtime.evaluation.sets import spread
from algm_trt.runtime.limits import DEFAULT_MAX_PIXELS
from algm_trt.runtime.paths import printable
from algm_trt.runtime.scenes import MINIMUM_SIDE, draw_scene
from algm_trt.runtime.sources import Source, find_sources

UNLIKE: Final = "unlike pictures"
REPEATED: Final = "one picture repeated"

_ENLARGED = (1, 2, 4)  # factors by which every three drawn scenes differ: a busy one, a calmer one, a calm one
_JPEG_QUALITY = 92


@dataclass(frozen=True)
class Pictures:
    """Picture files to measure on, each of which could be read.

    Attributes:
        described: in words, for people.
        paths: the files; none for drawn scenes, which every model has at its own size.
        sizes: height and width in pixels of each of `paths`, upright.
        count: of pictures that a whole job takes.
        repeated: the first of them stands for all.
        max_pixels: of a picture; larger ones were left out.
        unreadable: files that were left out, and why.
    """

    described: str
    paths: tuple[Path, ...]
    sizes: tuple[tuple[int, int], ...]
    count: int
    repeated: bool
    max_pixels: int = DEFAULT_MAX_PIXELS
    unreadable: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """In words, what stands beside every figure."""
        return REPEATED if self.repeated else UNLIKE

    def sources(self, card: ModelCard, folder: Path) -> list[Source]:
        """The inputs of a whole job.

        Args:
            card: of the model.
            folder: where drawn scenes are written as JPEG, unless they are there.
        """
        paths = self.paths or drawn_files(card.size, 1 if self.repeated else self.count, folder)
        chosen = [paths[0]] * self.count if self.repeated else paths
        return [Source(path, f"{index:05d}", "image") for index, path in enumerate(chosen)]


def drawn_pictures(count: int, *, repeated: bool) -> Pictures:
    """Drawn scenes at the size of the model."""
    described = f"one drawn scene, repeated: {count}" if repeated else f"drawn scenes, busy and calm: {count}"
    return Pictures(described, (), (), count, repeated)


def folder_pictures(folder: Path, count: int, *, repeated: bool, max_pixels: int = DEFAULT_MAX_PIXELS) -> Pictures:
    """Pictures from all over a folder and its subfolders; arguments as for `listed_pictures`.

    Raises:
        UsageError: there is none that can be read.
    """
    paths = [source.path for source in find_sources([str(folder)], recursive=True) if source.medium == "image"]
    return listed_pictures(paths, count, printable(folder.resolve().name), repeated=repeated, max_pixels=max_pixels)


def listed_pictures(
    paths: Sequence[Path], count: int, place: str, *, repeated: bool, max_pixels: int = DEFAULT_MAX_PIXELS
) -> Pictures:
    """Files of a list that can be read, at equal distances over all of it: neighbours are often alike.

    Args:
        paths: the files.
        count: how many to take, in the order of the list; for `repeated`, how often the first is taken.
        place: where they come from, for people.
        repeated: one of them stands for all.
        max_pixels: of a picture; larger ones cannot be read.

    Raises:
        UsageError: none can be read.
    """
    good: dict[int, tuple[int, int]] = {}  # place in the list: size
    unreadable: list[str] = []
    wanted = 1 if repeated else count
    chosen = spread(range(len(paths)), wanted)
    others = set(range(len(paths))).difference(chosen)
    for index in (*chosen, *sorted(others)):  # the others stand in for those that cannot be read
        if len(good) == wanted:
            break
        try:
            height, width = decode_image(paths[index], max_pixels=max_pixels).shape[:2]
        except AlgmError as error:
            unreadable.append(str(error))
            continue
        good[index] = height, width
    if not good:
        raise UsageError(f"no picture of {place} can be read{': ' + unreadable[0] if unreadable else ''}")
    if repeated:
        described = f"one picture of {place}, repeated: {count}"
    else:
        described = f"pictures of {place}: {len(good)}"
        described += f" at equal distances over {len(paths)}" if wanted < len(paths) else ""
    taken = count if repeated else len(good)
    order = sorted(good)
    return Pictures(
        described,
        tuple(paths[index] for index in order),
        tuple(good[index] for index in order),
        taken,
        repeated,
        max_pixels,
        tuple(unreadable),
    )


def drawn_files(size: tuple[int, int], count: int, folder: Path) -> list[Path]:
    """JPEG files of the first `count` drawn scenes of `size` = (height, width), made where they are missing."""
    place = folder / f"{size[0]}x{size[1]}"
    place.mkdir(parents=True, exist_ok=True)
    paths = [place / f"{seed:05d}.jpg" for seed in range(count)]
    for seed, path in enumerate(paths):
        if not path.exists():
            Image.fromarray(_scene(size, seed)).save(path, quality=_JPEG_QUALITY)
    return paths


def _scene(size: tuple[int, int], seed: int) -> NDArray[np.uint8]:
    """A drawn scene (H, W, 3) uint8, two of three enlarged: those have less detail and merge more."""
    height, width = size
    factor = _ENLARGED[seed % len(_ENLARGED)]
    small = draw_scene(max(MINIMUM_SIDE, -(-height // factor)), max(MINIMUM_SIDE, -(-width // factor)), seed).image
    scene: NDArray[np.uint8] = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)  # type: ignore[assignment]
    return scene
