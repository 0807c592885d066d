"""Boundary F-score: how well the outlines of the classes lie, which IoU hardly sees.

A boundary pixel of a class has a neighbour (left, right, above, below) of another class. It is matched if the other
map has a boundary pixel of the same class within the tolerance, 0.75 % of the picture's diagonal (Csurka et al., "What
is a good evaluation measure for semantic segmentation?", BMVC 2013). Unlike there, matches are summed over all pictures
before precision and recall are formed: a class that is rare in a picture then weighs what it has there. The mean of the
pictures' own scores is recorded beside it. Borders to pixels without ground truth are no boundaries, and nothing inside
those pixels counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from algm_trt.runtime.evaluation.metrics import IGNORED, mean_of_known

TOLERANCE: Final = 0.0075
_SLACK = 1e-4  # distances are float32: a distance equal to the tolerance is within it


def boundary_counts(truth: NDArray[np.uint16], predicted: NDArray[Any], classes: int) -> NDArray[np.int64]:
    """Count boundary pixels of one picture and those that are matched.

    Args:
        truth: (H, W) class ids below `classes`, or IGNORED.
        predicted: (H, W) class ids below `classes`.
        classes: number of classes K.

    Returns:
        (K, 4): predicted and matched, predicted, true and matched, true.
    """
    height, width = truth.shape
    tolerance = max(1.0, TOLERANCE * float(np.hypot(height, width)))
    predicted = np.where(truth == IGNORED, np.uint16(IGNORED), predicted.astype(np.uint16))
    outlines = [_outlines(labels) for labels in (predicted, truth)]
    counts = np.zeros((classes, 4), np.int64)
    for number in np.unique(np.concatenate([labels[labels != IGNORED] for labels in outlines])):
        masks = [labels == number for labels in outlines]
        counts[number] = _match(*_cropped(*masks), tolerance)
    return counts


@dataclass(frozen=True, eq=False)
class BoundaryScores:
    """What boundary counts say.

    Attributes:
        counts: (K, 4) int64 as `boundary_counts` returns them, summed over pictures.
    """

    counts: NDArray[np.int64]

    @property
    def f_score(self) -> NDArray[np.float64]:
        """(K,) harmonic mean of precision and recall; NaN for classes without any boundary."""
        matched, predicted, found, true = (column.astype(np.float64) for column in self.counts.T)
        precision = np.divide(matched, predicted, out=np.zeros_like(matched), where=predicted > 0)
        recall = np.divide(found, true, out=np.zeros_like(found), where=true > 0)
        both = precision + recall
        score = np.divide(2 * precision * recall, both, out=np.zeros_like(both), where=both > 0)
        return np.where(predicted + true > 0, score, np.nan)

    @property
    def mean_f_score(self) -> float:
        """Mean over the classes that have a boundary in the ground truth or in the prediction."""
        return mean_of_known(self.f_score)


def _outlines(labels: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """The labels where they are boundary pixels, IGNORED elsewhere."""
    known = labels != IGNORED
    boundary = np.zeros(labels.shape, bool)
    for first, second in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
        differs = (labels[first] != labels[second]) & known[first] & known[second]
        boundary[first] |= differs
        boundary[second] |= differs
    return np.where(boundary, labels, np.uint16(IGNORED))


def _cropped(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Both masks without the rows and columns around them that are empty in both."""
    either = first | second
    rows, columns = np.flatnonzero(either.any(axis=1)), np.flatnonzero(either.any(axis=0))
    part = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return first[part], second[part]


def _match(predicted: NDArray[np.bool_], true: NDArray[np.bool_], tolerance: float) -> tuple[int, int, int, int]:
    return (
        _near(predicted, true, tolerance),
        int(predicted.sum()),
        _near(true, predicted, tolerance),
        int(true.sum()),
    )


def _near(pixels: NDArray[np.bool_], others: NDArray[np.bool_], tolerance: float) -> int:
    """Number of pixels with one of the others within the tolerance."""
    if not others.any():
        return 0
    distance = cv2.distanceTransform((~others).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return int(np.count_nonzero(distance[pixels] <= tolerance + _SLACK))
