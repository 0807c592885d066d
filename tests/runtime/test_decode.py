"""Decoding: every mode becomes the right RGB, every fault one line, bombs cost nothing."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import threading
import tracemalloc
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from helpers.pictures import Picture, drawn_scene, noise
from PIL import Image, ImageCms, ImageOps

from algm_trt.plugins.errors import AlgmError
from algm_trt.runtime import decode as decode_module
from algm_trt.runtime.decode import DecodeError, decode_image, picture_size, to_rgb
from algm_trt.runtime.limits import DEFAULT_MAX_PIXELS


def saved(folder: Path, picture: Image.Image, name: str, **options: object) -> Path:
    path = folder / name
    picture.save(path, **options)
    return path


def scene(height: int = 37, width: int = 53) -> Picture:
    return drawn_scene(height, width, seed=3)


def exif_with(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def png_header(width: int, height: int) -> bytes:
    """A PNG whose header promises far more pixels than its few bytes hold."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("size", [(1, 1), (1, 17), (31, 1), (37, 53)])
@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "ppm", "webp"])
def test_lossless_rgb_is_exact(tmp_path: Path, size: tuple[int, int], suffix: str) -> None:
    pixels = scene(*size)
    path = saved(tmp_path, Image.fromarray(pixels), f"a.{suffix}", **({"lossless": True} if suffix == "webp" else {}))
    decoded = decode_image(path)
    assert decoded.dtype == np.uint8
    assert decoded.flags.c_contiguous
    assert decoded.flags.writeable
    np.testing.assert_array_equal(decoded, pixels)
    assert picture_size(path) == size


@pytest.mark.parametrize("size", [(3, 100_003), (1009, 911), (5, 17_477)])
def test_large_pictures_are_whole(tmp_path: Path, size: tuple[int, int]) -> None:
    pixels = noise(*size)
    np.testing.assert_array_equal(decode_image(saved(tmp_path, Image.fromarray(pixels), "a.bmp")), pixels)


def test_suffix_does_not_matter(tmp_path: Path) -> None:
    path = saved(tmp_path, Image.fromarray(scene()), "a.png").rename(tmp_path / "a.jpg")
    np.testing.assert_array_equal(decode_image(path), scene())


def test_grey_and_bilevel(tmp_path: Path) -> None:
    grey = scene()[..., 0]
    path = saved(tmp_path, Image.fromarray(grey), "grey.png")
    np.testing.assert_array_equal(decode_image(path), np.repeat(grey[..., None], 3, axis=2))
    bits = grey > 127
    path = saved(tmp_path, Image.fromarray(bits), "bits.png")
    np.testing.assert_array_equal(decode_image(path), np.repeat(bits[..., None] * np.uint8(255), 3, axis=2))


@pytest.mark.parametrize("name", ["a.png", "a.tiff"])
def test_16_bit_grey_is_scaled_not_clipped(tmp_path: Path, name: str) -> None:
    values = np.array([[0, 128, 129, 257], [32768, 65406, 65407, 65535]], np.uint16)
    path = saved(tmp_path, Image.fromarray(values), name)
    expected = np.rint(values / 257).astype(np.uint8)
    assert expected.max() == 255
    np.testing.assert_array_equal(decode_image(path), np.repeat(expected[..., None], 3, axis=2))


def test_16_bit_grey_in_every_byte_order() -> None:
    values = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)
    for mode, order in (("I;16", "<u2"), ("I;16L", "<u2"), ("I;16B", ">u2")):
        picture = Image.frombytes(mode, (16, 16), values.astype(order).tobytes())
        np.testing.assert_array_equal(to_rgb(picture)[..., 1], np.arange(256).reshape(16, 16), err_msg=mode)


def test_32_bit_grey_needs_a_known_scale() -> None:
    np.testing.assert_array_equal(to_rgb(Image.fromarray(np.array([[0, 65535]], np.int32)))[0, :, 0], [0, 255])
    for value in (-1, 65536):
        with pytest.raises(DecodeError, match=r"outside 0\.\.65535"):
            to_rgb(Image.fromarray(np.array([[0, value, 65535]], np.int32)))
    with pytest.raises(DecodeError, match="floating-point"):
        to_rgb(Image.fromarray(np.zeros((2, 2), np.float32)))


