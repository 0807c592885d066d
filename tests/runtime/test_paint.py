"""Colour tables applied to indices, against plain indexing."""

from __future__ import annotations

import numpy as np
import pytest

from algm_trt.runtime.paint import paint


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1), (513, 511), (3, 150_000)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
def test_paint_is_indexing(size: tuple[int, int], dtype: type[np.integer]) -> None:
    rng = np.random.default_rng(0)
    colors = rng.integers(0, 256, (200, 3), np.uint8)
    indices = rng.integers(0, 200, size).astype(dtype)
    assert np.array_equal(paint(colors, indices), colors[indices])


def test_one_color_is_enough() -> None:
    picture = paint(np.array([[1, 2, 3]], np.uint8), np.zeros((2, 2), np.uint8))
    assert picture.tolist() == [[[1, 2, 3]] * 2] * 2
