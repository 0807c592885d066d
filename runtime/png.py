"""A PNG encoder for label maps, after the PNG specification (ISO/IEC 15948).

Label maps are runs of equal values: run-length matching in deflate makes them as small as a full search does, at a
tenth of its time. zlib works outside Python's global lock, so that writer threads run beside each other; Pillow's
encoder holds it.
"""

from __future__ import annotations

import struct
import zlib
from typing import BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_GREY, _RGB, _INDEXED = 0, 2, 3  # colour types of the IHDR chunk
_NO_FILTER, _SUB_FILTER = 0, 1  # row filters
_BAND_BYTES = 2**20


def write_png(
    file: BinaryIO,
    pixels: NDArray[np.uint8] | NDArray[np.uint16],
    palette: NDArray[np.uint8] | None = None,
) -> None:
    """Write one picture.

    Args:
        file: open for writing in binary.
        pixels: (H, W) uint8 grey or with a palette, (H, W) uint16 grey, or (H, W, 3) uint8 RGB.
        palette: (n, 3) uint8 colours, n <= 256, for (H, W) uint8.

    Raises:
        OSError: the file cannot be written.
        ValueError: pixels of another shape or type.
    """
    colour, depth = _kind(pixels, palette)
    height, width = pixels.shape[:2]
    file.write(_SIGNATURE)
    _write_chunk(file, b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    if palette is not None:
        _write_chunk(file, b"PLTE", np.ascontiguousarray(palette, np.uint8).tobytes())
    deflate = zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, zlib.Z_RLE)
    band = max(1, _BAND_BYTES // (width * pixels.itemsize * (3 if colour == _RGB else 1)))
    for start in range(0, height, band):
        _write_chunk(file, b"IDAT", deflate.compress(_filtered_rows(pixels[start : start + band])))
    _write_chunk(file, b"IDAT", deflate.flush())
    _write_chunk(file, b"IEND", b"")


def _kind(pixels: NDArray[np.generic], palette: NDArray[np.uint8] | None) -> tuple[int, int]:
    """Colour type and bits per sample."""
    if pixels.ndim == 2 and pixels.dtype == np.uint8 and palette is not None and len(palette) <= 256:
        return _INDEXED, 8
    if pixels.ndim == 2 and pixels.dtype in (np.uint8, np.uint16) and palette is None:
        return _GREY, 8 * pixels.itemsize
    if pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.dtype == np.uint8 and palette is None:
        return _RGB, 8
    raise ValueError(
        f"cannot write {pixels.shape} {pixels.dtype} {'with' if palette is not None else 'without'} palette"
    )


def _filtered_rows(pixels: NDArray[np.uint8] | NDArray[np.uint16]) -> memoryview:
    """Rows as PNG stores them: the filter's number, then the bytes, big-endian.

    Pixels of several bytes are stored as differences to the pixel on the left, which turns runs of equal pixels into
    runs of zero bytes.
    """
    big_endian = pixels.astype(">u2") if pixels.dtype == np.uint16 else pixels
    samples = np.ascontiguousarray(big_endian).view(np.uint8).reshape(len(pixels), -1)
    pixel_bytes = samples.shape[1] // pixels.shape[1]
    rows = np.empty((len(pixels), 1 + samples.shape[1]), np.uint8)
    rows[:, 0] = _NO_FILTER if pixel_bytes == 1 else _SUB_FILTER
    rows[:, 1:] = samples
    if pixel_bytes > 1:
        rows[:, 1 + pixel_bytes :] -= samples[:, :-pixel_bytes]
    return rows.reshape(-1).data


def _write_chunk(file: BinaryIO, name: bytes, data: bytes) -> None:
    if not data and name == b"IDAT":
        return
    file.write(struct.pack(">I", len(data)) + name)
    file.write(data)
    file.write(struct.pack(">I", zlib.crc32(data, zlib.crc32(name))))
