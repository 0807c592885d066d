"""Label files: every way of storing ids that is taken, and every fault that is named."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from algm_trt.plugins.errors import UsageError
from algm_trt.runtime.evaluation.label_files import (
    LabelCoding,
    LabelError,
    plain_coding,
    read_label_map,
    read_panoptic,
    read_truth,
)
from algm_trt.runtime.evaluation.metrics import IGNORED, MOST_CLASSES

IDS = np.array([[0, 1, 2], [2, 255, 1]], np.uint8)
WANTED = [[0, 1, 2], [2, IGNORED, 1]]
SIZE = (2, 3)


def saved(folder: Path, pixels: Any, name: str = "label.png", mode: str | None = None) -> Path:
    picture = Image.fromarray(np.asarray(pixels))
    if mode == "P":
        picture.putpalette([3, 7, 9] * 256)
    path = folder / name
    picture.save(path)
    return path


@pytest.mark.parametrize(
    ("pixels", "mode", "name"),
    [
        (IDS, None, "grey.png"),
        (IDS, "P", "palette.png"),
        (IDS.astype(np.uint16), None, "sixteen.png"),
        (IDS.astype(np.int32), None, "wide.tif"),
        (IDS[..., None].repeat(3, 2), None, "grey_as_rgb.png"),
        (IDS, None, "grey.bmp"),
    ],
)
def test_every_storage_gives_the_ids(tmp_path: Path, pixels: Any, mode: str | None, name: str) -> None:
    truth = read_truth(saved(tmp_path, pixels, name, mode), plain_coding(3), SIZE)
    assert truth.dtype == np.uint16
    assert truth.tolist() == WANTED


def test_ids_above_eight_bits(tmp_path: Path) -> None:
    ids = np.array([[299, 0, 65535]], np.uint16)
    assert read_truth(saved(tmp_path, ids), plain_coding(300, ignored=65535), (1, 3)).tolist() == [[299, 0, IGNORED]]


def test_stored_values_become_class_ids(tmp_path: Path) -> None:
    path = saved(tmp_path, np.array([[0, 1, 150, 255]], np.uint8))
    assert read_truth(path, plain_coding(150, first=1), (1, 4)).tolist() == [[IGNORED, 0, 149, IGNORED]]
    table = tmp_path / "map.json"
    table.write_text(json.dumps({"0": 1, "1": None, "150": 0}))
    assert read_truth(path, read_label_map(table, 2, 255), (1, 4)).tolist() == [[1, IGNORED, 0, IGNORED]]


def test_an_ignored_value_wins_over_a_class(tmp_path: Path) -> None:
    path = saved(tmp_path, np.array([[0, 1, 2]], np.uint8))
    assert read_truth(path, plain_coding(3, ignored=0), (1, 3)).tolist() == [[IGNORED, 1, 2]]


@pytest.mark.parametrize("value", [3, 254])
def test_id_out_of_range_is_named_and_counted(tmp_path: Path, value: int) -> None:
    pixels = IDS.copy()
    pixels[0, :2] = value
    with pytest.raises(LabelError, match=f"value {value} in 2 pixels of no class and not ignored; --ignore {value} "):
        read_truth(saved(tmp_path, pixels), plain_coding(3), SIZE)


def test_negative_and_huge_values_are_out_of_range(tmp_path: Path) -> None:
    pixels = np.array([[-1, 70000, 0]], np.int32)
    with pytest.raises(LabelError, match=r"values -1, 70000 in 2 pixels"):
        read_truth(saved(tmp_path, pixels, "label.tif"), plain_coding(3), (1, 3))
    with pytest.raises(LabelError, match="value 65536 in 1 pixels"):  # and not taken for the ignored value below it
        read_truth(
            saved(tmp_path, np.array([[65535, 65536]], np.int32), "label.tif"), plain_coding(3, ignored=65535), (1, 2)
        )


def test_many_values_are_shortened(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match=r"values 3, 4, 5, 6, 7 in 5 pixels"):
        read_truth(saved(tmp_path, np.arange(8, dtype=np.uint8)[None]), plain_coding(3), (1, 8))
    with pytest.raises(LabelError, match=r"values 3, 4, 5, 6, 7, \.\.\. in 17 pixels.*; --label-map "):
        read_truth(saved(tmp_path, np.arange(20, dtype=np.uint8)[None]), plain_coding(3), (1, 20))


def test_file_that_cannot_serve(tmp_path: Path) -> None:
    coding = plain_coding(3)
    with pytest.raises(LabelError, match="there is no such label file; --label-suffix"):
        read_truth(tmp_path / "missing.png", coding, SIZE)
    with pytest.raises(LabelError, match="File name too long"):
        read_truth(tmp_path / f"{'a' * 300}.png", coding, SIZE)
    with pytest.raises(LabelError, match="3x2 pixels, but the picture has 2x3"):
        read_truth(saved(tmp_path, IDS), coding, (3, 2))
    with pytest.raises(LabelError, match="colours, not class ids"):
        read_truth(saved(tmp_path, np.arange(18, dtype=np.uint8).reshape(2, 3, 3)), coding, SIZE)
    with pytest.raises(LabelError, match="mode RGBA"):
        read_truth(saved(tmp_path, np.zeros((2, 3, 4), np.uint8)), coding, SIZE)
    with pytest.raises(LabelError, match="JPEG"):
        read_truth(saved(tmp_path, IDS, "label.jpg"), coding, SIZE)
    broken = tmp_path / "broken.png"
    broken.write_bytes(saved(tmp_path, IDS).read_bytes()[:50])
    with pytest.raises(LabelError, match="cannot be read"):
        read_truth(broken, coding, SIZE)
    broken.write_bytes(with_chunk(saved(tmp_path, IDS).read_bytes(), b"iCCP", b"x"))  # Pillow: IndexError
    with pytest.raises(LabelError, match="cannot be read"):
        read_truth(broken, coding, SIZE)
    broken.write_bytes(rgb_of_16_bits())
    with pytest.raises(LabelError, match="colours of 16 bits"):
        read_truth(broken, plain_coding(300), (1, 1))
    broken.write_bytes(b"")
    with pytest.raises(LabelError, match="cannot be read"):
        read_truth(broken, coding, SIZE)


def with_chunk(png: bytes, kind: bytes, content: bytes) -> bytes:
    """A PNG with one more chunk in front of its end."""
    chunk = struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    return png[:-12] + chunk + png[-12:]


def rgb_of_16_bits() -> bytes:
    """A PNG of one pixel whose three channels are 258, of which Pillow would keep 1."""
    head = with_chunk(b"\x89PNG\r\n\x1a\n" + bytes(12), b"IHDR", struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0))
    body = with_chunk(head, b"IDAT", zlib.compress(bytes([0, *[1, 2] * 3])))
    return with_chunk(body, b"IEND", b"")[:-12]


@pytest.mark.parametrize("classes", [1, MOST_CLASSES])
def test_fewest_and_most_classes(classes: int) -> None:
    assert LabelCoding(classes, {0: classes - 1}).table[0] == classes - 1


def test_coding_that_makes_no_sense(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="class id 2 is outside"):
        LabelCoding(2, {0: 2})
    with pytest.raises(UsageError, match="must lie in"):
        LabelCoding(2, {70000: 1})
    for classes in (0, MOST_CLASSES + 1):
        with pytest.raises(UsageError, match=f"{classes} classes"):
            LabelCoding(classes, {})
    for text in ("[1]", "{", '{"a": 1}', '{"1": "x"}', '{"1": 1.7}', '{"1": true}', '{"1": Infinity}', "[" * 100_000):
        table = tmp_path / "map.json"
        table.write_text(text)
        with pytest.raises(UsageError, match="not a label map"):
            read_label_map(table, 2, 255)


def test_panoptic_colours_become_class_ids(tmp_path: Path) -> None:
    segments = np.array([[0, 5], [70000, 5]])
    colours = np.stack([segments % 256, segments // 256 % 256, segments // 65536], axis=2).astype(np.uint8)
    path = saved(tmp_path, colours)
    assert read_panoptic(path, {5: 1, 70000: 0}, (2, 2)).tolist() == [[IGNORED, 1], [0, 1]]
    with pytest.raises(LabelError, match="segment 70000 is not in the annotations"):
        read_panoptic(path, {5: 1}, (2, 2))
    with pytest.raises(LabelError, match="RGB"):
        read_panoptic(saved(tmp_path, IDS, "grey.png"), {}, SIZE)
