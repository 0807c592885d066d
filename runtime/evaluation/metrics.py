"""Scores of semantic segmentation from a confusion matrix: memory does not depend on the number of pictures.

The definitions are those of mmsegmentation, which the official evaluation calls: pixels without ground truth count
nowhere; a class that occurs neither in the ground truth nor in the prediction has no IoU and is left out of the mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from algm_trt.plugins.errors import UsageError

IGNORED: Final = 65535
"""Value of ground truth, as `label_files` returns it, for pixels that do not count."""

MOST_CLASSES: Final = 4096  # a confusion matrix of 128 MiB


def confusion(truth: NDArray[np.uint16], predicted: NDArray[Any], classes: int) -> NDArray[np.int64]:
    """Count the pixels of a picture by their true and their predicted class.

    Args:
        truth: (H, W) class ids, or IGNORED.
        predicted: (H, W) class ids, any integer type.
        classes: number of classes K.

    Returns:
        (K, K): rows are true classes, columns predicted ones.

    Raises:
        UsageError: shapes that differ, ids outside 0..K-1, or more classes than a matrix can hold.
    """
    if not 1 <= classes <= MOST_CLASSES:
        raise UsageError(f"scores are for 1 to {MOST_CLASSES} classes, got {classes}")
    if truth.shape != predicted.shape:
        raise UsageError(f"ground truth of {truth.shape} pixels and prediction of {predicted.shape}")
    known = truth != IGNORED
    rows, columns = truth[known].astype(np.intp), predicted[known].astype(np.intp)
    for ids, what in ((rows, "ground truth"), (columns, "prediction")):
        if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < classes:
            raise UsageError(f"the {what} holds class ids outside 0..{classes - 1}")
    rows *= classes
    rows += columns
    return np.bincount(rows, minlength=classes * classes).reshape(classes, classes)


@dataclass(frozen=True, eq=False)
class Scores:
    """What a confusion matrix says.

    Attributes:
        counts: (K, K) int64 pixels; rows are true classes, columns predicted ones.
    """

    counts: NDArray[np.int64]

    def __post_init__(self) -> None:
        if self.counts.ndim != 2 or self.counts.shape[0] != self.counts.shape[1]:
            raise UsageError(f"a confusion matrix is square, got {self.counts.shape}")

    @property
    def pixels(self) -> int:
        """Pixels with ground truth."""
        return int(self.counts.sum())

    @property
    def iou(self) -> NDArray[np.float64]:
        """(K,) intersection over union; NaN where a class is neither in the ground truth nor predicted."""
        hits = np.diag(self.counts)
        return _ratio(hits, self.counts.sum(axis=0) + self.counts.sum(axis=1) - hits)

    @property
    def accuracy(self) -> NDArray[np.float64]:
        """(K,) share of a class's pixels that are predicted as it; NaN where the ground truth lacks the class."""
        return _ratio(np.diag(self.counts), self.counts.sum(axis=1))

    @property
    def mean_iou(self) -> float:
        """Mean of `iou` over the classes that have one."""
        return mean_of_known(self.iou)

    @property
    def mean_accuracy(self) -> float:
        """Mean of `accuracy` over the classes that have one."""
        return mean_of_known(self.accuracy)

    @property
    def pixel_accuracy(self) -> float:
        """Share of all pixels whose prediction is right."""
        return float(np.trace(self.counts) / self.pixels) if self.pixels else float("nan")


def areas_of(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """What the IoU needs of a confusion matrix (K, K): (K, 3) pixels that are hit, true and predicted."""
    return np.stack([np.diag(counts), counts.sum(axis=1), counts.sum(axis=0)], axis=1)


def mean_iou_of(areas: NDArray[Any]) -> NDArray[np.float64]:
    """Mean IoU over the classes that have one: (...) of areas (..., K, 3) as `areas_of` gives them; NaN without any."""
    hit, true, predicted = (areas[..., column].astype(np.float64) for column in range(3))
    union = true + predicted - hit
    occurs = union > 0
    iou = np.divide(hit, union, out=np.zeros_like(hit), where=occurs)
    count = occurs.sum(axis=-1)
    mean: NDArray[np.float64] = np.divide(iou.sum(axis=-1), count, out=np.full(count.shape, np.nan), where=count > 0)
    return mean


def mean_of_known(values: NDArray[np.float64]) -> float:
    """Mean of the values that are numbers; NaN if none is."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


def _ratio(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    ratio: NDArray[np.float64] = np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)
    return ratio
