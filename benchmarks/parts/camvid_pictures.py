"""CamVid in memory: windows of test frames, and the official augmentation as tensor arithmetic where one trains."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from parts.windows import Windows, windows_of
from torch import Tensor

from algm_trt.exporter.config import NORMALIZATIONS
from algm_trt.runtime.card import ModelCard
from algm_trt.runtime.decode import decode_image
from algm_trt.runtime.evaluation.label_files import plain_coding, read_truth
from algm_trt.runtime.evaluation.sets import open_set, spread

CLASSES: Final = 11
VOID: Final = 11
IGNORED: Final = 255
SCALES: Final = (0.5, 2.0)
# Brightness in 0..255, contrast and saturation as factors, hue in radians: mmsegmentation's photometric distortion.
BRIGHTNESS, CONTRAST, HUE = 32.0, (0.5, 1.5), math.pi / 10
LUMA: Final = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Pictures:
    """A split: images (N, H, W, 3) uint8, labels (N, H, W) uint8 with IGNORED where nothing is to be learnt."""

    images: Tensor
    labels: Tensor

    def to(self, device: torch.device) -> Pictures:
        """The same on a device."""
        return Pictures(self.images.to(device), self.labels.to(device))


def load_split(root: Path, split: str) -> Pictures:
    """Read images/SPLIT and labels/SPLIT, paired by name."""
    files = sorted((root / "images" / split).glob("*.*")) if (root / "images" / split).is_dir() else []
    if not files:
        raise SystemExit(
            f"{root / 'images' / split}: no pictures; DATA holds images/{split}/ID.jpg, labels/{split}/ID.png"
        )
    coding = plain_coding(CLASSES, ignored=VOID)
    images = [decode_image(file) for file in files]
    if len({image.shape for image in images}) > 1:
        raise SystemExit(f"{root / 'images' / split}: the pictures must be of one size")
    height, width = images[0].shape[:2]
    labels = [read_truth(root / "labels" / split / f"{file.stem}.png", coding, (height, width)) for file in files]
    narrow = np.where(np.stack(labels) < CLASSES, np.stack(labels), IGNORED).astype(np.uint8)
    return Pictures(torch.from_numpy(np.stack(images)), torch.from_numpy(narrow))


def frames(data: Path, card: ModelCard, count: int) -> list[Windows]:
    """Windows (n, H, W, 3) of each of some frames, taken at equal distances from the test frames."""
    samples = open_set("camvid", data, card).samples
    return [windows_of(decode_image(sample.image), card) for sample in spread(samples, count)]


class Augmentation:
    """Random scale, crop, mirror and colours; the same crops for the same seed on every device."""

    def __init__(self, pictures: Pictures, crop: int, normalization: str, seed: int) -> None:
        self._pictures = pictures
        self._crop = crop
        device = pictures.images.device
        mean, std = (torch.tensor(values, device=device)[:, None, None] for values in NORMALIZATIONS[normalization])
        self._mean, self._std = mean, std
        self._generator = torch.Generator().manual_seed(seed)

    def batch(self, count: int) -> tuple[Tensor, Tensor]:
        """Normalised crops (B, 3, crop, crop) float32 and labels (B, crop, crop) int64."""
        chosen = self._there(torch.randint(len(self._pictures.images), (count,), generator=self._generator))
        images = self._pictures.images[chosen].permute(0, 3, 1, 2).float()
        # One more than the class, so that 0, what lies outside of the picture, is no class.
        classes = self._pictures.labels[chosen].float()
        classes = torch.where(classes == IGNORED, 0.0, classes + 1)[:, None]
        grid = F.affine_grid(self._there(self._boxes(count)), [count, 1, self._crop, self._crop], align_corners=False)
        images = (self._distorted(images) - self._mean) / self._std
        crops = F.grid_sample(images, grid, mode="bilinear", align_corners=False)
        labels = F.grid_sample(classes, grid, mode="nearest", align_corners=False)[:, 0].long() - 1
        return crops, torch.where(labels < 0, IGNORED, labels)

    def _boxes(self, count: int) -> Tensor:
        """Where the crops lie: (B, 2, 3) maps from -1..1 in the crop to -1..1 in the picture.

        At scale 1 the short side of a picture is the crop, as in the official pipeline. A crop lies inside the picture
        where it fits; where it does not, the picture lies at its top left and the rest is padding.
        """
        height, width = self._pictures.images.shape[1:3]
        scale = self._uniform(count, *SCALES) * self._crop / min(height, width)
        boxes = torch.zeros(count, 2, 3)
        for axis, extent in enumerate((width, height)):
            share = self._crop / (scale * extent)  # of the picture that the crop shows; more than 1 with padding
            free = (1 - share).clamp(min=0)
            boxes[:, axis, axis] = share
            boxes[:, axis, 2] = share - 1 + 2 * free * self._uniform(count, 0.0, 1.0)
        mirrored = torch.where(self._uniform(count, 0.0, 1.0) < 0.5, -1.0, 1.0)
        boxes[:, 0, 0] *= mirrored
        return boxes

    def _distorted(self, images: Tensor) -> Tensor:
        """Brightness, contrast, saturation and hue, each in half of the pictures: one affine map of colours each."""
        count = len(images)
        matrix = torch.eye(3).repeat(count, 1, 1)
        shift = self._sometimes(count, self._uniform(count, -BRIGHTNESS, BRIGHTNESS), 0.0)
        factor = self._sometimes(count, self._uniform(count, *CONTRAST), 1.0)
        grey = torch.tensor(LUMA).expand(3, 3)
        saturation = self._sometimes(count, self._uniform(count, *CONTRAST), 1.0)[:, None, None]
        angle = self._sometimes(count, self._uniform(count, -HUE, HUE), 0.0)
        matrix = matrix * saturation + grey * (1 - saturation)
        matrix = _hue_rotation(angle) @ matrix * factor[:, None, None]
        matrix, offset = self._there(matrix), self._there(shift * factor)
        turned = torch.einsum("bij,bjhw->bihw", matrix, images) + offset[:, None, None, None]
        return turned.clamp(0, 255)

    def _there(self, values: Tensor) -> Tensor:
        """On the device of the pictures. Ordinary memory of the host may be reused at once: CUDA has its own copy."""
        return values.to(self._pictures.images.device, non_blocking=True)

    def _uniform(self, count: int, low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=self._generator)

    def _sometimes(self, count: int, values: Tensor, otherwise: float) -> Tensor:
        return torch.where(torch.rand(count, generator=self._generator) < 0.5, values, otherwise)


def _hue_rotation(angle: Tensor) -> Tensor:
    """Matrices (B, 3, 3) that turn the colour plane of YIQ by some angles."""
    to_yiq = torch.tensor([LUMA, (0.596, -0.274, -0.322), (0.211, -0.523, 0.312)])
    turn = torch.eye(3).repeat(len(angle), 1, 1)
    turn[:, 1, 1] = turn[:, 2, 2] = angle.cos()
    turn[:, 1, 2], turn[:, 2, 1] = -angle.sin(), angle.sin()
    turned: Tensor = torch.linalg.inv(to_yiq) @ turn @ to_yiq
    return turned
