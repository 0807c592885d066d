"""A small deterministic stand-in for a model: class scores and merged tokens from the mean colour of each patch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from algm_trt.runtime.card import MergeSettings, ModelCard
from algm_trt.runtime.engine import EngineOutput

PALETTE = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0))
CLASSES = ("red", "green", "blue", "white", "black")


def make_card(size: tuple[int, int] = (32, 32), patch_size: int = 8, classes: int = 5, merge: bool = True) -> ModelCard:
    names = tuple(CLASSES[index] if index < 5 else f"class {index}" for index in range(classes))
    palette = tuple(PALETTE[index % 5] for index in range(classes))
    return ModelCard(
        classes=names,
        palette=palette,
        size=size,
        patch_size=patch_size,
        stride=max(1, min(size) * 3 // 4),
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        merge=MergeSettings(layers=(1, 5), window=(2, 2), threshold=0.88) if merge else None,
        architecture="fake",
    )


class FakeEngine:
    """Scores a patch by minus its colour's distance to the palette; merges patches of one coarse colour.

    Attributes:
        batches: number of windows of each batch so far.
        fail_on: raise for batches that hold a window whose first pixel has this red value.
    """

    description = "fake backend"

    def __init__(self, card: ModelCard | None = None, fail_on: int | None = None):
        self.card = card or make_card()
        self.batches: list[int] = []
        self.fail_on = fail_on
        self.thresholds: list[float | None] = []
        self.closed = False

    def run(self, images: NDArray[np.uint8], threshold: float | None = None, *, logits: bool = True) -> EngineOutput:
        assert images.dtype == np.uint8
        assert images.shape[1:] == (*self.card.size, 3)
        self.batches.append(len(images))
        self.thresholds.append(threshold)
        if self.fail_on is not None and (images[:, 0, 0, 0] == self.fail_on).any():
            raise RuntimeError("the fake engine fails\non purpose")
        colors = self._patch_colors(images)
        palette = np.asarray(self.card.palette, np.float32)
        distance = np.linalg.norm(colors[..., None, :] - palette, axis=-1)
        scores = np.ascontiguousarray(-distance.transpose(0, 3, 1, 2) / 64, np.float32)
        coarse = (colors // 64) @ np.array([1, 4, 16])
        token_map = np.stack([self._token_map(image) for image in coarse])
        grid = token_map[0].size
        after = np.array([image.max() + 1 for image in token_map])
        counts = np.stack([np.full_like(after, grid + 1), (grid + 1 + after) // 2, after], axis=1)
        labels = scores.argmax(axis=1).repeat(self.card.patch_size, 1).repeat(self.card.patch_size, 2)
        return EngineOutput(
            logits=scores if logits else None,
            labels=labels[:, : self.card.size[0], : self.card.size[1]].astype(np.int32),
            token_counts=counts.astype(np.int32),
            token_map=token_map.astype(np.int32),
        )

    def close(self) -> None:
        self.closed = True

    def _patch_colors(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        (gh, gw), patch = self.card.grid, self.card.patch_size
        height, width = self.card.size
        padded = np.pad(images, ((0, 0), (0, gh * patch - height), (0, gw * patch - width), (0, 0)))
        return padded.reshape(len(images), gh, patch, gw, patch, 3).mean(axis=(2, 4), dtype=np.float32)

    def _token_map(self, coarse: NDArray[np.float32]) -> NDArray[np.int64]:
        if self.card.merge is None:
            return np.arange(coarse.size).reshape(coarse.shape) + 1
        return np.unique(coarse, return_inverse=True)[1].reshape(coarse.shape) + 1


def color_picture(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """Blocks of the palette's colours with a little noise: (height, width, 3) uint8."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 5, (-(-height // 16), -(-width // 16)))
    picture = np.asarray(PALETTE)[blocks].repeat(16, 0).repeat(16, 1)[:height, :width]
    return np.clip(picture + rng.integers(-20, 21, picture.shape), 0, 255).astype(np.uint8)
