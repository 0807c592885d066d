"""Test pictures drawn with NumPy: free of any licence, the same for the same seed, of any size from 1x1 up."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.uint8]


def gradient(height: int, width: int, first: tuple[int, int, int], last: tuple[int, int, int]) -> Picture:
    """Diagonal blend from colour `first` (top left) to `last` (bottom right), uint8 (height, width, 3)."""
    rows = np.linspace(0.0, 1.0, height)[:, None, None] if height > 1 else np.zeros((1, 1, 1))
    columns = np.linspace(0.0, 1.0, width)[None, :, None] if width > 1 else np.zeros((1, 1, 1))
    mix = (rows + columns) / 2
    return np.rint(np.array(first) * (1 - mix) + np.array(last) * mix).astype(np.uint8)


def noise(height: int, width: int, seed: int = 0) -> Picture:
    """Independent random values, uint8 (height, width, 3): nothing in it is similar to anything."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def checkerboard(height: int, width: int, cell: int = 8) -> Picture:
    """Black and white squares of `cell` pixels, uint8 (height, width, 3)."""
    rows, columns = np.indices((height, width)) // cell
    return np.repeat(((rows + columns) % 2 * 255).astype(np.uint8)[..., None], 3, axis=2)


def disc(height: int, width: int, centre: tuple[float, float], radius: float) -> npt.NDArray[np.bool_]:
    """Pixels within `radius` of `centre` (row, column), bool (height, width)."""
    rows, columns = np.ogrid[:height, :width]
    inside: npt.NDArray[np.bool_] = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 <= radius**2
    return inside


def drawn_scene(height: int, width: int, seed: int = 0) -> Picture:
    """A scene with large even regions and small detail, uint8 (height, width, 3).

    Sky and ground are smooth, discs and boxes have even colours, one patch is noise: token merging finds both windows
    that merge and windows that do not.
    """
    random = np.random.default_rng(seed)
    picture = gradient(height, width, (90, 150, 230), (210, 225, 250))
    horizon = int(height * random.uniform(0.4, 0.7))
    picture[horizon:] = gradient(height, width, (70, 110, 50), (120, 95, 60))[horizon:]
    for _ in range(4):
        colour = random.integers(0, 256, 3, dtype=np.uint8)
        centre = (float(random.uniform(0, height)), float(random.uniform(0, width)))
        picture[disc(height, width, centre, min(height, width) * float(random.uniform(0.05, 0.2)))] = colour
        top, left = int(random.integers(0, height)), int(random.integers(0, width))
        picture[top : top + height // 6 + 1, left : left + width // 8 + 1] = random.integers(0, 256, 3, dtype=np.uint8)
    top, left = int(random.integers(0, height)), int(random.integers(0, width))
    detail = picture[top : top + height // 4 + 1, left : left + width // 4 + 1]
    detail[:] = noise(*detail.shape[:2], seed=seed + 1)
    return picture