def test_16_bit_rgb_png_becomes_8_bit(tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    pixels = scene()
    cv2.imwrite(str(tmp_path / "a.png"), pixels[..., ::-1].astype(np.uint16) * 257)
    np.testing.assert_array_equal(decode_image(tmp_path / "a.png"), pixels)


def test_transparency_is_over_white(tmp_path: Path) -> None:
    pixels = np.dstack([scene(), np.full((37, 53), 255, np.uint8)])
    pixels[:10, :, 3] = 0
    pixels[10:20, :, 3] = 100
    path = saved(tmp_path, Image.fromarray(pixels), "a.png")
    decoded = decode_image(path).astype(int)
    assert (decoded[:10] == 255).all()
    np.testing.assert_array_equal(decoded[20:], pixels[20:, :, :3])
    blend = pixels[10:20, :, :3] * (100 / 255) + 255 * (155 / 255)
    assert np.abs(decoded[10:20] - blend).max() <= 1
    np.testing.assert_array_equal(decoded, to_rgb(pixels))
    grey = np.ascontiguousarray(pixels[..., [0, 3]])
    path = saved(tmp_path, Image.frombytes("LA", (53, 37), grey.tobytes()), "la.png")
    np.testing.assert_array_equal(decode_image(path)[..., 0], decoded[..., 0])


def test_transparent_colours_without_an_alpha_channel(tmp_path: Path) -> None:
    indices = np.array([[0, 1], [2, 1]], np.uint8)
    indexed = Image.frombytes("P", (2, 2), indices.tobytes())
    indexed.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    expected = np.array([[[10, 20, 30], [255, 255, 255]], [[70, 80, 90], [255, 255, 255]]])
    for name, transparency in (("a.png", 1), ("b.gif", 1), ("c.png", bytes([255, 0, 255]))):
        path = saved(tmp_path, indexed, name, transparency=transparency)
        np.testing.assert_array_equal(decode_image(path), expected, err_msg=name)
    opaque = decode_image(saved(tmp_path, indexed, "d.png"))
    np.testing.assert_array_equal(opaque[0, 1], [40, 50, 60])
    keyed = saved(tmp_path, indexed.convert("RGB"), "e.png", transparency=(40, 50, 60))
    np.testing.assert_array_equal(decode_image(keyed), expected)
    grey = Image.frombytes("L", (2, 1), bytes([9, 200]))
    np.testing.assert_array_equal(decode_image(saved(tmp_path, grey, "f.png", transparency=9))[0, :, 0], [255, 200])


def test_cmyk_without_a_profile(tmp_path: Path) -> None:
    cmyk = Image.fromarray(scene()).convert("CMYK")
    path = saved(tmp_path, cmyk, "a.tiff")
    np.testing.assert_array_equal(decode_image(path), scene())
    cmyk.info["icc_profile"] = b"not a profile"
    np.testing.assert_array_equal(to_rgb(cmyk), scene())
    cmyk.info["icc_profile"] = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    np.testing.assert_array_equal(to_rgb(cmyk), scene())


def test_rgb_profile_leaves_the_pixels_alone(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    path = saved(tmp_path, Image.fromarray(scene()), "a.png", icc_profile=profile)
    np.testing.assert_array_equal(decode_image(path), scene())


@pytest.mark.parametrize("mode", ["YCbCr", "HSV"])
def test_other_colour_spaces(mode: str) -> None:
    assert np.abs(to_rgb(Image.fromarray(scene()).convert(mode)).astype(int) - scene()).mean() < 4


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tiff", "a.webp"])
def test_pictures_are_upright(tmp_path: Path, orientation: int, name: str) -> None:
    path = saved(tmp_path, Image.fromarray(scene()), name, exif=exif_with(orientation))
    with Image.open(path) as stored:
        expected = np.asarray(ImageOps.exif_transpose(stored).convert("RGB"))
    decoded = decode_image(path)
    assert decoded.flags.c_contiguous
    np.testing.assert_array_equal(decoded, expected)
    assert picture_size(path) == decoded.shape[:2] == ((37, 53) if orientation < 5 else (53, 37))
    with Image.open(path) as opened:
        np.testing.assert_array_equal(to_rgb(opened), decoded)


def test_damaged_exif_does_not_cost_the_picture(tmp_path: Path) -> None:
    text = b"II*\x00\x08\x00\x00\x00\x01\x00\x12\x01\x02\x00\x04\x00\x00\x00six\x00\x00\x00\x00\x00"  # as orientation
    for content in (b"II*\x00\xff\xff\xff\xff", b"neither II nor MM", text):
        path = saved(tmp_path, Image.fromarray(scene()), "a.png", exif=b"Exif\x00\x00" + content)
        np.testing.assert_array_equal(decode_image(path), scene())
    path = saved(tmp_path, Image.fromarray(scene()), "b.png", exif=exif_with(77))
    np.testing.assert_array_equal(decode_image(path), scene())


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.tiff", "a.png"])
def test_first_frame_of_many(tmp_path: Path, name: str) -> None:
    first, second = (Image.new("RGB", (9, 7), colour) for colour in ((250, 0, 0), (0, 0, 250)))
    options = {"lossless": True} if name.endswith("webp") else {}
    path = saved(tmp_path, first, name, save_all=True, append_images=[second], **options)
    np.testing.assert_array_equal(decode_image(path), np.asarray(first))


def test_arrays_become_rgb_without_needless_copies() -> None:
    pixels = scene()
    assert to_rgb(pixels) is pixels
    np.testing.assert_array_equal(to_rgb(pixels[::-1, ::2]), pixels[::-1, ::2])
    assert to_rgb(pixels[::-1, ::2]).flags.c_contiguous
    grey = pixels[..., 0]
    np.testing.assert_array_equal(to_rgb(grey), np.repeat(grey[..., None], 3, axis=2))
    np.testing.assert_array_equal(to_rgb(grey[..., None]), to_rgb(grey))


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((4, 4, 3), np.float32), "float32"),
        (np.zeros((4, 4, 3), np.uint16), "uint16"),
        (np.zeros((4, 4, 2), np.uint8), r"\(4, 4, 2\)"),
        (np.zeros((1, 4, 4, 3), np.uint8), r"\(1, 4, 4, 3\)"),
        (np.zeros(4, np.uint8), r"\(4,\)"),
        (np.zeros((0, 4, 3), np.uint8), "no pixels"),
        ([[1, 2], [3, 4]], "list"),
        (np.zeros((4, 4, 3)), r"\(array \* 255\)\.round\(\)\.astype\(np\.uint8\)"),
        (np.zeros((3, 4, 5), np.uint8), r"channels come last: array\.transpose\(1, 2, 0\)$"),
        (np.zeros((3, 4, 5), np.float32), r"transpose\(1, 2, 0\); values of 0\.\.1"),
        (np.zeros((2, 4, 4, 3), np.uint8), r"several pictures: list\(array\)$"),
        (iter([]), "use stream, or a list, for several pictures"),
        (range(3), "got range: use stream"),
        (None, "got NoneType$"),
    ],
)
def test_arrays_that_are_no_picture(array: object, words: str) -> None:
    with pytest.raises(DecodeError, match=words):
        to_rgb(array)  # type: ignore[arg-type]


