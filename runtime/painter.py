"""Shapes, textures and colours of drawn pictures: what `scenes.py` draws with.

Every value comes from single elementwise operations and OpenCV's bit-exact resize, so that a picture has the same bytes
on every machine: no sum whose order could differ, no sine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Colour = tuple[float, float, float]
Field = NDArray[np.float32]


@dataclass(frozen=True)
class Area:
    """Where a shape lies: a window of the picture, the share of each pixel in it that the shape covers, (h, w)."""

    rows: slice
    columns: slice
    cover: Field

    def offsets(self, y: float, x: float) -> tuple[Field, Field]:
        """Pixel centres counted from a point: rows (h, 1) and columns (1, w)."""
        rows = np.arange(self.rows.start, self.rows.stop, dtype=np.float32)[:, None]
        columns = np.arange(self.columns.start, self.columns.stop, dtype=np.float32)[None, :]
        return rows + np.float32(0.5 - y), columns + np.float32(0.5 - x)


class Painter:
    """A picture under way, float32 (3, H, W) in 0..255, with its labels and its source of chance.

    Colours come first because NumPy is slow where the innermost axis has three values.

    Attributes:
        unit: typical object size in pixels: sizes of things are multiples of it.
        grain: size in pixels of fine texture; grows slower than the picture, as more pixels show more detail.
    """

    def __init__(self, height: int, width: int, seed: int) -> None:
        self.height, self.width = height, width
        self.random = np.random.default_rng(seed)
        self.image = np.zeros((3, height, width), np.float32)
        self.labels = np.zeros((height, width), np.uint8)
        self.unit = float(min(height, width, 0.75 * max(height, width)))
        self.grain = max(1.0, math.sqrt(self.unit / 256) * 1.5)

    def between(self, low: float, high: float) -> float:
        """A random number of low..high."""
        return low + (high - low) * float(self.random.random())

    def chance(self, probability: float) -> bool:
        """True with a probability."""
        return float(self.random.random()) < probability

    def vary(self, colour: Colour, amount: float) -> Colour:
        """A colour near another: brighter or darker by up to `amount`, each channel by a third of it on its own."""
        shift = self.between(-amount, amount)
        red, green, blue = (value + shift + self.between(-amount, amount) / 3 for value in colour)
        return red, green, blue

    def pick(self, colours: Sequence[Colour], amount: float = 18.0) -> Colour:
        """A colour near one of several."""
        return self.vary(colours[int(self.random.integers(len(colours)))], amount)

    def noise(self, shape: tuple[int, int], cell: tuple[float, float]) -> Field:
        """Smooth random values of -1..1: random lattice points about `cell` (height, width) pixels apart."""
        if 0 in shape:
            return np.zeros(shape, np.float32)
        lattice = tuple(int(side / max(1.0, step)) + 2 for side, step in zip(shape, cell, strict=True))
        values = self.random.integers(0, 256, lattice, dtype=np.uint8)
        wide = cv2.resize(values, shape[::-1], interpolation=cv2.INTER_LINEAR_EXACT)
        return np.asarray(wide.astype(np.float32) / 127.5 - 1, np.float32)

    def line(self, level: float, swing: float, length: float) -> Field:
        """A wavy line over the columns, (W) float32 in rows: `level` give or take `swing`, hills `length` apart."""
        coarse = self.noise((1, self.width), (1.0, length))[0]
        fine = self.noise((1, self.width), (1.0, length / 4))[0]
        return np.asarray(level + swing * (0.75 * coarse + 0.25 * fine), np.float32)

    def window(self, top: float, left: float, bottom: float, right: float) -> tuple[slice, slice, Field, Field]:
        """The part of the picture inside a rectangle, and its pixel centres: rows (h, 1), columns (1, w)."""
        first, last = (min(max(math.floor(edge), 0), self.height) for edge in (top, bottom + 1))
        begin, end = (min(max(math.floor(edge), 0), self.width) for edge in (left, right + 1))
        y = np.arange(first, last, dtype=np.float32)[:, None] + 0.5
        x = np.arange(begin, end, dtype=np.float32)[None, :] + 0.5
        return slice(first, last), slice(begin, end), y, x

    def ellipse(self, y: float, x: float, height: float, width: float, soft: bool = False) -> Area:
        """An ellipse by its centre and half axes; with a sharp edge, or `soft`: fading from the centre on."""
        height, width = max(height, 0.5), max(width, 0.5)
        rows, columns, ys, xs = self.window(y - height - 1, x - width - 1, y + height + 1, x + width + 1)
        ys, xs = (ys - y) / height, (xs - x) / width
        inside = 1 - ys * ys - xs * xs
        if not soft:
            inside = inside * (min(height, width) / 2) + 0.5
        return Area(rows, columns, np.clip(inside, 0, 1))

    def polygon(self, *points: tuple[float, float]) -> Area:
        """A convex polygon of corners (row, column), clockwise as seen on the screen."""
        corners = np.array(points)
        (top, left), (bottom, right) = corners.min(axis=0).tolist(), corners.max(axis=0).tolist()
        rows, columns, ys, xs = self.window(top - 1, left - 1, bottom + 1, right + 1)
        cover = np.ones((ys.shape[0], xs.shape[1]), np.float32)
        for (y0, x0), (y1, x1) in zip(points, (*points[1:], points[0]), strict=True):
            length = max(math.sqrt((y1 - y0) ** 2 + (x1 - x0) ** 2), 1e-6)
            down, across = (x1 - x0) / length, (y1 - y0) / length
            np.minimum(cover, (ys - y0) * down - (xs - x0) * across + 0.5, out=cover)
        return Area(rows, columns, np.clip(cover, 0, 1, out=cover))

    def box(self, top: float, left: float, bottom: float, right: float) -> Area:
        """A rectangle by its edges."""
        rows, columns, ys, xs = self.window(top - 1, left - 1, bottom + 1, right + 1)
        across = np.clip(np.minimum(xs - left, right - xs) + 0.5, 0, 1)
        return Area(rows, columns, np.clip(np.minimum(ys - top, bottom - ys) + 0.5, 0, 1) * across)

    def below(self, line: Field) -> Area:
        """Everything below a line, (W) in rows."""
        rows, columns, ys, _ = self.window(float(line.min()) - 1, 0, self.height, self.width)
        return Area(rows, columns, np.clip(ys - line[None, :] + 0.5, 0, 1))

    def paint(self, area: Area, colour: Colour | Field, label: int | None = None, strength: float = 1.0) -> None:
        """Lay a colour, or one per pixel (3, h, w), over an area, and mark what lies there."""
        part = self.image[:, area.rows, area.columns]
        change = (rgb(colour) if isinstance(colour, tuple) else colour) - part
        change *= area.cover if strength == 1 else area.cover * np.float32(strength)
        part += change
        if label is not None:
            self.labels[area.rows, area.columns][area.cover >= 0.5] = label


def rgb(colour: Colour) -> Field:
    """A colour as (3, 1, 1), to be combined with fields (h, w)."""
    return np.asarray(colour, np.float32)[:, None, None]


def shaded(tone: Field, colour: Colour) -> Field:
    """A colour times 1 + tone (h, w) at each pixel: (3, h, w)."""
    return rgb(colour) * (1 + tone)


def blend(first: Colour, second: Colour, share: float) -> Colour:
    """Between two colours: the first where share is 0, the second where it is 1."""
    red, green, blue = (a + (b - a) * share for a, b in zip(first, second, strict=True))
    return red, green, blue


def gradient(first: Colour, second: Colour, share: Field) -> Field:
    """From one colour to another where share (h, w) goes from 0 to 1: (3, h, w)."""
    return rgb(first) + (rgb(second) - rgb(first)) * share


def fraction(values: NDArray[np.floating]) -> Field:
    """What is left above the next lower whole number, 0..1."""
    return np.asarray(values - np.floor(values), np.float32)


def courses(
    painter: Painter, area: Area, origin: tuple[float, float], size: tuple[float, float]
) -> tuple[Field, Field]:
    """Rows of bricks or tiles that break joint: each pixel's height inside its brick (0..1), and its brick's tone.

    The tone is -1..1, and -2 in the joint.
    """
    y, x = area.offsets(*origin)
    y, x = y / size[0], x / size[1]
    course = np.floor(y)
    x = x + fraction(course * 0.5)
    tones = painter.random.random(61, dtype=np.float32) * 2 - 1
    tone = tones[(course * 17 + np.floor(x) * 5).astype(np.int64) % 61]
    joint = (fraction(y) < 1.2 / size[0]) | (fraction(x) < 1.2 / size[1])
    return np.broadcast_to(fraction(y), tone.shape), np.where(joint, np.float32(-2), tone)
