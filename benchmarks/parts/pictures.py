"""Pictures of one size: photographs of a folder, a file of them for a machine that has none, or drawn scenes.

Of a photograph it is the largest centred square, scaled. OpenCV is imported where it is needed only: a GPU machine
may lack it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Pictures = NDArray[np.uint8]
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}


def load_pictures(source: Path | None, count: int, size: int) -> tuple[Pictures, str]:
    """Pictures (count, size, size, 3), and what they are in words; fewer than `count` are taken in turns."""
    if source is None:
        pictures, what = _drawn(count, size), "drawn scenes"
    elif source.suffix == ".npz":
        with np.load(source) as arrays:
            pictures, what = arrays["pictures"], str(arrays["what"])
        if pictures.shape[1:3] != (size, size):
            import cv2

            scaled = [cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA) for picture in pictures[:count]]
            pictures = np.stack(scaled)
    else:
        pictures, what = _photographs(source, count, size), f"photographs of {source.name}"
    if len(pictures) < count:
        what += f", the same {len(pictures)} in turns"
    return np.ascontiguousarray(pictures[np.arange(count) % len(pictures)]), what


def save_pictures(target: Path, pictures: Pictures, what: str) -> None:
    """Write a file that `load_pictures` reads."""
    np.savez_compressed(target, pictures=pictures, what=np.array(what))


def _drawn(count: int, size: int) -> Pictures:
    from algm_trt.runtime.scenes import draw_scene

    return np.stack([draw_scene(size, size, seed).image for seed in range(count)])


def _photographs(folder: Path, count: int, size: int) -> Pictures:
    import cv2

    from algm_trt.runtime.decode import decode_image

    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise SystemExit(f"{folder} holds no pictures ({', '.join(sorted(SUFFIXES))})")
    # Evenly spread: neighbours may be frames of one video.
    taken = min(count, len(paths))
    squares = []
    for path in (paths[index * len(paths) // taken] for index in range(taken)):
        image = decode_image(path)
        side = min(image.shape[:2])
        top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
        square = np.ascontiguousarray(image[top : top + side, left : left + side])
        squares.append(cv2.resize(square, (size, size), interpolation=cv2.INTER_AREA))
    return np.stack(squares)