def test_tensors_say_how_to_make_arrays_of_them() -> None:
    class Tensor:
        def numpy(self) -> None: ...

        def __array__(self) -> None: ...

    class Other:
        def __array__(self) -> None: ...

    with pytest.raises(DecodeError, match=r"got Tensor: \.numpy\(\)"):
        to_rgb(Tensor())  # type: ignore[arg-type]
    with pytest.raises(DecodeError, match=r"got Other: np\.asarray"):
        to_rgb(Other())  # type: ignore[arg-type]


def jpeg_bytes() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(drawn_scene(120, 160, seed=1)).save(buffer, "JPEG")
    return buffer.getvalue()


def png_bytes() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(drawn_scene(120, 160, seed=1)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"", "the file is empty"),
        (b"plain words, no picture\n" * 20, "not a picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
        (jpeg_bytes()[:-500], "truncated"),
        (jpeg_bytes()[:200], ""),
        (png_bytes()[:-700], "truncated"),
        (png_bytes()[:20], ""),
        (png_bytes()[:300] + bytes(200) + png_bytes()[500:], ""),
        (b"\xff\xd8\xff\xe0" + b"garbage" * 50, ""),
        (b"II*\x00\xff\xff\xff\xff", ""),
        (b"RIFF\x00\x00\x00\x00WEBPVP8 " + bytes(30), ""),
        (b"BM" + bytes(100), ""),
        (b"GIF89a\x00\x00\x00\x00", ""),
    ],
)
def test_bad_files_give_one_line(tmp_path: Path, content: bytes, cause: str, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bad.jpg"
    path.write_bytes(content)
    with pytest.raises(DecodeError) as caught:
        decode_image(path)
    assert cause in caught.value.cause
    assert str(caught.value) == f"{path}: {caught.value.cause}"
    assert "\n" not in str(caught.value)
    assert caught.value.path == path
    assert picture_size(path) is None or picture_size(path) == (120, 160)
    output = capfd.readouterr()
    assert (output.out, output.err) == ("", "")


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff", "gif", "bmp", "ppm"])
def test_random_damage_never_escapes(tmp_path: Path, suffix: str, capfd: pytest.CaptureFixture[str]) -> None:
    random = np.random.default_rng(5)
    original = saved(tmp_path, Image.fromarray(scene()), f"whole.{suffix}").read_bytes()
    path = tmp_path / f"hurt.{suffix}"
    for _ in range(60):
        content = np.frombuffer(original, np.uint8).copy()
        # Mostly the header, where a wrong byte does most.
        places = np.minimum(random.exponential(60, 4).astype(int), len(content) - 1)
        content[places] = random.integers(0, 256, 4)
        path.write_bytes(content[: random.integers(1, len(content) + 1)].tobytes())
        picture_size(path, max_pixels=10**6)
        try:
            decoded = decode_image(path, max_pixels=10**6)
        except DecodeError as error:
            assert "\n" not in str(error)  # noqa: PT017 - some damage decodes
        else:
            assert decoded.ndim == 3
    assert capfd.readouterr().err == ""


def test_paths_that_are_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DecodeError, match=r"missing\.jpg: no such file"):
        decode_image(tmp_path / "missing.jpg")
    with pytest.raises(DecodeError, match="is a folder"):
        decode_image(tmp_path)
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(DecodeError, match="not a regular file"):
        decode_image(tmp_path / "pipe.jpg")
    with pytest.raises(DecodeError, match="null"):
        decode_image("a\0b.jpg")
    path = saved(tmp_path, Image.fromarray(scene()), "locked.png")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(DecodeError, match="Permission denied"):
        decode_image(path)


