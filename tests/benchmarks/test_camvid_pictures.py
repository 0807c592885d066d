"""CamVid in memory: pictures and labels stay together, what lies outside is ignored, a seed gives the same crops."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from parts.camvid_pictures import CLASSES, IGNORED, Augmentation, Pictures, _hue_rotation, load_split


def striped() -> Pictures:
    """Pictures whose grey tells the class: 20 times its id, in blocks of 10 pixels."""
    rows, columns = torch.arange(60)[:, None] // 10, torch.arange(80)[None] // 10
    labels = ((rows + columns) % CLASSES).to(torch.uint8).repeat(3, 1, 1)
    return Pictures((labels * 20)[..., None].repeat(1, 1, 1, 3), labels)


class Undistorted(Augmentation):
    """Crops without changes of colour."""

    def _distorted(self, images: torch.Tensor) -> torch.Tensor:
        return images


def test_pictures_and_labels_are_cropped_alike() -> None:
    crops, labels = Undistorted(striped(), 48, "vit", seed=3).batch(16)
    assert crops.shape == (16, 3, 48, 48)
    assert labels.shape == (16, 48, 48)
    grey = crops[:, 0] * 127.5 + 127.5
    known = labels != IGNORED
    # Between two blocks colours are blended; in most pixels they are those of the class.
    off = (grey - 20.0 * labels).abs()[known]
    assert (off < 1).float().mean() > 0.6
    assert (off[off < 200]).mean() < 30


def test_outside_of_the_picture_is_padding_that_is_ignored() -> None:
    crops, labels = Undistorted(striped(), 48, "vit", seed=0).batch(64)
    padded = labels == IGNORED
    assert padded.any()
    assert not padded.all(dim=2).all(dim=1).any()
    # Zero after the normalisation, as upstream pads; blended at the border.
    inner = padded[:, 1:-1, 1:-1] & padded[:, 2:, 2:] & padded[:, :-2, :-2] & padded[:, 2:, :-2] & padded[:, :-2, 2:]
    assert (crops[:, 0, 1:-1, 1:-1][inner].abs() < 1e-6).float().mean() > 0.9


def test_void_is_ignored() -> None:
    pictures = striped()
    pictures.labels[:] = IGNORED
    assert (Augmentation(pictures, 32, "vit", seed=0).batch(4)[1] == IGNORED).all()


def test_the_seed_decides() -> None:
    one, same, other = (Augmentation(striped(), 32, "vit", seed=seed).batch(4)[0] for seed in (1, 1, 2))
    torch.testing.assert_close(one, same, rtol=0, atol=0)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("angle", [0.0, 0.3, math.pi])
def test_a_turned_hue_keeps_grey(angle: float) -> None:
    grey = torch.full((3,), 80.0)
    torch.testing.assert_close(_hue_rotation(torch.tensor([angle]))[0] @ grey, grey, rtol=1e-4, atol=0.05)


def test_crops_cover_scales_from_half_to_double() -> None:
    boxes = Augmentation(striped(), 30, "vit", seed=5)._boxes(500)
    # At scale 1 the short side of 60 pixels is the crop of 30: a crop shows all of it.
    shown = boxes[:, 1, 1]
    assert shown.min() == pytest.approx(0.5, abs=0.02)
    assert shown.max() == pytest.approx(2.0, abs=0.05)
    assert (boxes[:, 0, 0] < 0).float().mean() == pytest.approx(0.5, abs=0.1)


def test_a_folder_that_is_no_camvid_is_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no pictures; DATA holds"):
        load_split(tmp_path, "train")
