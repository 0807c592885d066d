"""Pictures to compare models on: drawn, or those of a folder that can be read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from algm_trt.plugins.errors import MissingDependencyError, UsageError
from algm_trt.runtime.card import ModelCard
from algm_trt.runtime.check_pictures import DRAWN_PICTURES, MOST_PICTURES, check_pictures

CARD = ModelCard(("a",), ((0, 0, 0),), size=(64, 48), patch_size=16, stride=32, mean=(0.0,) * 3, std=(1.0,) * 3)


def test_drawn_pictures_have_the_size_of_the_model_and_differ() -> None:
    pictures = check_pictures(None, CARD)
    assert [pixels.shape for _, pixels in pictures] == [(64, 48, 3)] * DRAWN_PICTURES
    assert len({pixels.tobytes() for _, pixels in pictures}) == DRAWN_PICTURES


@pytest.mark.parametrize("size", [(1, 1), (15, 64), (64, 8), (16, 16)])
def test_drawn_pictures_for_the_smallest_models(size: tuple[int, int]) -> None:
    pictures = check_pictures(None, replace(CARD, size=size))
    assert [pixels.shape for _, pixels in pictures] == [(*size, 3)] * DRAWN_PICTURES


def test_pictures_of_a_folder_are_resized_and_broken_ones_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    cv2.imwrite(str(tmp_path / "b.png"), np.full((31, 57, 3), 77, np.uint8))
    ((name, pixels),) = check_pictures(tmp_path, CARD)
    assert name == "b"
    assert pixels.shape == (64, 48, 3)


def test_a_large_folder_is_not_read_to_its_end(tmp_path: Path) -> None:
    for index in range(MOST_PICTURES + 3):
        cv2.imwrite(str(tmp_path / f"{index:02}.png"), np.full((16, 16, 3), index, np.uint8))
    assert [name for name, _ in check_pictures(tmp_path, CARD)] == [f"{index:02}" for index in range(MOST_PICTURES)]


def test_a_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(UsageError, match="no picture"):
        check_pictures(tmp_path, CARD)


def test_an_opencv_without_functions_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(cv2, "resize")
    with pytest.raises(MissingDependencyError, match="pip install --force-reinstall opencv-python-headless"):
        check_pictures(None, CARD)