def test_errors_are_ours_and_can_cross_processes() -> None:
    error = DecodeError("the file is empty", "a.jpg")
    assert isinstance(error, AlgmError)
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.cause, copy.path) == ("a.jpg: the file is empty", "the file is empty", "a.jpg")
    assert "\\udc" not in str(DecodeError("x", os.fsdecode(b"caf\xe9\n.jpg")))
    str(DecodeError("x", os.fsdecode(b"caf\xe9\n.jpg"))).encode("utf-8")


@pytest.mark.parametrize("size", [(65536, 65536), (10**9, 1), (20000, 14000)])
def test_bombs_are_refused_by_their_header(tmp_path: Path, size: tuple[int, int]) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png_header(*size))
    decode_image(saved(tmp_path, Image.new("L", (1, 1)), "warm.png"))  # imports Pillow's plugins
    tracemalloc.start()
    try:
        with pytest.raises(DecodeError, match=r"too large: .* the limit is 100,000,000 .*--max-pixels") as caught:
            decode_image(path)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
    assert f"{size[0]} x {size[1]} = {size[0] * size[1]:,}" in caught.value.cause
    assert picture_size(path) is None
    assert DEFAULT_MAX_PIXELS == 100_000_000


def tiled_tiff(side: int) -> bytes:
    """A grey TIFF of 16 x 16 pixels that show a corner of one tile, which is all zero."""
    pixels = zlib.compress(bytes(side * side), 9)
    tags = [(256, 16), (257, 16), (258, 8), (259, 8), (262, 1), (277, 1), (322, side), (323, side), (324, 0), (325, 0)]
    values = dict(tags) | {324: 8 + 2 + 12 * len(tags) + 4, 325: len(pixels)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in values.items())
    return struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + bytes(4) + pixels


