"""Geometry of inference: from a picture of any size to windows of the model's size.

The protocol is that of Segmenter's evaluation. In slide mode the short side of a picture may be resized to a given
length first; a picture smaller than the window is enlarged until the window fits; the windows then step over this
canvas, the last one flush with the border. In whole mode the picture is resized to the one window. `field.py` takes the
way back, from the windows' logits to the source.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from algm_trt.plugins.errors import AlgmError, UsageError
from algm_trt.runtime.limits import MAX_CANVAS_PIXELS

_BAND_VALUES = 2**20  # float32 values that canvas_image handles at a time: they stay in the cache


class CanvasError(AlgmError):
    """A picture whose canvas would be too large to work on."""


@dataclass(frozen=True)
class WindowPlan:
    """Where the windows of one picture lie.

    Attributes:
        source: height and width in pixels of the picture.
        canvas: height and width in pixels of the resized picture that the windows are cut from.
        window: height and width in pixels of a window.
        rows: top edges of the windows in canvas pixels, ascending.
        columns: left edges of the windows in canvas pixels, ascending.
        shown: height and width in pixels that the picture is resized to before its canvas is made; None: it is not.
    """

    source: tuple[int, int]
    canvas: tuple[int, int]
    window: tuple[int, int]
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    shown: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if min(*self.source, *self.window) < 1:
            raise UsageError(f"picture {self.source} and window {self.window} must have at least one pixel")
        for edges, extent, length in zip((self.rows, self.columns), self.canvas, self.window, strict=True):
            gapless = all(0 < after - before <= length for before, after in pairwise(edges))
            if not edges or edges[0] != 0 or edges[-1] + length != extent or not gapless:
                raise UsageError(f"windows of {length} pixels at {edges} do not cover {extent} pixels")

    @property
    def anchors(self) -> list[tuple[int, int]]:
        """Top left corners of the windows in canvas pixels, row by row."""
        return [self.anchor(index) for index in range(len(self))]

    def anchor(self, index: int) -> tuple[int, int]:
        """Top left corner of one window in canvas pixels; windows count row by row."""
        row, column = divmod(index, len(self.columns))
        return self.rows[row], self.columns[column]

    def __len__(self) -> int:
        """Number of windows."""
        return len(self.rows) * len(self.columns)


def plan_slide(
    source: tuple[int, int],
    window: tuple[int, int],
    stride: int,
    short_side: int | None = None,
    max_ratio: float | None = None,
) -> WindowPlan:
    """Plan the sliding windows of the official protocol.

    Args:
        source: height and width in pixels of the picture.
        window: height and width in pixels of a window.
        stride: step in pixels between windows, in both directions.
        short_side: pixels that the short side is resized to first; None takes the picture as it is.
        max_ratio: as for `shown_size`.

    Raises:
        UsageError: a stride below 1, or one that would leave gaps between the windows.
        CanvasError: a picture so elongated that its canvas would exceed MAX_CANVAS_PIXELS.
    """
    if not 1 <= stride <= min(window):
        raise UsageError(f"stride {stride} must be between 1 and the window's shorter side, {min(window)}")
    if min(source) < 1:
        raise UsageError(f"picture {source} must have at least one pixel")
    shown = None if short_side is None else shown_size(source, short_side, max_ratio)
    canvas = _slide_canvas(shown or source, window)
    if canvas[0] * canvas[1] > MAX_CANVAS_PIXELS:
        raise CanvasError(
            f"the picture of {source[1]}x{source[0]} pixels is too elongated or too large for sliding windows: "
            f"its canvas of {canvas[1]}x{canvas[0]} exceeds {MAX_CANVAS_PIXELS:,} pixels; resize it with --short-side, "
            "or use --mode whole"
        )
    rows, columns = (_edges(extent, length, stride) for extent, length in zip(canvas, window, strict=True))
    return WindowPlan(source, canvas, window, rows, columns, shown)


def shown_size(
    source: tuple[int, int], short_side: int | None, max_ratio: float | None = None, scale: float = 1.0
) -> tuple[int, int]:
    """Height and width in pixels that the official evaluation shows a picture at: in proportion, rounded as mmcv does.

    Args:
        source: height and width in pixels of the picture.
        short_side: pixels that its short side is resized to; None: it stays as it is.
        max_ratio: its long side becomes at most this times `short_side`; None: no limit.
        scale: factor on all of these.
    """
    factor = scale
    if short_side is not None:
        factor = int(short_side * scale) / min(source)
        if max_ratio is not None:
            factor = min(factor, int(short_side * max_ratio * scale) / max(source))
    height, width = (max(1, int(side * factor + 0.5)) for side in source)
    return height, width


def resized_image(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """A picture (H, W, 3) uint8 at another height and width; itself if it has them.

    The resize is OpenCV's of uint8, bilinear without antialiasing, as in upstream's evaluation: its rounding is part of
    the protocol.
    """
    if image.shape[:2] == size:
        return image
    resized: NDArray[np.uint8] = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)  # type: ignore[assignment]
    return resized


def plan_whole(source: tuple[int, int], window: tuple[int, int]) -> WindowPlan:
    """Plan one window that holds the whole picture, resized without regard to its proportions.

    Raises:
        UsageError: a picture or a window without pixels.
    """
    return WindowPlan(source, window, window, (0,), (0,))


def canvas_image(image: NDArray[np.uint8], plan: WindowPlan) -> NDArray[np.uint8]:
    """Resize a picture to what is shown of it, then to its canvas, as upstream: bilinear without antialiasing.

    The second resize rounds half to even, since models take uint8; upstream keeps the fractions, which near ties of
    the merging can notice. The arithmetic is float32: OpenCV's fixed-point bilinear resize of uint8 differs from it in
    one value of eight. It runs in bands of rows, so that the extra memory does not depend on the picture.

    Args:
        image: (H0, W0, 3) uint8 of the plan's source size.
        plan: the picture's plan.

    Returns:
        (H, W, 3) uint8; `image` itself if the canvas has its size and nothing else is shown.

    Raises:
        UsageError: the picture is not of the plan's source size.
    """
    if image.shape != (*plan.source, 3) or image.dtype != np.uint8:
        raise UsageError(f"expected a picture of {(*plan.source, 3)} uint8, got {image.shape} {image.dtype}")
    shown = resized_image(image, plan.shown or plan.source)
    if plan.canvas == shown.shape[:2]:
        return shown
    height, width = plan.canvas
    canvas = np.empty((height, width, 3), np.uint8)
    low, high, weight = bilinear_taps(shown.shape[0], height)
    across = _by_channel(*bilinear_taps(shown.shape[1], width))
    band = max(1, _BAND_VALUES // (3 * width))
    for start in range(0, height, band):
        rows = slice(start, min(height, start + band))
        needed, position = np.unique(np.concatenate((low[rows], high[rows])), return_inverse=True)
        count = rows.stop - rows.start
        wide = _resize_width(shown[needed], *across)
        above, below = wide[position[:count]], wide[position[count:]]
        _blend(above, below, weight[rows, None])
        np.rint(below, out=below)
        canvas[rows] = below.reshape(count, width, 3)
    return canvas


def crop(canvas: NDArray[np.uint8], plan: WindowPlan, index: int) -> NDArray[np.uint8]:
    """One window of a canvas as a (wh, ww, 3) view; windows count row by row."""
    top, left = plan.anchor(index)
    return canvas[top : top + plan.window[0], left : left + plan.window[1]]


def bilinear_taps(length: int, size: int) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """Two source positions and the second one's weight for each position of a bilinear resize along one axis.

    Half-pixel centres (torch's align_corners=False), no antialiasing. The coordinates are bit for bit those of torch:
    float32 scale, one fused multiply-add.

    Args:
        length: positions before the resize.
        size: positions after it.

    Returns:
        low, high: (size,) positions in 0..length-1; weight: (size,) float32 in 0..1, of `high`.
    """
    scale = np.float32(length) / np.float32(size)
    centres = np.arange(size, dtype=np.float64) + 0.5
    # float64 holds the product exactly, so that the cast is the only rounding, as in a fused multiply-add
    coordinates = np.maximum((np.float64(scale) * centres - 0.5).astype(np.float32), np.float32(0))
    low = np.minimum(coordinates.astype(np.intp), length - 1)
    weight = np.clip(coordinates - low.astype(np.float32), np.float32(0), np.float32(1))
    return low, np.minimum(low + 1, length - 1), weight


def _slide_canvas(source: tuple[int, int], window: tuple[int, int]) -> tuple[int, int]:
    """Smallest canvas of the source's proportions that is at least the source and at least the window."""
    height, width = source
    if height >= window[0] and width >= window[1]:
        return source
    # The ratio is formed first and the product truncated, as upstream: other orders give other sizes.
    if window[0] * width > window[1] * height:
        return window[0], max(window[1], int(width / height * window[0]))
    return max(window[0], int(height / width * window[1])), window[1]


def _edges(extent: int, length: int, stride: int) -> tuple[int, ...]:
    """Leading edges of windows along one axis: every stride while they fit, and one flush with the far border."""
    return (*range(0, extent - length, stride), extent - length)


def _by_channel(
    low: NDArray[np.intp], high: NDArray[np.intp], weight: NDArray[np.float32]
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """The same taps for rows of three interleaved channels."""
    channels = np.arange(3)
    return (low[:, None] * 3 + channels).ravel(), (high[:, None] * 3 + channels).ravel(), np.repeat(weight, 3)


def _resize_width(
    rows: NDArray[np.uint8], low: NDArray[np.intp], high: NDArray[np.intp], weight: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Resize (h, w, 3) rows to (h, W*3) float32, bilinear; channels lie flat, so that inner loops run over rows."""
    flat = rows.reshape(rows.shape[0], -1)
    left = flat.take(low, axis=1).astype(np.float32)
    wide = flat.take(high, axis=1).astype(np.float32)
    _blend(left, wide, weight)
    return wide


def _blend(first: NDArray[np.float32], second: NDArray[np.float32], weight: NDArray[np.float32]) -> None:
    """Replace `second` by first + weight (second - first)."""
    second -= first
    second *= weight
    second += first
