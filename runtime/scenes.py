"""Drawn scenes with known labels: pictures free of any licence, of any size, the same for the same seed everywhere.

A scene is a landscape of smooth regions (sky, water, far hills) and detailed ones (bricks, roof tiles, foliage,
chequered boxes): token merging finds both windows that merge and windows that do not. Serves as training material of
the sample checkpoint, as verification picture of an export, and as input of benchmarks.

Every value of a picture comes from single elementwise operations and OpenCV's bit-exact resize: no sum whose order
could differ between machines, no sine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from algm_trt.plugins.errors import UsageError

CLASSES: Final = ("sky", "sun", "hill", "grass", "water", "wall", "roof", "tree", "box", "ball")
PALETTE: Final = (
    (135, 190, 235),
    (250, 205, 60),
    (130, 115, 150),
    (130, 190, 80),
    (40, 95, 175),
    (225, 200, 170),
    (175, 60, 45),
    (25, 95, 45),
    (235, 130, 30),
    (225, 60, 145),
)
SKY, SUN, HILL, GRASS, WATER, WALL, ROOF, TREE, BOX, BALL = range(len(CLASSES))
MINIMUM_SIDE: Final = 16

Colour = tuple[float, float, float]
Field = NDArray[np.float32]


@dataclass(frozen=True)
class Scene:
    """A picture and what is in it.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        labels: (H, W) uint8 class ids, indices into `CLASSES`; every pixel has one.
    """

    image: NDArray[np.uint8]
    labels: NDArray[np.uint8]


def draw_scene(height: int, width: int, seed: int) -> Scene:
    """Draw a scene.

    Args:
        height: in pixels, at least 16.
        width: in pixels, at least 16.
        seed: any non-negative integer; equal arguments give equal bytes.

    Raises:
        UsageError: a side below 16 pixels or a negative seed.
    """
    if min(height, width) < MINIMUM_SIDE or seed < 0:
        raise UsageError(
            f"a scene has at least {MINIMUM_SIDE}x{MINIMUM_SIDE} pixels and a seed of at least 0, "
            f"got {height}x{width} and seed {seed}"
        )
    painter = _Painter(height, width, seed)
    mood = _MOODS[int(painter.random.integers(len(_MOODS)))]
    horizon = height * painter.between(0.35, 0.6)
    _draw_sky(painter, mood, horizon)
    _draw_hills(painter, mood, horizon)
    shore = _draw_ground(painter, mood, horizon)
    _draw_things(painter, horizon, shore)
    return Scene(_develop(painter, mood), painter.labels)


@dataclass(frozen=True)
class _Mood:
    """Light of a time of day: colours of the sky at the top and at the horizon, of the sun, and gain per channel."""

    zenith: Colour
    haze: Colour
    sun: Colour
    gain: Colour


_MOODS: Final = (
    _Mood((70, 130, 215), (190, 218, 242), (255, 244, 190), (1.0, 1.0, 1.0)),
    _Mood((105, 165, 225), (225, 232, 232), (255, 250, 225), (1.06, 1.03, 0.98)),
    _Mood((95, 95, 160), (250, 190, 140), (255, 215, 120), (1.05, 0.92, 0.86)),
    _Mood((150, 165, 182), (208, 213, 216), (250, 246, 228), (0.9, 0.93, 0.97)),
    _Mood((52, 68, 120), (148, 142, 178), (246, 240, 214), (0.76, 0.8, 0.96)),
)


@dataclass(frozen=True)
class _Area:
    """Where a shape lies: a window of the picture, the share of each pixel in it that the shape covers, (h, w)."""

    rows: slice
    columns: slice
    cover: Field


class _Painter:
    """A picture under way, float32 (H, W, 3) in 0..255, with its labels and its source of chance.

    Attributes:
        unit: typical object size in pixels: sizes of things are multiples of it.
        grain: size in pixels of fine texture; grows slower than the picture, as more pixels show more detail.
    """

    def __init__(self, height: int, width: int, seed: int) -> None:
        self.height, self.width = height, width
        self.random = np.random.default_rng(seed)
        self.image = np.zeros((height, width, 3), np.float32)
        self.labels = np.full((height, width), SKY, np.uint8)
        self.unit = float(min(height, width, 0.75 * max(height, width)))
        self.grain = max(1.0, math.sqrt(self.unit / 256) * 1.5)

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * float(self.random.random())

    def chance(self, probability: float) -> bool:
        return float(self.random.random()) < probability

    def vary(self, colour: Colour, amount: float) -> Colour:
        """A colour near another: brighter or darker by up to `amount`, each channel by a third of it on its own."""
        shift = self.between(-amount, amount)
        red, green, blue = (value + shift + self.between(-amount, amount) / 3 for value in colour)
        return red, green, blue

    def pick(self, colours: Sequence[Colour], amount: float = 18.0) -> Colour:
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

    def ellipse(self, y: float, x: float, height: float, width: float, soft: float = 0.0) -> _Area:
        """An ellipse by its centre and half axes; `soft` 1 fades from the centre on, 0 has a sharp edge."""
        height, width = max(height, 0.5), max(width, 0.5)
        rows, columns, ys, xs = self.window(y - height - 1, x - width - 1, y + height + 1, x + width + 1)
        ys, xs = (ys - y) / height, (xs - x) / width
        inside = 1 - ys * ys - xs * xs
        steep = 1.0 if soft else min(height, width) / 2
        return _Area(rows, columns, np.clip(inside * steep + (0.0 if soft else 0.5), 0, 1))

    def polygon(self, *points: tuple[float, float]) -> _Area:
        """A convex polygon of corners (row, column), clockwise as seen on the screen."""
        corners = np.array(points)
        (top, left), (bottom, right) = corners.min(axis=0).tolist(), corners.max(axis=0).tolist()
        rows, columns, ys, xs = self.window(top - 1, left - 1, bottom + 1, right + 1)
        cover = np.ones((ys.shape[0], xs.shape[1]), np.float32)
        for (y0, x0), (y1, x1) in zip(points, (*points[1:], points[0]), strict=True):
            length = max(math.sqrt((y1 - y0) ** 2 + (x1 - x0) ** 2), 1e-6)
            down, across = (x1 - x0) / length, (y1 - y0) / length
            np.minimum(cover, (ys - y0) * down - (xs - x0) * across + 0.5, out=cover)
        return _Area(rows, columns, np.clip(cover, 0, 1, out=cover))

    def box(self, top: float, left: float, bottom: float, right: float) -> _Area:
        return self.polygon((top, left), (top, right), (bottom, right), (bottom, left))

    def below(self, line: Field) -> _Area:
        """Everything below a line, (W) in rows."""
        rows, columns, ys, _ = self.window(float(line.min()) - 1, 0, self.height, self.width)
        return _Area(rows, columns, np.clip(ys - line[None, :] + 0.5, 0, 1))

    def paint(
        self, area: _Area, colour: Colour | NDArray[np.floating], label: int | None = None, strength: float = 1.0
    ) -> None:
        """Lay a colour, or one per pixel (h, w, 3), over an area, and mark what lies there."""
        part = self.image[area.rows, area.columns]
        change = np.asarray(colour, np.float32) - part
        change *= (area.cover * strength)[..., None]
        part += change
        if label is not None:
            self.labels[area.rows, area.columns][area.cover >= 0.5] = label

    def shade(self, area: _Area, tone: Field, colour: Colour) -> Field:
        """A colour times 1 + tone (h, w) at each pixel of an area: (h, w, 3)."""
        return np.asarray(colour, np.float32) * (1 + np.broadcast_to(tone, area.cover.shape))[..., None]


def _blend(first: Colour, second: Colour, share: float) -> Colour:
    red, green, blue = (a + (b - a) * share for a, b in zip(first, second, strict=True))
    return red, green, blue


def _gradient(first: Colour, second: Colour, share: Field) -> Field:
    """From one colour to another where share (h, w) goes from 0 to 1: (h, w, 3)."""
    start, step = np.asarray(first, np.float32), np.asarray(second, np.float32) - np.asarray(first, np.float32)
    return start + step * share[..., None]


def _fraction(values: NDArray[np.floating]) -> Field:
    return np.asarray(values - np.floor(values), np.float32)


def _courses(
    painter: _Painter, area: _Area, origin: tuple[float, float], size: tuple[float, float]
) -> tuple[Field, Field]:
    """Rows of bricks or tiles that break joint: each pixel's height inside its brick (0..1), and its brick's tone.

    The tone is -1..1, and -2 in the joint.
    """
    y = (np.arange(area.rows.start, area.rows.stop, dtype=np.float32)[:, None] - origin[0]) / size[0]
    course = np.floor(y)
    x = (np.arange(area.columns.start, area.columns.stop, dtype=np.float32)[None, :] - origin[1]) / size[1]
    x = x + _fraction(course * 0.5)
    tones = painter.random.random(61, dtype=np.float32) * 2 - 1
    tone = tones[(course * 17 + np.floor(x) * 5).astype(np.int64) % 61]
    joint = (_fraction(y) < 1.2 / size[0]) | (_fraction(x) < 1.2 / size[1])
    return np.broadcast_to(_fraction(y), tone.shape), np.where(joint, np.float32(-2), tone)


def _draw_sky(painter: _Painter, mood: _Mood, horizon: float) -> None:
    zenith, haze = painter.vary(mood.zenith, 15), painter.vary(mood.haze, 10)
    height = min(painter.height, math.ceil(horizon) + 1)
    painter.image[:] = haze
    sky = _Area(slice(0, height), slice(0, painter.width), np.ones((height, painter.width), np.float32))
    share = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    painter.paint(sky, _gradient(zenith, haze, share * share), SKY)
    unit = painter.unit
    for _ in range(int(painter.between(0, 1.5 + 2.5 * min(painter.width / painter.height, 12.0)))):
        y, x = painter.between(0.05, 0.75) * horizon, painter.between(0, 1) * painter.width
        white = _blend(haze, (255, 255, 255), 0.75)
        for _ in range(6):
            puff = painter.ellipse(
                y + unit * painter.between(-0.02, 0.02),
                x + unit * painter.between(-0.13, 0.13),
                unit * painter.between(0.02, 0.06),
                unit * painter.between(0.06, 0.16),
                soft=1.0,
            )
            painter.paint(puff, white, strength=0.7)
    if painter.chance(0.7):
        radius = unit * painter.between(0.05, 0.1)
        y, x = painter.between(0.12, 0.7) * horizon, painter.between(0.06, 0.94) * painter.width
        painter.paint(painter.ellipse(y, x, 3 * radius, 3 * radius, soft=1.0), mood.sun, strength=0.45)
        painter.paint(painter.ellipse(y, x, radius, radius), mood.sun, SUN)


def _draw_hills(painter: _Painter, mood: _Mood, horizon: float) -> None:
    count = int(painter.random.integers(0, 4))
    colour = painter.pick(((98, 96, 132), (112, 96, 104), (84, 104, 124), (128, 108, 98)))
    for layer in range(count):
        rise = horizon * painter.between(0.12, 0.4) * (1 - 0.55 * layer / count)
        ridge = painter.line(horizon - rise, 0.55 * rise, painter.unit * painter.between(0.3, 0.8))
        area = painter.below(ridge)
        far = _blend(colour, mood.haze, 0.5 - 0.35 * layer / count)
        cell = 6 * painter.grain
        tone = 0.06 * painter.noise(area.cover.shape, (cell, cell)) + 0.05 * painter.noise(
            area.cover.shape, (2 * painter.grain, 3 * painter.grain)
        )
        painter.paint(area, painter.shade(area, tone, far), HILL)


def _draw_ground(painter: _Painter, mood: _Mood, horizon: float) -> float:
    """Water or grass from the horizon on, grass in front; returns the row from which on things stand on grass."""
    depth = painter.height - horizon
    edge = horizon
    if painter.chance(0.45):
        _draw_water(painter, painter.below(np.full(painter.width, horizon, np.float32)), mood)
        edge = horizon + depth * painter.between(0.25, 0.7)
        beach = painter.line(edge, 0.12 * depth, painter.unit * 0.6)
    else:
        beach = painter.line(edge, 0.03 * depth, painter.unit * 0.7)
    _draw_grass(painter, painter.below(beach))
    if painter.chance(0.4):
        y = edge + (painter.height - edge) * painter.between(0.2, 0.9)
        x = painter.between(0.1, 0.9) * painter.width
        half = painter.unit * painter.between(0.15, 0.4)
        _draw_water(painter, painter.ellipse(y, x, 0.35 * half, half), mood)
    return edge


def _draw_water(painter: _Painter, area: _Area, mood: _Mood) -> None:
    near = painter.pick(((36, 84, 142), (40, 108, 138), (52, 92, 128)))
    share = np.linspace(0, 1, max(1, area.cover.shape[0]), dtype=np.float32)[: area.cover.shape[0], None]
    colour = _gradient(_blend(near, mood.haze, 0.45), near, np.broadcast_to(share, area.cover.shape))
    waves = painter.noise(area.cover.shape, (2 * painter.grain, 16 * painter.grain))
    colour += (9 * waves * (0.4 + 0.6 * share))[..., None]
    painter.paint(area, colour, WATER)


def _draw_grass(painter: _Painter, area: _Area) -> None:
    green = painter.pick(((104, 152, 66), (128, 156, 74), (88, 136, 62), (150, 160, 88)))
    blades = painter.noise(area.cover.shape, (3.5 * painter.grain, 1.2 * painter.grain))
    patches = painter.noise(area.cover.shape, (painter.unit * 0.08, painter.unit * 0.2))
    share = np.linspace(0, 1, max(1, area.cover.shape[0]), dtype=np.float32)[: area.cover.shape[0], None]
    painter.paint(area, painter.shade(area, 0.1 * patches + (0.04 + 0.12 * share) * blades, green), GRASS)


def _draw_things(painter: _Painter, horizon: float, shore: float) -> None:
    """Houses, trees, boxes and balls, the far ones first."""
    wide = max(1.0, painter.width / painter.height)
    tall = max(1.0, 0.75 * painter.height / painter.width)
    count = int(painter.between(4, 10) * min(wide * tall, 12.0))
    feet = sorted(painter.between(0.06, 1.02) for _ in range(count))
    for foot in feet:
        y = shore + (painter.height - shore) * foot
        nearness = 0.45 + 0.55 * (y - horizon) / (painter.height - horizon)
        x = painter.between(-0.02, 1.02) * painter.width
        draw = (_draw_house, _draw_tree, _draw_box, _draw_ball)[int(painter.random.choice(4, p=(0.3, 0.3, 0.2, 0.2)))]
        draw(painter, y, x, painter.unit * nearness)


def _draw_shadow(painter: _Painter, y: float, x: float, half: float) -> None:
    painter.paint(painter.ellipse(y, x, 0.22 * half, 1.25 * half, soft=1.0), (24, 30, 30), strength=0.7)


def _draw_house(painter: _Painter, y: float, x: float, size: float) -> None:
    half, height = size * painter.between(0.13, 0.24), size * painter.between(0.16, 0.26)
    top, eaves, rise = y - height, half * 1.12, size * painter.between(0.1, 0.18)
    _draw_shadow(painter, y, x, 1.1 * half)
    front = painter.box(top, x - half, y, x + half)
    painter.paint(front, _wall_texture(painter, front, (top, x - half)), WALL)
    _draw_openings(painter, top, x, y, half)
    ridge = half * painter.between(0.0, 0.8)
    roof = painter.polygon((top - rise, x - ridge), (top - rise, x + ridge), (top, x + eaves), (top, x - eaves))
    slate = painter.pick(((158, 66, 48), (122, 62, 52), (84, 82, 94), (176, 92, 58)))
    g = painter.grain
    inside, tone = _courses(painter, roof, (top - rise, x - eaves), (4.5 * g, 4 * g))
    tone = np.where(tone < -1, np.float32(-0.25), 0.1 * tone + 0.3 * (0.5 - inside))
    painter.paint(roof, painter.shade(roof, tone, slate), ROOF)


def _wall_texture(painter: _Painter, area: _Area, origin: tuple[float, float]) -> Field:
    """Bricks, boards or plaster: (h, w, 3)."""
    g, kind = painter.grain, int(painter.random.integers(3))
    if kind == 0:
        brick = painter.pick(((178, 104, 78), (196, 138, 104), (206, 178, 142)))
        _, tone = _courses(painter, area, origin, (5 * g, 11 * g))
        mortar = np.asarray((206, 200, 190), np.float32)
        return np.where((tone < -1)[..., None], mortar, painter.shade(area, 0.14 * tone, brick))
    colour = painter.pick(((232, 222, 200), (222, 196, 160), (214, 206, 206), (232, 214, 150)))
    if kind == 1:
        x = np.arange(area.columns.start, area.columns.stop, dtype=np.float32)[None, :]
        boards = _fraction((x - origin[1]) / (6 * g))
        return painter.shade(area, np.where(boards < 0.22, np.float32(-0.22), 0.06 * boards), colour)
    return painter.shade(area, 0.025 * painter.noise(area.cover.shape, (2 * g, 2 * g)), colour)


def _draw_openings(painter: _Painter, top: float, x: float, y: float, half: float) -> None:
    """A door and windows on a front; they count as wall."""
    height = y - top
    door = painter.pick(((98, 66, 46), (58, 84, 78), (120, 48, 44)))
    glass, frame = painter.pick(((62, 84, 110), (88, 110, 128))), (236, 234, 228)
    places = [-0.62, -0.05, 0.52] if half > 0.6 * height else [-0.5, 0.3]
    entry = int(painter.random.integers(len(places)))
    for index, place in enumerate(places):
        left, right = x + half * place - 0.08 * half, x + half * place + 0.3 * half
        if index == entry:
            painter.paint(painter.box(y - 0.62 * height, left, y, right), door)
            continue
        upper, lower, rim = top + 0.28 * height, top + 0.66 * height, 0.045 * half
        painter.paint(painter.box(upper - rim, left - rim, lower + rim, right + rim), frame)
        painter.paint(painter.box(upper, left, lower, right), glass)
        painter.paint(painter.box(upper, (left + right - rim) / 2, lower, (left + right + rim) / 2), frame)


def _draw_tree(painter: _Painter, y: float, x: float, size: float) -> None:
    height = size * painter.between(0.3, 0.55)
    leaves = painter.pick(((46, 98, 48), (62, 112, 52), (38, 84, 58), (88, 112, 42)), 12)
    trunk = max(0.7, 0.035 * height)
    _draw_shadow(painter, y, x, 0.3 * height)
    bark = painter.pick(((92, 66, 46), (76, 62, 54)))
    painter.paint(painter.box(y - 0.6 * height, x - trunk, y, x + trunk), bark, TREE)
    if painter.chance(0.4):
        for step in range(3):
            base, half = y - height * (0.14 + 0.24 * step), height * (0.3 - 0.07 * step)
            branches = painter.polygon((base - 0.42 * height, x), (base, x + half), (base, x - half))
            _draw_leaves(painter, branches, leaves)
        return
    for _ in range(9):
        up, across = painter.between(0.42, 0.82), painter.between(-0.17, 0.17)
        radius = height * painter.between(0.12, 0.2)
        crown = painter.ellipse(y - up * height, x + across * height, radius, radius * painter.between(1.0, 1.25))
        _draw_leaves(painter, crown, _blend(leaves, (200, 214, 120), 0.35 * (up - 0.42)))


def _draw_leaves(painter: _Painter, area: _Area, colour: Colour) -> None:
    tone = 0.24 * painter.noise(area.cover.shape, (2 * painter.grain, 2 * painter.grain))
    tone += 0.16 * painter.noise(area.cover.shape, (4.5 * painter.grain, 4.5 * painter.grain))
    tone += np.linspace(0.18, -0.26, area.cover.shape[0], dtype=np.float32)[:, None]
    painter.paint(area, painter.shade(area, tone, colour), TREE)


def _draw_box(painter: _Painter, y: float, x: float, size: float) -> None:
    half = size * painter.between(0.05, 0.12)
    side, lift, top = 0.7 * half, 0.35 * half, y - 2 * half
    colour = painter.pick(((224, 130, 40), (66, 128, 190), (206, 60, 52), (150, 96, 190), (232, 196, 70)))
    other = painter.pick(((244, 240, 230), (52, 48, 58)), 8)
    _draw_shadow(painter, y, x + 0.3 * half, 1.3 * half)
    dark, light = _blend(colour, (0, 0, 0), 0.4), _blend(colour, (255, 255, 255), 0.3)
    right = x + half
    flank = painter.polygon((top, right), (top - lift, right + side), (y - lift, right + side), (y, right))
    painter.paint(flank, dark, BOX)
    lid = painter.polygon((top, x - half), (top - lift, x - half + side), (top - lift, right + side), (top, right))
    painter.paint(lid, light, BOX)
    front = painter.box(top, x - half, y, right)
    cells = float(painter.random.integers(2, 6))
    cell = 2 * half / cells
    v = np.floor((np.arange(front.rows.start, front.rows.stop, dtype=np.float32)[:, None] - top) / cell)
    u = np.floor((np.arange(front.columns.start, front.columns.stop, dtype=np.float32)[None, :] - (x - half)) / cell)
    pattern = u + v if painter.chance(0.6) else u + 0 * v
    first, second = np.asarray(colour, np.float32), np.asarray(other, np.float32)
    painter.paint(front, np.where((pattern % 2 == 0)[..., None], first, second), BOX)


def _draw_ball(painter: _Painter, y: float, x: float, size: float) -> None:
    radius = size * painter.between(0.045, 0.11)
    reds, others = ((214, 46, 60), (238, 92, 150), (120, 70, 180)), ((60, 110, 210), (245, 200, 60), (40, 170, 160))
    colour = painter.pick(reds + others)
    _draw_shadow(painter, y, x, radius)
    area = painter.ellipse(y - radius, x, radius, radius)
    v = (np.arange(area.rows.start, area.rows.stop, dtype=np.float32)[:, None] + 0.5 - (y - radius)) / radius
    u = (np.arange(area.columns.start, area.columns.stop, dtype=np.float32)[None, :] + 0.5 - x) / radius
    facing = np.sqrt(np.clip(1 - v * v - u * u, 0, 1))
    light = np.clip(0.62 * facing - 0.5 * v - 0.35 * u, 0, 1)
    skin = np.broadcast_to(np.asarray(colour, np.float32), (*area.cover.shape, 3))
    if painter.chance(0.5):
        stripes = np.abs(v + painter.between(-0.6, 0.6) * u) < painter.between(0.2, 0.4)
        skin = np.where(stripes[..., None], np.float32(246), skin)
    shine = light * light * light * light * light * light
    painter.paint(area, skin * (0.5 + 0.6 * light)[..., None] + (110 * shine * shine)[..., None], BALL)


def _develop(painter: _Painter, mood: _Mood) -> NDArray[np.uint8]:
    """Light that falls off across the picture, the mood's gain, and the sensor's noise; then 8 bits."""
    height, width = painter.labels.shape
    rise, tilt = painter.between(-0.08, 0.08), painter.between(-0.12, 0.12)
    rows = np.linspace(1 - rise, 1 + rise, height, dtype=np.float32)[:, None]
    columns = np.linspace(1 - tilt, 1 + tilt, width, dtype=np.float32)[None, :]
    exposure = painter.between(0.9, 1.08)
    image = painter.image
    image *= (rows * columns)[..., None]
    balance = np.asarray(painter.vary((255, 255, 255), 8), np.float32) / 255
    image *= balance * np.asarray(mood.gain, np.float32) * exposure
    strength = painter.between(1.0, 7.0) / 127.5
    image += (painter.random.integers(0, 256, image.shape, dtype=np.uint8).astype(np.float32) - 127.5) * strength
    return np.clip(np.rint(image, out=image), 0, 255, out=image).astype(np.uint8)
