"""Cases and checks of the slide mode's kernels, the same for the CPU twin and for a GPU."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from helpers.kernels import Array, Kernels

from algm_trt.plugins import reference
from algm_trt.runtime.field import AxisOperator, LogitField, axis_operators
from algm_trt.runtime.windows import WindowPlan, plan_slide, plan_whole

MARGIN = 1e-4  # below it float32 rounding may decide which of two classes wins
SHARE_EQUAL = 0.9995


@dataclass(frozen=True)
class SlideCase:
    """One picture: source and window (height, width), stride (0: whole mode), patch size, classes, short side."""

    source: tuple[int, int]
    window: tuple[int, int]
    stride: int
    patch: int
    classes: int
    short_side: int | None = None

    @property
    def plan(self) -> WindowPlan:
        """The picture's windows."""
        if self.stride:
            return plan_slide(self.source, self.window, self.stride, self.short_side)
        return plan_whole(self.source, self.window)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of the logits: (n, K, gh, gw)."""
        grid = [-(-extent // self.patch) for extent in self.window]
        return len(self.plan), self.classes, grid[0], grid[1]

    @property
    def axes(self) -> tuple[AxisOperator, AxisOperator]:
        """Operators of rows and columns."""
        return axis_operators(self.plan, self.patch)


SLIDE_CASES = [
    SlideCase((1, 1), (64, 64), 48, 16, 11),
    SlideCase((1, 97), (64, 64), 48, 16, 2),
    SlideCase((64, 64), (64, 64), 48, 16, 1),
    SlideCase((97, 61), (128, 128), 96, 16, 19),  # enlarged
    SlideCase((131, 157), (64, 64), 48, 16, 150),
    SlideCase((83, 120), (100, 105), 80, 16, 11),  # patches overhang the window
    SlideCase((211, 97), (128, 96), 64, 8, 2),
    SlideCase((50, 70), (64, 160), 64, 32, 300),
    SlideCase((53, 47), (30, 20), 13, 5, 256),
    SlideCase((50, 61), (24, 24), 16, 32, 257),  # one patch a window
    SlideCase((131, 157), (64, 64), 48, 16, 11, short_side=80),  # reduced, then windows
    SlideCase((61, 53), (128, 96), 0, 16, 19),  # whole, reduced
    SlideCase((3, 5), (512, 512), 0, 16, 7),  # strongly reduced
    SlideCase((109, 213), (64, 96), 0, 16, 600),  # whole, enlarged; tiles longer than a strip
    SlideCase((40, 23), (16, 16), 16, 1, 5),  # a node for each pixel
    # every step between windows: the smaller, the more nodes a tile draws on
    *(SlideCase((23, 31), (16, 16), stride, 4, 11) for stride in (1, 2, 3, 5, 8, 11, 15, 16)),
    SlideCase((29, 40), (24, 24), 1, 2, 3),
    SlideCase((2, 3), (24, 24), 1, 8, 300),
]


def noise(rng: np.random.Generator, case: SlideCase, dtype: Any) -> Array:
    """Logits without structure: nearly every tile has several winners and many candidates."""
    return (3 * rng.standard_normal(case.shape)).astype(dtype)


def regions(rng: np.random.Generator, case: SlideCase, dtype: Any) -> Array:
    """Logits that favour one class in each of a few rectangles of every window, with a little noise."""
    logits = 0.1 * rng.standard_normal(case.shape)
    favourite = rng.integers(0, case.classes, (case.shape[0], 2, 2))
    row, column = (np.arange(extent) * 2 // extent for extent in case.shape[2:])
    np.put_along_axis(logits, favourite[:, row[:, None], column][:, None], 8.0, axis=1)
    return logits.astype(dtype)


def slide_labels(kernels: Kernels, case: SlideCase, logits: Array) -> Array:
    """Labels by the kernel, which must tell whether all logits are finite."""
    labels, finite = kernels.slide_labels(logits, len(case.plan.rows), *case.axes)
    assert finite == np.isfinite(logits).all()
    return labels


def check_slide_labels(kernels: Kernels, case: SlideCase, logits: Array) -> Array:
    """Labels of the kernel against the NumPy reference and the CPU path; returns them."""
    labels = slide_labels(kernels, case, logits)
    expected = LogitField(case.plan, logits.astype(np.float32), case.patch).labels()
    assert labels.dtype == expected.dtype
    values = reference.slide_values(logits, len(case.plan.rows), *case.axes)
    runner_up = np.partition(values, -2, axis=2)[..., -2] if case.classes > 1 else -np.inf
    decided = values.max(axis=2) - runner_up > MARGIN
    for theirs in (expected, values.argmax(axis=2)):
        np.testing.assert_array_equal(labels[decided], theirs[decided])
        assert np.count_nonzero(labels != theirs) <= max(1, (1 - SHARE_EQUAL) * labels.size)
    return labels


def check_ties(kernels: Kernels, case: SlideCase, logits: Array) -> None:
    """Every class has a twin with the same logits and a higher id: no twin may win, and nothing else may change."""
    doubled = replace(case, classes=2 * case.classes)
    labels = slide_labels(kernels, doubled, np.concatenate((logits, logits), axis=1))
    np.testing.assert_array_equal(labels, slide_labels(kernels, case, logits))


# Canvas, window, number of windows.
CUT_CASES: list[tuple[tuple[int, int], tuple[int, int], int]] = [
    ((1, 1), (1, 1), 1),
    ((7, 11), (3, 5), 9),
    ((40, 37), (13, 16), 5),
    ((64, 80), (64, 64), 2),
    ((33, 131), (33, 97), 7),
    ((19, 5), (19, 5), 1),
    ((6, 700), (5, 601), 3),
]


def check_cut_windows(
    kernels: Kernels, rng: np.random.Generator, case: tuple[tuple[int, int], tuple[int, int], int]
) -> None:
    """Windows at anchors inside and outside the canvas, for every alignment of the source and some of the target."""
    size, window, count = case
    canvas = rng.integers(0, 256, (*size, 3), np.uint8)
    anchors = rng.integers(-2, np.array(size) + 2, (count, 2)).astype(np.int32)
    anchors[-1] = rng.choice([-(2**31), 2**31 - 1], 2)
    expected = reference.cut_windows(canvas, anchors, window)
    tight = -canvas.nbytes % 256, -expected.nbytes % 256
    for offsets in [(0, 0), tight, *((source, 5 * source % 16) for source in range(1, 16))]:
        np.testing.assert_array_equal(kernels.cut_windows(canvas, anchors, window, offsets=offsets), expected)