def test_a_tile_of_which_little_shows_counts_whole() -> None:
    assert decode_image(tiled_tiff(64), max_pixels=64 * 64).shape == (16, 16, 3)
    with pytest.raises(DecodeError, match="too large: 64 x 64 = 4,096 pixels, the limit is 4,095"):
        decode_image(tiled_tiff(64), max_pixels=64 * 64 - 1)
    assert picture_size(tiled_tiff(64), max_pixels=64 * 64 - 1) is None
    width, text = struct.pack("<HHII", 322, 4, 1, 64), struct.pack("<HHI4s", 322, 2, 2, b"A")
    with pytest.raises(DecodeError, match="tiles of A x 64"):
        decode_image(tiled_tiff(64).replace(width, text))


def test_limit_is_inclusive_and_of_this_call(tmp_path: Path) -> None:
    path = saved(tmp_path, Image.fromarray(scene()), "a.png")
    assert decode_image(path, max_pixels=37 * 53).shape == (37, 53, 3)
    with pytest.raises(DecodeError, match="1,961 pixels, the limit is 1,960"):
        decode_image(path, max_pixels=37 * 53 - 1)


def test_limit_above_that_of_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    monkeypatch.setattr(decode_module, "_STRIP_BYTES", 300)  # up to 12.1 Pillow looks at strips cut from a picture too
    pixels = scene()
    for name in ("a.png", "a.bmp", "a.gif", "a.jpg"):
        path = saved(tmp_path, Image.fromarray(pixels), name)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert decode_image(path).shape == pixels.shape
    for name in ("a.webp", "a.tiff"):
        path = saved(tmp_path, Image.fromarray(pixels), name)
        try:
            assert decode_image(path).shape == pixels.shape
        except DecodeError as error:
            assert "Pillow's own limit" in error.cause  # noqa: PT017 - depends on the version of Pillow
    assert Image.MAX_IMAGE_PIXELS == 100


def test_no_warning_reaches_the_screen(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    buffer = io.BytesIO()
    Image.fromarray(scene()).save(buffer, "TIFF")
    content = bytearray(buffer.getvalue())
    directory = struct.unpack("<I", content[4:8])[0]
    entry = directory + 2 + 12 * (struct.unpack("<H", content[directory : directory + 2])[0] - 1)
    content[entry + 4 : entry + 12] = struct.pack("<II", 2**28, 2**31)  # a tag that is larger than the file
    path = tmp_path / "odd.tiff"
    path.write_bytes(content)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        picture_size(path)
        try:
            decode_image(path)
        except DecodeError as error:
            assert "\n" not in str(error)  # noqa: PT017 - either way is fine, silence is what counts
    assert seen == []
    assert capfd.readouterr().err == ""


def test_nor_does_that_of_a_size_for_which_there_is_a_limit_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 37 * 53 - 1)
    buffer = io.BytesIO()
    Image.fromarray(scene()).save(buffer, "GIF")
    content = bytearray(buffer.getvalue())
    content[6:10] = struct.pack("<HH", 1, 1)  # the frame is larger than the screen
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        assert decode_image(bytes(content)).shape == (37, 53, 3)
    assert seen == []


