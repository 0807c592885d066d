"""The picture of the merged tokens: means, borders, overlapping windows, sizes other than the canvas."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from algm_trt.runtime.token_picture import _token_of_each_pixel, token_picture
from algm_trt.runtime.windows import WindowPlan, plan_slide, plan_whole


def distinct_maps(plan: WindowPlan, patch_size: int) -> NDArray[np.int32]:
    grid = [-(-length // patch_size) for length in plan.window]
    return np.tile(np.arange(grid[0] * grid[1], dtype=np.int32).reshape(grid) + 1, (len(plan), 1, 1))


def test_one_window_paints_each_token_in_its_mean() -> None:
    plan = plan_slide((8, 8), (8, 8), 8)
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    token_map = np.array([[[5, 5], [1, 9]]], np.int32)
    picture = token_picture(image, plan, token_map, 4)
    assert np.array_equal(picture[:3, :7], np.broadcast_to(np.rint(image[:4].mean(axis=(0, 1))), (3, 7, 3)))
    assert np.array_equal(picture[5, 1], np.rint(image[4:, :4].mean(axis=(0, 1))))
    assert np.array_equal(picture[5, 6], np.rint(image[4:, 4:].mean(axis=(0, 1))))


def test_borders_lie_between_tokens_only_and_stand_out() -> None:
    plan = plan_slide((16, 16), (16, 16), 16)
    image = np.full((16, 16, 3), 200, np.uint8)
    image[:, 8:] = 30
    picture = token_picture(image, plan, np.array([[[1, 2], [1, 3]]], np.int32), 8)
    drawn = (picture != image).any(axis=2)
    expected = np.zeros((16, 16), bool)
    expected[:, 7] = True
    expected[7, 8:] = True
    assert np.array_equal(drawn, expected)
    assert (picture[:, 7] == 0).all()
    assert (picture[7, 8:] == 255).all()


def test_everything_merged_is_one_color_without_borders() -> None:
    plan = plan_whole((30, 20), (16, 16))
    image = np.random.default_rng(1).integers(0, 256, (30, 20, 3), np.uint8)
    picture = token_picture(image, plan, np.ones((1, 4, 4), np.int32), 4)
    assert np.array_equal(picture, np.broadcast_to(np.rint(image.mean(axis=(0, 1))), picture.shape))


@pytest.mark.parametrize("source", [(16, 16), (23, 41), (64, 16), (5, 9), (1, 1), (1, 50)])
def test_pixels_show_the_window_whose_centre_is_nearest(source: tuple[int, int]) -> None:
    plan = plan_slide(source, (16, 16), 12)
    tokens = _token_of_each_pixel(plan, distinct_maps(plan, 4), 4)
    centres = np.array(plan.anchors) + 8
    for y in range(source[0]):
        for x in range(source[1]):
            point = np.array([(y + 0.5) * plan.canvas[0] / source[0], (x + 0.5) * plan.canvas[1] / source[1]])
            window, patch = divmod(int(tokens[y, x]), 16)
            distances = ((centres - point) ** 2).sum(axis=1)
            assert distances[window] == distances.min()
            inside = (point.astype(int) - np.array(plan.anchors[window])) // 4
            assert patch == inside[0] * 4 + inside[1]


def test_tokens_of_two_windows_are_never_one() -> None:
    plan = plan_slide((16, 32), (16, 16), 16)
    tokens = _token_of_each_pixel(plan, np.ones((2, 4, 4), np.int32), 4)
    assert np.array_equal(np.unique(tokens[:, :16]), [0])
    assert np.array_equal(np.unique(tokens[:, 16:]), [1])


def test_borders_grow_with_the_patches_in_a_large_picture() -> None:
    plan = plan_whole((64, 128), (16, 16))
    image = np.full((64, 128, 3), 90, np.uint8)
    drawn = (token_picture(image, plan, np.array([[[1, 2], [3, 4]]], np.int32), 8) != image).any(axis=2)
    assert drawn.all(axis=1).sum() == 2
    assert drawn.all(axis=0).sum() == 4
