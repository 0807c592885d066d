"""Drawn scenes with known labels: pictures free of any licence, of any size, the same for the same seed everywhere.

A scene is a landscape of smooth regions (sky, water, far hills) and detailed ones (bricks, roof tiles, foliage,
chequered boxes): token merging finds both windows that merge and windows that do not. Serves as training material of
the sample checkpoint, as verification picture of an export, and as input of benchmarks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from algm_trt.plugins.errors import UsageError
from algm_trt.runtime.painter import Area, Colour, Field, Painter, blend, courses, fraction, gradient, rgb, shaded

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
    painter = Painter(height, width, seed)
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


def _draw_sky(painter: Painter, mood: _Mood, horizon: float) -> None:
    zenith, haze = painter.vary(mood.zenith, 15), painter.vary(mood.haze, 10)
    share = np.minimum(np.arange(painter.height, dtype=np.float32)[:, None] / max(1.0, horizon), 1)
    painter.image[:] = gradient(zenith, haze, share * share)
    unit = painter.unit
    for _ in range(int(painter.between(0, 1.5 + 2.5 * min(painter.width / painter.height, 12.0)))):
        y, x = painter.between(0.05, 0.75) * horizon, painter.between(0, 1) * painter.width
        white = blend(haze, (255, 255, 255), 0.75)
        for _ in range(6):
            puff = painter.ellipse(
                y + unit * painter.between(-0.02, 0.02),
                x + unit * painter.between(-0.13, 0.13),
                unit * painter.between(0.02, 0.06),
                unit * painter.between(0.06, 0.16),
                soft=True,
            )
            painter.paint(puff, white, strength=0.7)
    if painter.chance(0.7):
        radius = unit * painter.between(0.05, 0.1)
        y, x = painter.between(0.12, 0.7) * horizon, painter.between(0.06, 0.94) * painter.width
        painter.paint(painter.ellipse(y, x, 3 * radius, 3 * radius, soft=True), mood.sun, strength=0.45)
        painter.paint(painter.ellipse(y, x, radius, radius), mood.sun, SUN)


def _draw_hills(painter: Painter, mood: _Mood, horizon: float) -> None:
    count = int(painter.random.integers(0, 4))
    colour = painter.pick(((98, 96, 132), (112, 96, 104), (84, 104, 124), (128, 108, 98)))
    for layer in range(count):
        rise = horizon * painter.between(0.12, 0.4) * (1 - 0.55 * layer / count)
        ridge = painter.line(horizon - rise, 0.55 * rise, painter.unit * painter.between(0.3, 0.8))
        area = painter.below(ridge)
        far = blend(colour, mood.haze, 0.5 - 0.35 * layer / count)
        cell = 6 * painter.grain
        tone = 0.06 * painter.noise(area.cover.shape, (cell, cell)) + 0.05 * painter.noise(
            area.cover.shape, (2 * painter.grain, 3 * painter.grain)
        )
        painter.paint(area, shaded(tone, far), HILL)


def _draw_ground(painter: Painter, mood: _Mood, horizon: float) -> float:
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


def _draw_water(painter: Painter, area: Area, mood: _Mood) -> None:
    near = painter.pick(((36, 84, 142), (40, 108, 138), (52, 92, 128)))
    share = np.linspace(0, 1, max(1, area.cover.shape[0]), dtype=np.float32)[: area.cover.shape[0], None]
    colour = gradient(blend(near, mood.haze, 0.45), near, share)
    waves = painter.noise(area.cover.shape, (2 * painter.grain, 16 * painter.grain))
    painter.paint(area, colour + 9 * waves * (0.4 + 0.6 * share), WATER)


def _draw_grass(painter: Painter, area: Area) -> None:
    green = painter.pick(((104, 152, 66), (128, 156, 74), (88, 136, 62), (150, 160, 88)))
    blades = painter.noise(area.cover.shape, (3.5 * painter.grain, 1.2 * painter.grain))
    patches = painter.noise(area.cover.shape, (painter.unit * 0.08, painter.unit * 0.2))
    share = np.linspace(0, 1, max(1, area.cover.shape[0]), dtype=np.float32)[: area.cover.shape[0], None]
    painter.paint(area, shaded(0.1 * patches + (0.04 + 0.12 * share) * blades, green), GRASS)


def _draw_things(painter: Painter, horizon: float, shore: float) -> None:
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


def _draw_shadow(painter: Painter, y: float, x: float, half: float) -> None:
    painter.paint(painter.ellipse(y, x, 0.22 * half, 1.25 * half, soft=True), (24, 30, 30), strength=0.7)


def _draw_house(painter: Painter, y: float, x: float, size: float) -> None:
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
    inside, tone = courses(painter, roof, (top - rise, x - eaves), (4.5 * g, 4 * g))
    tone = np.where(tone < -1, np.float32(-0.25), 0.1 * tone + 0.3 * (0.5 - inside))
    painter.paint(roof, shaded(tone, slate), ROOF)


def _wall_texture(painter: Painter, area: Area, origin: tuple[float, float]) -> Field:
    """Bricks, boards or plaster: (3, h, w), or (3, 1, w) where the rows are alike."""
    g, kind = painter.grain, int(painter.random.integers(3))
    if kind == 0:
        brick = painter.pick(((178, 104, 78), (196, 138, 104), (206, 178, 142)))
        _, tone = courses(painter, area, origin, (5 * g, 11 * g))
        return np.where(tone < -1, rgb((206, 200, 190)), shaded(0.14 * tone, brick))
    colour = painter.pick(((232, 222, 200), (222, 196, 160), (214, 206, 206), (232, 214, 150)))
    if kind == 1:
        boards = fraction(area.offsets(*origin)[1] / (6 * g))
        return shaded(np.where(boards < 0.22, np.float32(-0.22), 0.06 * boards), colour)
    return shaded(0.025 * painter.noise(area.cover.shape, (2 * g, 2 * g)), colour)


def _draw_openings(painter: Painter, top: float, x: float, y: float, half: float) -> None:
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


def _draw_tree(painter: Painter, y: float, x: float, size: float) -> None:
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
        _draw_leaves(painter, crown, blend(leaves, (200, 214, 120), 0.35 * (up - 0.42)))


def _draw_leaves(painter: Painter, area: Area, colour: Colour) -> None:
    tone = 0.24 * painter.noise(area.cover.shape, (2 * painter.grain, 2 * painter.grain))
    tone += 0.16 * painter.noise(area.cover.shape, (4.5 * painter.grain, 4.5 * painter.grain))
    tone += np.linspace(0.18, -0.26, area.cover.shape[0], dtype=np.float32)[:, None]
    painter.paint(area, shaded(tone, colour), TREE)


def _draw_box(painter: Painter, y: float, x: float, size: float) -> None:
    half = size * painter.between(0.05, 0.12)
    side, lift, top = 0.7 * half, 0.35 * half, y - 2 * half
    colour = painter.pick(((224, 130, 40), (66, 128, 190), (206, 60, 52), (150, 96, 190), (232, 196, 70)))
    other = painter.pick(((244, 240, 230), (52, 48, 58)), 8)
    _draw_shadow(painter, y, x + 0.3 * half, 1.3 * half)
    dark, light = blend(colour, (0, 0, 0), 0.4), blend(colour, (255, 255, 255), 0.3)
    right = x + half
    flank = painter.polygon((top, right), (top - lift, right + side), (y - lift, right + side), (y, right))
    painter.paint(flank, dark, BOX)
    lid = painter.polygon((top, x - half), (top - lift, x - half + side), (top - lift, right + side), (top, right))
    painter.paint(lid, light, BOX)
    front = painter.box(top, x - half, y, right)
    cells = float(painter.random.integers(2, 6))
    cell = 2 * half / cells
    v, u = front.offsets(top, x - half)
    v, u = np.floor(v / cell), np.floor(u / cell)
    pattern = u + v if painter.chance(0.6) else u + 0 * v
    painter.paint(front, np.where(pattern % 2 == 0, rgb(colour), rgb(other)), BOX)


def _draw_ball(painter: Painter, y: float, x: float, size: float) -> None:
    radius = size * painter.between(0.045, 0.11)
    reds, others = ((214, 46, 60), (238, 92, 150), (120, 70, 180)), ((60, 110, 210), (245, 200, 60), (40, 170, 160))
    colour = painter.pick(reds + others)
    _draw_shadow(painter, y, x, radius)
    area = painter.ellipse(y - radius, x, radius, radius)
    v, u = area.offsets(y - radius, x)
    v, u = v / radius, u / radius
    facing = np.sqrt(np.clip(1 - v * v - u * u, 0, 1))
    light: Field = np.clip(0.62 * facing - 0.5 * v - 0.35 * u, 0, 1, dtype=np.float32)
    skin = rgb(colour)
    if painter.chance(0.5):
        stripes = np.abs(v + painter.between(-0.6, 0.6) * u) < painter.between(0.2, 0.4)
        skin = np.where(stripes, rgb((246, 246, 246)), skin)
    shine = light * light * light * light * light * light
    painter.paint(area, skin * (0.5 + 0.6 * light) + 110 * shine * shine, BALL)


def _develop(painter: Painter, mood: _Mood) -> NDArray[np.uint8]:
    """Light that falls off across the picture, the mood's gain, and the sensor's noise; then 8 bits."""
    height, width = painter.labels.shape
    rise, tilt = painter.between(-0.08, 0.08), painter.between(-0.12, 0.12)
    rows = np.linspace(1 - rise, 1 + rise, height, dtype=np.float32)[:, None]
    columns = np.linspace(1 - tilt, 1 + tilt, width, dtype=np.float32)[None, :]
    exposure = painter.between(0.9, 1.08)
    image = painter.image
    balance = rgb(painter.vary((255, 255, 255), 8)) / 255
    image *= balance * rgb(mood.gain) * exposure * rows
    image *= columns
    strength = painter.between(1.0, 7.0) / 127.5
    noise = painter.random.integers(0, 256, image.shape, dtype=np.uint8).astype(np.float32)
    noise -= 127.5
    noise *= strength
    image += noise
    pixels = np.clip(np.rint(image, out=image), 0, 255, out=image).astype(np.uint8)
    return np.ascontiguousarray(pixels.transpose(1, 2, 0))
