"""The PNG encoder against two decoders: every kind of picture, awkward sizes, palettes."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from algm_trt.runtime.png import write_png

SIZES = [(1, 1), (1, 97), (97, 1), (3, 5), (64, 64), (1031, 1033)]


def encode(pixels: NDArray[np.generic], palette: NDArray[np.uint8] | None = None) -> bytes:
    file = io.BytesIO()
    write_png(file, pixels, palette)  # type: ignore[arg-type]
    return file.getvalue()


@pytest.mark.parametrize("size", SIZES)
def test_indexed_pictures_keep_ids_and_palette(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    ids = rng.integers(0, 256, size, np.uint8)
    palette = rng.integers(0, 256, (256, 3), np.uint8)
    picture = Image.open(io.BytesIO(encode(ids, palette)))
    assert picture.mode == "P"
    assert np.array_equal(np.asarray(picture), ids)
    assert np.array_equal(np.asarray(picture.convert("RGB")), palette[ids])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("dtype", "mode"), [(np.uint8, "L"), (np.uint16, "I;16")])
def test_grey_keeps_values(size: tuple[int, int], dtype: type, mode: str) -> None:
    ids = np.random.default_rng(2).integers(0, 65536, size).astype(dtype)
    data = encode(ids)
    picture = Image.open(io.BytesIO(data))
    assert picture.mode == mode
    assert np.array_equal(np.asarray(picture), ids)
    assert np.array_equal(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED), ids)


@pytest.mark.parametrize("size", SIZES)
def test_rgb_keeps_colors(size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (*size, 3), np.uint8)
    picture = Image.open(io.BytesIO(encode(pixels)))
    assert picture.mode == "RGB"
    assert np.array_equal(np.asarray(picture), pixels)


def test_views_with_strides_are_written_as_they_look() -> None:
    pixels = np.random.default_rng(4).integers(0, 256, (40, 60, 3), np.uint8)[::-1, 3:50:2]
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(encode(pixels)))), pixels)


def test_runs_of_equal_ids_are_small() -> None:
    ids = np.zeros((1000, 1000), np.uint16)
    ids[300:, 200:] = 999
    assert len(encode(ids)) < 20_000


@pytest.mark.parametrize(
    "pixels", [np.zeros((4, 4), np.int8), np.zeros((4, 4), np.int32), np.zeros((4, 4, 4), np.uint8)]
)
def test_what_png_cannot_hold_is_refused(pixels: NDArray[np.generic]) -> None:
    with pytest.raises(ValueError, match="cannot write"):
        encode(pixels)
