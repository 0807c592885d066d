"""How far a change of the mean IoU hangs on which pictures were taken: the paired bootstrap over pictures.

Pictures are drawn with replacement, as many as there are, the same ones for both runs; the mean IoU of both and its
change are computed anew each time. Pictures that are alike, such as frames of one video, make the interval too narrow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from algm_trt.plugins.errors import UsageError
from algm_trt.runtime.evaluation.metrics import mean_iou_of

RESAMPLES: Final = 1000
PERCENTILES: Final = (2.5, 97.5)
SEED: Final = 0

_AT_A_TIME = 50  # resamples
_CLASSES_AT_A_TIME = 64


@dataclass(frozen=True)
class Interval:
    """Where the change of the mean IoU lies in most of the resamples.

    Attributes:
        low: its 2.5 percentile, -1..1.
        high: its 97.5 percentile.
        pictures: that both runs scored.
    """

    low: float
    high: float
    pictures: int

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "low": self.low,
            "high": self.high,
            "percentiles": list(PERCENTILES),
            "resamples": RESAMPLES,
            "seed": SEED,
            "pictures": self.pictures,
        }


def paired_interval(first: NDArray[Any], other: NDArray[Any]) -> Interval | None:
    """Interval of the mean IoU of `other` less that of `first`; the same for the same input.

    Args:
        first: (N, K, 3) integer areas of N pictures, as `metrics.areas_of` gives them.
        other: the same of another run, for the same pictures.

    Returns:
        None with less than two pictures, or where resamples have no ground truth and no prediction at all.

    Raises:
        UsageError: shapes that differ.
    """
    if first.shape != other.shape:
        raise UsageError(f"areas of {first.shape} and {other.shape} do not pair")
    count = len(first)
    if count < 2:
        return None
    generator = np.random.default_rng(SEED)
    changes = []
    for _ in range(RESAMPLES // _AT_A_TIME):
        drawn = generator.multinomial(count, np.full(count, 1 / count), size=_AT_A_TIME).astype(np.float64)
        changes.append(mean_iou_of(_summed(drawn, other)) - mean_iou_of(_summed(drawn, first)))
    low, high = np.percentile(np.concatenate(changes), PERCENTILES)
    return None if np.isnan(low + high) else Interval(float(low), float(high), count)


def _summed(drawn: NDArray[np.float64], areas: NDArray[Any]) -> NDArray[np.float64]:
    """Areas (R, K, 3) of resamples that hold each of the N pictures so often: (R, N)."""
    parts = []
    for start in range(0, areas.shape[1], _CLASSES_AT_A_TIME):
        part = areas[:, start : start + _CLASSES_AT_A_TIME]
        parts.append((drawn @ part.reshape(len(part), -1).astype(np.float64)).reshape(len(drawn), -1, 3))
    return np.concatenate(parts, axis=1)