def test_nor_does_that_of_a_picture_in_memory() -> None:
    exif = Image.Exif()
    exif[0x010E] = "a description that does not fit into the tag itself"
    content = bytearray(exif.tobytes())
    length = content.index(b"MM\0*") + 8 + 2 + 4  # behind the head of the TIFF, a count, tag and type
    content[length : length + 4] = struct.pack(">I", 2**24)  # more than there is
    buffer = io.BytesIO()
    Image.fromarray(scene()).save(buffer, "PNG", exif=bytes(content))
    with Image.open(buffer) as picture, warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        assert to_rgb(picture).shape == (37, 53, 3)
    assert seen == []


def test_the_filter_is_added_once(tmp_path: Path) -> None:
    path = saved(tmp_path, Image.fromarray(scene()), "a.png")
    decode_image(path)
    warnings.simplefilter("default", DeprecationWarning)  # in front: a filter that is added again would move there
    before = list(warnings.filters)
    decode_image(path)
    assert list(warnings.filters) == before


def test_many_threads_decode_at_once(tmp_path: Path) -> None:
    paths = [saved(tmp_path, Image.fromarray(drawn_scene(41, 61, seed)), f"{seed}.png") for seed in range(8)]
    wrong: list[int] = []

    def work() -> None:
        for seed, path in enumerate(paths):
            if not np.array_equal(decode_image(path), drawn_scene(41, 61, seed)):
                wrong.append(seed)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.shared
def test_shared_pictures_do_as_their_list_says(shared: Path) -> None:
    folder = shared / "data" / "photos"
    entries = json.loads((folder / "manifest.json").read_text())["files"]
    wrong = []
    for entry in entries:
        path = folder / entry["file"]
        try:
            decoded = decode_image(path)
        except DecodeError as error:
            outcome = "error"
            fits = entry["expect"] in ("error", "error_or_partial", "refuse", "refuse_or_tile")
            fits = fits and ("too large" in error.cause) == entry["expect"].startswith("refuse")
        else:
            turned = (entry["exif_orientation"] or 1) >= 5
            size = (entry["width"], entry["height"]) if turned else (entry["height"], entry["width"])
            outcome = f"{decoded.shape}"
            fits = entry["expect"] in ("ok", "error_or_partial") and decoded.shape == (*size, 3)
            fits = fits and picture_size(path) == size
        if not fits:
            wrong.append((entry["file"], entry["expect"], outcome))
    assert not wrong
    assert len(entries) > 60


@pytest.mark.shared
def test_shared_bombs_cost_no_memory(shared: Path) -> None:
    psutil = pytest.importorskip("psutil")
    broken = shared / "data" / "photos" / "broken"
    decode_image(shared / "data" / "photos" / "formats" / "tiny_2x2.png")
    before = psutil.Process().memory_info().rss
    for name in ("bomb_65536x65536.png", "giant_20000x14000_gray.jpg"):
        with pytest.raises(DecodeError, match="too large"):
            decode_image(broken / name)
    assert psutil.Process().memory_info().rss - before < 16 * 2**20


@pytest.mark.shared
def test_shared_orientations_show_the_same_scene(shared: Path) -> None:
    formats = shared / "data" / "photos" / "formats"
    first, third, fifth, sixth = (decode_image(formats / f"waterfall_exif{n}.jpg").mean(axis=2) for n in (1, 3, 5, 6))
    assert first.shape == third.shape == fifth.shape == sixth.shape == (450, 600)
    for other in (fifth, sixth):
        assert np.abs(other - third).mean() < 3
    assert np.abs(first - third).mean() < 16  # another exposure
    assert np.corrcoef(first.ravel(), third.ravel())[0, 1] > 0.95


@pytest.mark.shared
def test_shared_cmyk_profile_is_used(shared: Path) -> None:
    path = shared / "data" / "photos" / "formats" / "park_cmyk_icc.jpg"
    with Image.open(path) as stored:
        plain = np.asarray(stored.convert("RGB")).astype(int)
    assert np.abs(decode_image(path) - plain).mean() > 5
