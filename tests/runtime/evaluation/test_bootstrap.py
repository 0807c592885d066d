"""The interval of a change of the mean IoU: against resamples that are written out, and its limits."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from algm_trt.plugins.errors import UsageError
from algm_trt.runtime.evaluation.bootstrap import PERCENTILES, RESAMPLES, paired_interval
from algm_trt.runtime.evaluation.metrics import areas_of, mean_iou_of


def areas(count: int, classes: int, error: float, seed: int = 0) -> NDArray[np.int32]:
    """Of pictures of 400 pixels, some of which are predicted wrongly; the ground truth does not depend on the error."""
    truths = np.random.default_rng(9).integers(0, classes, (count, 400))
    rng = np.random.default_rng(seed)
    found = np.where(rng.random(truths.shape) < error, rng.integers(0, classes, truths.shape), truths)
    matrices = []
    for truth, predicted in zip(truths, found, strict=True):
        matrices.append(areas_of(np.bincount(truth * classes + predicted, minlength=classes**2).reshape(classes, -1)))
    return np.stack(matrices).astype(np.int32)


@pytest.mark.parametrize("classes", [3, 70])
def test_interval_is_that_of_resamples_one_by_one(classes: int) -> None:
    first, other = areas(40, classes, 0.3), areas(40, classes, 0.32, seed=1)
    rng = np.random.default_rng(123)
    changes = []
    for _ in range(4000):
        drawn = rng.integers(0, 40, 40)
        changes.append(mean_iou_of(other[drawn].sum(axis=0)) - mean_iou_of(first[drawn].sum(axis=0)))
    low, high = np.percentile(changes, PERCENTILES)
    found = paired_interval(first, other)
    assert found is not None
    assert found.pictures == 40
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.2 * (high - low))
    assert paired_interval(first, other) == found, "the seed is fixed"
    assert found.to_dict()["resamples"] == RESAMPLES == 1000


def test_equal_runs_do_not_differ_and_the_order_gives_the_sign() -> None:
    first, worse = areas(30, 5, 0.1), areas(30, 5, 0.4, seed=1)
    same = paired_interval(first, first)
    assert same is not None
    assert (same.low, same.high) == (0.0, 0.0)
    lost = paired_interval(first, worse)
    assert lost is not None
    assert lost.low < lost.high < 0


def test_where_there_is_no_interval() -> None:
    some = areas(2, 3, 0.1)
    assert paired_interval(some[:1], some[:1]) is None
    assert paired_interval(some[:0], some[:0]) is None
    some[0] = 0
    assert paired_interval(some, some) is None, "a resample may hold nothing but the picture without ground truth"
    with pytest.raises(UsageError, match="do not pair"):
        paired_interval(areas(3, 3, 0.1), areas(4, 3, 0.1))
