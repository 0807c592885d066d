"""The types of the Python interface, as a type checker of its users sees them. Needs mypy."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

PROGRAM = """
from pathlib import Path
from typing import assert_type

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from algm_trt.runtime import SegmentationResult, load

Pixels = NDArray[np.uint8]


def use(array: Pixels, image: Image.Image, paths: list[Path], names: tuple[str, ...], arrays: list[Pixels]) -> None:
    segmenter = load("model.onnx")
    for one in (segmenter(array), segmenter(image), segmenter("a.png"), segmenter(paths[0])):
        assert_type(one, SegmentationResult)
    assert_type(segmenter([array, image, "a.png", Path("b.png")]), list[SegmentationResult])
    assert_type(segmenter(["a.png", Path("b.png")]), list[SegmentationResult])
    assert_type(segmenter((array, "a.png")), list[SegmentationResult])
    assert_type(segmenter(paths), list[SegmentationResult])
    assert_type(segmenter(names), list[SegmentationResult])
    assert_type(segmenter(arrays), list[SegmentationResult])
    with Path("a.png").open("rb") as file:
        assert_type(segmenter(file), SegmentationResult)
        assert_type(segmenter([file, b"", bytearray(), array, memoryview(b"")]), list[SegmentationResult])
    for result in segmenter.stream([array, "a.png"]):
        assert_type(result, SegmentationResult)
"""


def test_calls_of_the_segmenter_have_types(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    (tmp_path / "algm_trt").mkdir()
    for package in ("plugins", "runtime"):  # an editable installation is one that mypy does not find
        (tmp_path / "algm_trt" / package).symlink_to(ROOT / package)
    (tmp_path / "program.py").write_text(PROGRAM)
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "program.py"],
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
