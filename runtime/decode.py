"""Picture files and objects to upright RGB arrays; whatever goes wrong becomes one DecodeError with one line.

Pillow decodes. It reads the header before any pixel, so a decompression bomb is refused at the cost of its file header,
and it names a truncated file: a JPEG cut after 10 KB, which Pillow 13 refuses, comes out of OpenCV 5 without an error
and with 2176 of its 2225 rows plain grey.

What a picture becomes:
- upright: the EXIF orientation is applied;
- transparency is composited over white, as on a page;
- 16-bit grey is divided by 257 and rounded, so that full scale stays full scale;
- CMYK goes through its ICC profile where it has one; RGB and grey pixels stay as stored whatever their profile, as in
  the official code;
- of an animation or a multi-page file, the first frame.
"""

from __future__ import annotations

import io
import logging
import math
import os
import re
import stat
import struct
import threading
import warnings
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import IO, Any, Final, Protocol

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageCms, ImageFile, TiffImagePlugin

from algm_trt.plugins.errors import AlgmError
from algm_trt.runtime.limits import DEFAULT_MAX_PIXELS
from algm_trt.runtime.paths import printable

Pixels = npt.NDArray[np.uint8]

# Formats with a signature and a decoder inside Pillow. Others would run programs (EPS) or claim any bytes (TGA).
_FORMATS: Final = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "JPEG2000", "PPM", "AVIF")
_TIFF_WIDTH, _TIFF_HEIGHT = 256, 257
_TIFF_TILE_WIDTH, _TIFF_TILE_HEIGHT = 322, 323
_STRIP_BYTES: Final = 2**18
_GREY_16_TO_8: Final = ((np.arange(65536) + 128) // 257).astype(np.uint8)
_TURNS: Final[dict[int, Callable[[Pixels], Pixels]]] = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: pixels[::-1].swapaxes(0, 1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: pixels[:, ::-1].swapaxes(0, 1),
}

# Python shows the warnings of a logger without any handler on the screen; Pillow's TIFF reader has such messages.
logging.getLogger("PIL").addHandler(logging.NullHandler())


class DecodeError(AlgmError):
    """A picture that cannot be decoded.

    Attributes:
        cause: what is wrong, without the path.
        path: the file, or None for a picture that was given as an object.
    """

    def __init__(self, cause: str, path: str | os.PathLike[str] | None = None) -> None:
        self.cause = cause
        self.path = path
        super().__init__(cause if path is None else f"{printable(path)}: {cause}")


class BinaryFile(Protocol):
    """A file that is open for reading bytes, such as an upload."""

    def read(self) -> bytes:
        """The rest of the file."""
        ...


def decode_image(file: str | os.PathLike[str] | bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> Pixels:
    """Decode a picture file; see the head of this module for what becomes of its colours.

    Safe to call from many threads. No setting of Pillow is changed: its own limit, which follows
    `PIL.Image.MAX_IMAGE_PIXELS`, applies on top of `max_pixels` to WebP, TIFF and GIF only.

    Args:
        file: its path, whose suffix does not matter, or the bytes that are in it.
        max_pixels: pictures with more pixels are refused before any pixel is decoded.

    Returns:
        uint8 (H, W, 3), RGB, C-contiguous, writable.

    Raises:
        DecodeError: missing, unreadable, empty, no picture, damaged, truncated, or too large.
    """
    try:
        with _open_file(file) as stream:
            picture = _read_header(stream)
            _check_size(picture, max_pixels)
            return _pixels(picture)
    except DecodeError as error:
        raise DecodeError(error.cause, None if isinstance(file, bytes) else file) from error


def picture_size(
    file: str | os.PathLike[str] | bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS
) -> tuple[int, int] | None:
    """Height and width of the upright picture from the header of the file alone, to plan memory before decoding.

    Args:
        file: its path, or the bytes that are in it.
        max_pixels: as for `decode_image`.

    Returns:
        (H, W), or None where `decode_image` would refuse the file by its header. A PNG that stores its EXIF orientation
        behind its pixels is measured as stored.
    """
    try:
        with _open_file(file) as stream:
            picture = _read_header(stream)
            _check_size(picture, max_pixels)
            turned = _orientation(picture) in (5, 6, 7, 8)
            width, height = _stored_size(picture)
    except DecodeError:
        return None
    return (width, height) if turned else (height, width)


def check_file(path: str | os.PathLike[str]) -> None:
    """Check that a path leads to a file with content that may be read, before a library is given it.

    Raises:
        DecodeError: missing, unreadable, empty, or no regular file, such as a folder or a pipe.
    """
    try:
        _open_file(path).close()
    except DecodeError as error:
        raise DecodeError(error.cause, path) from error


def file_bytes(given: bytes | bytearray | memoryview | BinaryFile) -> bytes:
    """The bytes of a picture file that is in memory or open.

    Args:
        given: the bytes, or a file open in binary mode, which is read from where it stands to its end.

    Raises:
        DecodeError: a file that is open as text, is at its end, or cannot be read.
    """
    if isinstance(given, bytes):
        return given
    if isinstance(given, bytearray | memoryview):
        return bytes(given)
    file: Any = given
    if isinstance(file, io.TextIOBase):  # reading it would fail at the first byte that is no text
        raise DecodeError("the file is open as text: open it in binary mode, 'rb'")
    try:
        data = file.read()
    except Exception as error:  # objects of many libraries can be read from
        raise DecodeError(f"the file cannot be read ({_one_line(error)})") from error
    if not isinstance(data, bytes | bytearray | memoryview):
        raise DecodeError(f"the file must be open in binary mode: read() gave {type(data).__name__}, not bytes")
    if not len(data):
        raise DecodeError("the file is empty, or was read to its end before: seek(0) goes back to its start")
    return bytes(data)


def to_rgb(picture: Image.Image | npt.NDArray[Any], *, max_pixels: int = DEFAULT_MAX_PIXELS) -> Pixels:
    """An upright RGB array of a picture that is in memory.

    Args:
        picture: a Pillow picture (treated as `decode_image` treats the same file), or a uint8 array of shape (H, W) or
            (H, W, 1) for grey, (H, W, 3) for RGB, (H, W, 4) for RGB with alpha.
        max_pixels: Pillow pictures with more pixels are refused before any pixel is decoded.

    Returns:
        uint8 (H, W, 3), RGB, C-contiguous. An array that already is so is returned itself, not copied.

    Raises:
        DecodeError: another type, dtype or shape, no pixels, or a Pillow picture that is too large or damaged.
    """
    if isinstance(picture, Image.Image):
        _check_size(picture, max_pixels)
        return _pixels(picture)
    if not isinstance(picture, np.ndarray):
        raise DecodeError(
            "expected a path, bytes, an open file, a uint8 array or a Pillow picture, "
            f"got {type(picture).__name__}{_cure_of_type(picture)}"
        )
    channels = picture.shape[2] if picture.ndim == 3 else 1
    if picture.dtype != np.uint8 or picture.ndim not in (2, 3) or channels not in (1, 3, 4):
        raise DecodeError(
            "a picture as an array must be uint8 of shape (H, W), (H, W, 3) or (H, W, 4) in RGB order, "
            f"got {picture.dtype} of shape {picture.shape}{_cure_of_array(picture)}"
        )
    if picture.size == 0:
        raise DecodeError(f"the picture has no pixels: shape {picture.shape}")
    if channels == 4:
        return _to_array(_over_white(Image.fromarray(np.ascontiguousarray(picture))))
    if channels == 1:
        return _grey_to_rgb(picture.reshape(picture.shape[:2]))
    return np.ascontiguousarray(picture)


def _cure_of_type(given: object) -> str:
    """What to do with an object that is no picture, as the end of a message."""
    if callable(getattr(given, "numpy", None)):
        return ": .numpy() makes an array of a tensor, .cpu().numpy() of one on a GPU"
    if hasattr(given, "__array__"):
        return ": np.asarray makes an array of it"
    if isinstance(given, Iterable):
        return ": use stream, or a list, for several pictures"
    return ""


def _cure_of_array(array: npt.NDArray[Any]) -> str:
    """What to do with an array that is no picture, as the end of a message."""
    cures = []
    if array.ndim == 4:
        cures.append("a list of arrays is several pictures: list(array)")
    if array.ndim == 3 and array.shape[2] not in (1, 3, 4) and array.shape[0] in (1, 3, 4):
        cures.append("channels come last: array.transpose(1, 2, 0)")
    if array.dtype.kind == "f":
        cures.append("values of 0..1 become (array * 255).round().astype(np.uint8), of 0..255 array.astype(np.uint8)")
    return "".join(f"; {cure}" for cure in cures)


def _open_file(file: str | os.PathLike[str] | bytes) -> IO[bytes]:
    """The file for reading. Its kind is checked first: opening a pipe would block forever."""
    if isinstance(file, bytes):
        if not file:
            raise DecodeError("the picture is empty: no bytes")
        return io.BytesIO(file)
    path = Path(file)
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise DecodeError("is a folder")
        if not stat.S_ISREG(status.st_mode):
            raise DecodeError("is not a regular file")
        if status.st_size == 0:
            raise DecodeError("the file is empty")
        return path.open("rb")
    except FileNotFoundError as error:
        raise DecodeError("no such file") from error
    except (OSError, ValueError) as error:
        raise DecodeError(f"the file cannot be read ({getattr(error, 'strerror', None) or error})") from error


@cache
def _formats() -> tuple[str, ...]:
    """The accepted formats that this Pillow can read."""
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _read_header(stream: IO[bytes]) -> ImageFile.ImageFile:
    """Open a picture without decoding a pixel.

    Not `Image.open`: that warns or fails by Pillow's process-wide pixel limit before the size is known to us.
    """
    _quiet_plugins()
    try:
        prefix = stream.read(16)
        problem = ""
        for name in _formats():
            factory, accept = Image.OPEN[name]
            accepted = accept is None or accept(prefix)
            if isinstance(accepted, str):
                problem = accepted
            elif accepted:
                stream.seek(0)
                try:
                    return factory(stream, "")
                except (SyntaxError, IndexError, TypeError, KeyError, EOFError, struct.error) as error:
                    problem = f"{name}: {error}"
    except Exception as error:
        raise DecodeError(_reason(error)) from error
    if problem:
        raise DecodeError(f"damaged, or of a kind that cannot be read ({_one_line(problem)})")
    raise DecodeError(f"not a picture ({', '.join(_formats())} can be read)")


def _check_size(picture: Image.Image, max_pixels: int) -> None:
    width, height = picture.size
    if isinstance(picture, TiffImagePlugin.TiffImageFile):  # a tile is decoded whole, however little of it shows
        tile = picture.tag_v2.get(_TIFF_TILE_WIDTH, 0), picture.tag_v2.get(_TIFF_TILE_HEIGHT, 0)
        if not all(isinstance(side, int) for side in tile):
            raise DecodeError(f"the picture is damaged: tiles of {tile[0]} x {tile[1]} pixels")
        width, height = max((width, height), tile, key=math.prod)
    check_pixels(width, height, max_pixels)
    if width < 1 or height < 1:
        raise DecodeError(f"the picture has no pixels: {width} x {height}")


def check_pixels(width: int, height: int, max_pixels: int, path: Path | None = None) -> None:
    """Check how large a picture or the frames of a video are; `path` is for the message.

    Raises:
        DecodeError: more than `max_pixels`.
    """
    if width * height > max_pixels:
        raise DecodeError(
            f"too large: {width} x {height} = {width * height:,} pixels, the limit is {max_pixels:,} "
            "(raise it with --max-pixels, or max_pixels in Python, if the picture can be trusted)",
            path,
        )


def _pixels(picture: Image.Image) -> Pixels:
    """Decode, convert and turn upright."""
    _quiet_plugins()
    try:
        picture.load()
        # After `load`: Pillow turns TIFF by itself then, and finds the EXIF of PNG behind the pixels.
        turn = _TURNS.get(_orientation(picture))
        pixels = _rgb_array(picture)
        return pixels if turn is None else np.ascontiguousarray(turn(pixels))
    except DecodeError:
        raise
    except Exception as error:  # Pillow's readers raise errors of many types on damaged data
        raise DecodeError(_reason(error)) from error


def _orientation(picture: Image.Image) -> int:
    """EXIF orientation; 1 (upright) where the EXIF data is damaged, since the pixels are still good."""
    try:
        return int(picture.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:
        return 1


def _stored_size(picture: ImageFile.ImageFile) -> tuple[int, int]:
    """Width and height as stored: for TIFF, some versions of Pillow give those of the upright picture as `size`."""
    if isinstance(picture, TiffImagePlugin.TiffImageFile):
        return int(picture.tag_v2[_TIFF_WIDTH]), int(picture.tag_v2[_TIFF_HEIGHT])
    return picture.size


def _rgb_array(picture: Image.Image) -> Pixels:
    mode = picture.mode
    if mode.startswith("I;16"):
        return _grey_to_rgb(_GREY_16_TO_8[np.asarray(picture)])
    if mode == "I":
        values = np.asarray(picture)
        if values.min() < 0 or values.max() > 65535:
            raise DecodeError("32-bit grey values outside 0..65535 have no known scale: convert it to 8 or 16 bit")
        return _grey_to_rgb(_GREY_16_TO_8[values])
    if mode == "F":
        raise DecodeError("floating-point grey values have no known scale: convert it to 8 or 16 bit")
    if mode == "L" and not picture.has_transparency_data:
        return _grey_to_rgb(np.asarray(picture))
    if mode == "CMYK":
        picture = _cmyk_to_rgb(picture)
    elif picture.has_transparency_data:
        picture = _over_white(picture)
    elif mode != "RGB":
        picture = picture.convert("RGB")
    return _to_array(picture)


def _to_array(picture: Image.Image) -> Pixels:
    """The pixels of an RGB picture.

    Strip by strip: Pillow hands pixels over as one byte string, which for a large picture means fresh memory twice
    (24 megapixels: 210 ms whole, 30-60 ms in strips).
    """
    pixels = np.empty((picture.height, picture.width, 3), np.uint8)
    rows = max(1, _STRIP_BYTES // pixels[0].nbytes)
    for top in range(0, picture.height, rows):
        bottom = min(top + rows, picture.height)
        pixels[top:bottom] = np.asarray(picture.crop((0, top, picture.width, bottom)))
    return pixels


def _grey_to_rgb(values: Pixels) -> Pixels:
    return np.repeat(values[:, :, None], 3, axis=2)


def _over_white(picture: Image.Image) -> Image.Image:
    with_alpha = picture.convert("RGBA")
    page = Image.new("RGB", picture.size, "white")
    page.paste(with_alpha, mask=with_alpha.getchannel("A"))
    return page


def _cmyk_to_rgb(picture: Image.Image) -> Image.Image:
    """Through the ICC profile where there is a good one, else by Pillow's plain formula."""
    profile_bytes = picture.info.get("icc_profile")
    if profile_bytes:
        try:
            profile = ImageCms.ImageCmsProfile(io.BytesIO(profile_bytes))
            converted = ImageCms.profileToProfile(picture, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
            if converted is not None:
                return converted
        except (ImageCms.PyCMSError, OSError, ValueError):
            pass  # a profile that is damaged or not for CMYK: the pixels are still good
    return picture.convert("RGB")


def _reason(error: Exception) -> str:
    """One line for people about an error from inside Pillow."""
    if isinstance(error, Image.DecompressionBombError):
        return (
            f"too large for Pillow's own limit in this format: {_one_line(error)} "
            "(a program can raise PIL.Image.MAX_IMAGE_PIXELS if the picture can be trusted)"
        )
    if isinstance(error, MemoryError):
        return "not enough memory to decode it"
    text = _one_line(error)
    if "truncated" in text.lower():
        return f"the picture is truncated ({text})"
    return f"the picture is damaged or of a kind that cannot be read ({text})"


def _one_line(message: object) -> str:
    return " ".join(str(message).split()) or type(message).__name__


# As Python keeps them: what Pillow's readers say about odd metadata, and about sizes, for which we have our own limit.
_FILTERS: Final = (
    ("ignore", None, UserWarning, re.compile(r"PIL\.\w+Plugin$"), 0),
    ("ignore", None, Image.DecompressionBombWarning, re.compile(r"PIL\.Image$"), 0),
)
_FILTERS_LOCK: Final = threading.Lock()


def _quiet_plugins() -> None:
    """Keep Pillow's warnings about files off the screen.

    Narrow filters that stay: `warnings.catch_warnings` swaps the filters of all threads, and adding a filter per
    picture would make Python show once-only warnings of other packages again and again.
    """
    with _FILTERS_LOCK:
        for wanted in _FILTERS:
            if wanted not in warnings.filters:
                warnings.filterwarnings("ignore", category=wanted[2], module=wanted[3].pattern)
