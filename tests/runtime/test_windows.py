"""The geometry of sliding windows against upstream's formulas, and the canvas against torch's interpolation."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from algm_trt.plugins.errors import AlgmError, UsageError
from algm_trt.runtime.limits import MAX_CANVAS_PIXELS
from algm_trt.runtime.windows import WindowPlan, bilinear_taps, canvas_image, crop, plan_slide, plan_whole

AWKWARD = [1, 2, 3, 16, 97, 223, 224, 225, 331, 448, 509, 640, 1021]


def upstream_canvas(height: int, width: int, window: int) -> tuple[int, int]:
    """The resize rule of the official evaluation for square windows."""
    if min(height, width) >= window:
        return height, width
    ratio = width / height if height < width else height / width
    long_side = int(ratio * window)
    return (window, long_side) if height < width else (long_side, window)


def random_image(height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(height * 10007 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("window", [16, 224, 512])
def test_square_windows_follow_upstream(window: int) -> None:
    stride = window - 5
    for height in AWKWARD:
        for width in AWKWARD:
            plan = plan_slide((height, width), (window, window), stride)
            assert plan.canvas == upstream_canvas(height, width, window)
            for edges, extent in zip((plan.rows, plan.columns), plan.canvas, strict=True):
                last = extent - window
                assert edges == (*[edge for edge in range(0, extent, stride) if edge < last], last)


@pytest.mark.parametrize("window", [(64, 96), (96, 64), (1, 7), (500, 505), (251, 509)])
def test_canvas_of_any_window_is_the_smallest_that_fits(window: tuple[int, int]) -> None:
    for height in AWKWARD:
        for width in AWKWARD:
            canvas = plan_slide((height, width), window, min(window)).canvas
            scale = max(1.0, window[0] / height, window[1] / width)
            assert canvas[0] >= window[0]
            assert canvas[1] >= window[1]
            assert abs(canvas[0] - height * scale) <= 1
            assert abs(canvas[1] - width * scale) <= 1


def test_anchors_and_crops_run_row_by_row() -> None:
    plan = plan_slide((100, 131), (64, 72), 48)
    assert plan.anchors == [(0, 0), (0, 48), (0, 59), (36, 0), (36, 48), (36, 59)]
    assert len(plan) == 6
    canvas = random_image(100, 131)
    views = [crop(canvas, plan, index) for index in range(len(plan))]
    assert len(views) == len(plan)
    for (top, left), view in zip(plan.anchors, views, strict=True):
        assert np.shares_memory(view, canvas)
        np.testing.assert_array_equal(view, canvas[top : top + 64, left : left + 72])


def test_whole_is_one_window() -> None:
    plan = plan_whole((37, 1001), (64, 96))
    assert (plan.canvas, plan.anchors, len(plan)) == ((64, 96), [(0, 0)], 1)


@pytest.mark.parametrize("stride", [-1, 0, 65])
def test_bad_stride_is_refused(stride: int) -> None:
    with pytest.raises(UsageError, match="stride"):
        plan_slide((100, 100), (64, 96), stride)


def test_elongated_picture_is_refused_with_the_cure() -> None:
    with pytest.raises(AlgmError, match="--mode whole"):
        plan_slide((1, 10000), (512, 512), 480)
    assert plan_whole((1, 10000), (512, 512)).canvas == (512, 512)
    assert MAX_CANVAS_PIXELS > 512 * 512 * 1000
    assert len(plan_slide((1, 1000), (512, 512), 480)) == 1067


@pytest.mark.parametrize(("rows", "columns"), [((), (0,)), ((1,), (0,)), ((0, 70), (0,)), ((0, 36), (36,))])
def test_plan_with_uncovered_pixels_is_refused(rows: tuple[int, ...], columns: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="cover"):
        WindowPlan((100, 64), (100, 64), (64, 64), rows, columns)


@pytest.mark.parametrize("source", [(0, 5), (5, 0)])
def test_empty_picture_is_refused(source: tuple[int, int]) -> None:
    with pytest.raises(UsageError, match="pixel"):
        plan_slide(source, (64, 64), 48)
    with pytest.raises(UsageError, match="pixel"):
        plan_whole(source, (64, 64))


def test_equal_size_is_not_copied() -> None:
    image = random_image(70, 65)
    assert canvas_image(image, plan_slide((70, 65), (64, 64), 48)) is image


@pytest.mark.parametrize("image", [np.zeros((4, 5, 3), np.uint8), np.zeros((5, 4, 3), np.float32)])
def test_foreign_picture_is_refused(image: NDArray[np.uint8]) -> None:
    with pytest.raises(UsageError, match="expected a picture"):
        canvas_image(image, plan_whole((5, 4), (8, 8)))


@pytest.mark.parametrize(
    ("source", "window", "whole"),
    [
        ((1, 1), (64, 64), False),
        ((2, 2), (64, 64), False),
        ((97, 2), (64, 64), False),
        ((300, 451), (512, 512), False),
        ((640, 16), (224, 224), False),
        ((333, 500), (384, 768), False),
        ((1009, 1511), (512, 512), True),
        ((31, 2003), (128, 96), True),
    ],
)
def test_canvas_is_torchs_interpolation_rounded(source: tuple[int, int], window: tuple[int, int], whole: bool) -> None:
    plan = plan_whole(source, window) if whole else plan_slide(source, window, 32)
    image = random_image(*source)
    values = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    resized = F.interpolate(values, plan.canvas, mode="bilinear", align_corners=False)[0].permute(1, 2, 0)
    expected = resized.round().numpy().astype(np.int16)
    difference = np.abs(canvas_image(image, plan).astype(np.int16) - expected)
    assert difference.max() <= 1
    assert np.mean(difference > 0) < 1e-4


@pytest.mark.parametrize(("length", "size"), [(1, 5), (5, 1), (32, 505), (683, 512), (512, 2000), (16384, 10007)])
def test_taps_are_those_of_torch(length: int, size: int) -> None:
    low, high, weight = bilinear_taps(length, size)
    values = torch.arange(length).remainder(2).float()
    expected = F.interpolate(values.view(1, 1, 1, -1), (1, size), mode="bilinear", align_corners=False).flatten()
    parity = np.arange(length) % 2
    np.testing.assert_array_equal((np.float32(1) - weight) * parity[low] + weight * parity[high], expected.numpy())


def test_canvas_needs_little_memory_beside_itself() -> None:
    image = np.full((2000, 3001, 3), 117, np.uint8)
    plan = plan_slide(image.shape[:2], (2304, 2304), 2000)
    tracemalloc.start()
    canvas = canvas_image(image, plan)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.all(canvas == 117)
    assert peak - canvas.nbytes < 40 * 2**20
