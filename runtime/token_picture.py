"""The picture of the paper: every merged token in the mean colour of its pixels, with borders between tokens."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from algm_trt.runtime.paint import paint
from algm_trt.runtime.windows import WindowPlan

_BAND_PIXELS = 2**20
_PATCHES_PER_BORDER = 16  # a border is this fraction of a patch wide, and at least one pixel


def token_picture(
    image: NDArray[np.uint8], plan: WindowPlan, token_maps: NDArray[np.int32], patch_size: int
) -> NDArray[np.uint8]:
    """Draw which patches merged.

    Where windows overlap, a pixel shows the window whose centre is nearest.

    Args:
        image: (H, W, 3) uint8 RGB.
        plan: where the windows lie.
        token_maps: (n, gh, gw) int32 token of each patch, in the order of the plan's windows.
        patch_size: side of a patch in canvas pixels.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    tokens = _token_of_each_pixel(plan, token_maps, patch_size)
    means = _mean_colors(image, tokens)
    picture = paint(means, tokens)
    ink = _border_colors(means)
    thickness = [
        max(1, round(patch_size * source / canvas / _PATCHES_PER_BORDER))
        for source, canvas in zip(plan.source, plan.canvas, strict=True)
    ]
    borders = np.zeros(tokens.shape, bool)
    for step in range(1, thickness[0] + 1):
        borders[:-step] |= tokens[:-step] != tokens[step:]
    for step in range(1, thickness[1] + 1):
        borders[:, :-step] |= tokens[:, :-step] != tokens[:, step:]
    picture[borders] = ink[tokens[borders]]
    return picture


def _token_of_each_pixel(plan: WindowPlan, token_maps: NDArray[np.int32], patch_size: int) -> NDArray[np.int32]:
    """(H, W) int32 number of each pixel's token, counted over all windows without gaps."""
    windows, height, width = token_maps.shape
    stride = int(token_maps.max()) + 1
    numbers = token_maps.astype(np.int64) + stride * np.arange(windows)[:, None, None]
    compact = np.unique(numbers, return_inverse=True)[1].astype(np.int32)
    by_place = compact.reshape(len(plan.rows), len(plan.columns), height, width).swapaxes(1, 2)
    mosaic = by_place.reshape(len(plan.rows) * height, -1)
    row, patch_row = _nearest_window(plan.source[0], plan.canvas[0], plan.rows, plan.window[0], patch_size)
    column, patch_column = _nearest_window(plan.source[1], plan.canvas[1], plan.columns, plan.window[1], patch_size)
    tokens: NDArray[np.int32] = mosaic[row * height + patch_row].take(column * width + patch_column, axis=1)
    return tokens


def _nearest_window(
    source: int, canvas: int, starts: tuple[int, ...], length: int, patch_size: int
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """For each source position along one axis: the index of the window with the nearest centre, and the patch in it.

    Windows form a grid, so that the nearest one is found on each axis alone.
    """
    position = (np.arange(source) + 0.5) * (canvas / source)
    begin = np.asarray(starts)
    midpoints = (begin[1:] + begin[:-1] + length) / 2
    window = np.searchsorted(midpoints, position, side="right")
    patch = (position.astype(np.intp) - begin[window]) // patch_size
    return window, patch


def _mean_colors(image: NDArray[np.uint8], tokens: NDArray[np.int32]) -> NDArray[np.uint8]:
    """(tokens, 3) uint8 mean colour of each token's pixels, summed in bands of rows."""
    count = int(tokens.max()) + 1
    sums = np.zeros((count, 3))
    pixels = np.zeros(count, np.int64)
    band = max(1, _BAND_PIXELS // tokens.shape[1])
    for start in range(0, len(tokens), band):
        owner = tokens[start : start + band].ravel()
        pixels += np.bincount(owner, minlength=count)
        for channel in range(3):
            values = image[start : start + band, :, channel].ravel()
            sums[:, channel] += np.bincount(owner, weights=values, minlength=count)
    return np.rint(sums / np.maximum(pixels, 1)[:, None]).astype(np.uint8)


def _border_colors(means: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """White on dark tokens, black on bright ones."""
    brightness = means @ np.array([0.299, 0.587, 0.114])
    return np.where(brightness[:, None] < 128, 255, 0).astype(np.uint8).repeat(3, axis=1)
