"""Drawn scenes: the same everywhere, complete, of any size, smooth and detailed."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from algm_trt.plugins.errors import UsageError
from algm_trt.runtime.scenes import CLASSES, GRASS, MINIMUM_SIDE, PALETTE, SKY, Scene, draw_scene

# The sample checkpoint was trained on these pictures: draw them differently and it has to be trained again.
DIGESTS = {
    (97, 61, 7): "8129ce3e321f396f",
    (256, 256, 0): "01ccac945689b1e1",
    (16, 16, 1): "a4d21bbe7e80675b",
    (40, 400, 3): "a93d69b5dd9d9c55",
}
SIZES = [(16, 16), (16, 331), (331, 16), (17, 23), (101, 64), (256, 300), (719, 40)]


def digest(scene: Scene) -> str:
    return hashlib.sha256(scene.image.tobytes() + scene.labels.tobytes()).hexdigest()[:16]


@pytest.mark.parametrize("arguments", DIGESTS, ids=str)
def test_pictures_have_the_same_bytes_on_every_machine(arguments: tuple[int, int, int]) -> None:
    assert digest(draw_scene(*arguments)) == DIGESTS[arguments]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_any_size_gives_picture_and_labels_of_that_size(size: tuple[int, int]) -> None:
    for seed in range(12):
        scene = draw_scene(*size, seed)
        assert scene.image.shape == (*size, 3)
        assert scene.image.dtype == np.uint8
        assert scene.image.flags.c_contiguous
        assert scene.labels.shape == size
        assert scene.labels.dtype == np.uint8
        assert int(scene.labels.max()) < len(CLASSES)


def test_other_seeds_give_other_pictures() -> None:
    assert len({digest(draw_scene(32, 48, seed)) for seed in range(50)}) == 50


def test_every_class_appears_and_sky_and_grass_dominate() -> None:
    shares = np.zeros(len(CLASSES))
    for seed in range(40):
        labels = draw_scene(128, 160, seed).labels
        shares += np.bincount(labels.ravel(), minlength=len(CLASSES)) / labels.size / 40
    assert (shares > 0.002).all()
    assert {SKY, GRASS} == set(np.argsort(shares)[-2:].tolist())


def test_pictures_use_the_range_without_clipping_much() -> None:
    for seed in range(20):
        image = draw_scene(120, 160, seed).image
        assert 40 < float(image.mean()) < 215
        assert float(np.ptp(image)) > 120
        assert float((image == 255).mean()) < 0.25


def test_scenes_hold_smooth_patches_and_detailed_ones() -> None:
    """Spread of the grey values inside patches of 8 pixels: what token merging lives on."""
    smooth = detailed = 0.0
    for seed in range(20):
        grey = draw_scene(256, 256, seed).image.mean(axis=2).reshape(32, 8, 32, 8)
        spread = grey.std(axis=(1, 3))
        smooth += float((spread < 8).mean()) / 20
        detailed += float((spread > 16).mean()) / 20
    assert smooth > 0.4
    assert detailed > 0.08


def test_classes_and_colours_are_distinct() -> None:
    assert len(set(CLASSES)) == len(CLASSES) == len(PALETTE) == len(set(PALETTE))


@pytest.mark.parametrize("arguments", [(MINIMUM_SIDE - 1, 100, 0), (100, 0, 0), (64, 64, -1)], ids=str)
def test_impossible_scenes_are_refused(arguments: tuple[int, int, int]) -> None:
    with pytest.raises(UsageError, match="at least 16x16"):
        draw_scene(*arguments)
