"""The windows that the model alone is measured on: from all over the pictures of a whole job, in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from algm_trt.runtime.bench.pictures import Pictures
from algm_trt.runtime.card import ModelCard
from algm_trt.runtime.decode import decode_image
from algm_trt.runtime.evaluation.sets import spread
from algm_trt.runtime.pipeline_options import PipelineOptions
from algm_trt.runtime.sources import Source
from algm_trt.runtime.windows import canvas_image, crop

MOST_WINDOWS: Final = 64
"""Windows that are held in memory for the model alone, unless a batch has more."""


@dataclass(frozen=True)
class Origin:
    """Where windows come from.

    Attributes:
        windows: how many there are.
        available: windows of all pictures together, of which these were taken.
        pictures: how many pictures they were cut from.
        size: height and width of each in pixels.
    """

    windows: int
    available: int
    pictures: int
    size: tuple[int, int]

    @property
    def size_text(self) -> str:
        """Height and width, such as 512x512."""
        return "x".join(map(str, self.size))

    @property
    def described(self) -> str:
        """In words, for people, such as "64 of 213 windows, from 16 pictures"."""
        of = f" of {self.available}" if self.windows < self.available else ""
        return f"{self.windows}{of} windows, from {self.pictures} picture{'' if self.pictures == 1 else 's'}"

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Windows:
    """Windows in memory.

    Attributes:
        pixels: (W, h, w, 3) uint8 of the model's input size.
        origin: where they come from.
    """

    pixels: NDArray[np.uint8]
    origin: Origin


def cut_windows(
    pictures: Pictures, sources: Sequence[Source], card: ModelCard, options: PipelineOptions, largest_batch: int
) -> Windows:
    """Windows at equal distances over all that a whole job cuts from these sources, in its order.

    One picture is decoded at a time, and only those that a window is taken from. Where one picture stands for all, its
    first window does so too.

    Args:
        pictures: where the sources come from.
        sources: of a whole job.
        card: of the model.
        options: how a whole job cuts them.
        largest_batch: windows that there may be even above MOST_WINDOWS.
    """
    most = max(MOST_WINDOWS, largest_batch)
    if pictures.repeated:
        window = _cut(sources[0], [0], pictures, card, options)[0]
        count = min(pictures.count, most)
        return Windows(np.repeat(window[None], count, axis=0), Origin(count, pictures.count, 1, card.size))
    places = [
        (number, index)
        for number, size in enumerate(pictures.sizes or [card.size] * len(sources))
        for index in range(len(options.plan(size, card)))
    ]
    found: list[NDArray[np.uint8]] = []
    cut = 0
    for number, group in groupby(spread(places, most), key=lambda place: place[0]):
        found += _cut(sources[number], [index for _, index in group], pictures, card, options)
        cut += 1
    return Windows(np.stack(found), Origin(len(found), len(places), cut, card.size))


def _cut(
    source: Source, indices: Sequence[int], pictures: Pictures, card: ModelCard, options: PipelineOptions
) -> list[NDArray[np.uint8]]:
    """These windows of a picture, each (h, w, 3)."""
    picture = decode_image(source.path, max_pixels=pictures.max_pixels)
    plan = options.plan((picture.shape[0], picture.shape[1]), card)
    canvas = canvas_image(picture, plan)
    return [crop(canvas, plan, index).copy() for index in indices]
