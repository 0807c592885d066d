"""Pictures on which two versions of a model are compared: drawn scenes, or the first of a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from algm_trt.plugins.errors import AlgmError, UsageError
from algm_trt.runtime.card import ModelCard
from algm_trt.runtime.decode import decode_image
from algm_trt.runtime.opencv import check_opencv
from algm_trt.runtime.scenes import MINIMUM_SIDE, draw_scene
from algm_trt.runtime.sources import find_sources
from algm_trt.runtime.windows import canvas_image, plan_whole

DRAWN_PICTURES: Final = 4
MOST_PICTURES: Final = 8

Picture = tuple[str, NDArray[np.uint8]]
"""Name, and pixels (H, W, 3) uint8 RGB of the model's input size."""


def check_pictures(folder: str | Path | None, card: ModelCard) -> list[Picture]:
    """Pictures of the model's input size.

    Args:
        folder: its first MOST_PICTURES that can be read, subfolders included, resized whole; None draws scenes.
        card: of the model.

    Raises:
        UsageError: no picture of the folder can be read.
        MissingDependencyError: OpenCV is not whole.
    """
    check_opencv()
    if folder is None:
        return [(f"drawn scene {seed}", drawn_picture(card.size, seed)) for seed in range(DRAWN_PICTURES)]
    found: list[Picture] = []
    for source in find_sources([str(folder)], recursive=True):
        try:
            picture = decode_image(source.path) if source.medium == "image" else None
        except AlgmError:
            continue
        if picture is not None:
            plan = plan_whole((picture.shape[0], picture.shape[1]), card.size)
            found.append((source.name, canvas_image(picture, plan)))
        if len(found) == MOST_PICTURES:
            break
    if not found:
        raise UsageError(f"{folder}: no picture in it can be read")
    return found


def drawn_picture(size: tuple[int, int], seed: int) -> NDArray[np.uint8]:
    """A scene of `size` = (height, width) pixels, (height, width, 3) uint8; part of one where none is that small."""
    height, width = (max(side, MINIMUM_SIDE) for side in size)
    return np.ascontiguousarray(draw_scene(height, width, seed).image[: size[0], : size[1]])
