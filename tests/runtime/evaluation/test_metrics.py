"""Scores against counting by hand, and against scikit-learn where it is installed."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from algm_trt.plugins.errors import UsageError
from algm_trt.runtime.evaluation.boundary import BoundaryScores, boundary_counts
from algm_trt.runtime.evaluation.metrics import IGNORED, MOST_CLASSES, Scores, areas_of, confusion, mean_iou_of

Ids = NDArray[np.integer]


def random_maps(classes: int, size: tuple[int, int], ignored: float, seed: int) -> tuple[NDArray[np.uint16], Ids]:
    """Ground truth with a share of ignored pixels, and a prediction that is right on about half of them."""
    random = np.random.default_rng(seed)
    truth = random.integers(0, classes, size).astype(np.uint16)
    predicted = np.where(random.random(size) < 0.5, truth, random.integers(0, classes, size)).astype(np.uint16)
    truth[random.random(size) < ignored] = IGNORED
    return truth, predicted


def by_hand(pairs: list[tuple[Ids, Ids]], classes: int) -> dict[str, float | list[float]]:
    """The definitions, class by class on the pixels themselves."""
    truth = np.concatenate([truth.ravel() for truth, _ in pairs])
    predicted = np.concatenate([predicted.ravel() for _, predicted in pairs])
    keep = truth != IGNORED
    truth, predicted = truth[keep], predicted[keep]
    iou, accuracy = [], []
    for number in range(classes):
        hits = np.sum((truth == number) & (predicted == number))
        union = np.sum((truth == number) | (predicted == number))
        true = np.sum(truth == number)
        iou.append(hits / union if union else np.nan)
        accuracy.append(hits / true if true else np.nan)
    return {
        "iou": iou,
        "accuracy": accuracy,
        "mean_iou": float(np.nanmean(iou)),
        "mean_accuracy": float(np.nanmean(accuracy)),
        "pixel_accuracy": float(np.mean(truth == predicted)),
    }


def test_areas_give_the_mean_iou_of_the_matrix() -> None:
    rng = np.random.default_rng(3)
    counts = rng.integers(0, 50, (4, 6, 6))
    counts[1, 2] = counts[1, :, 2] = 0
    counts[3] = 0
    areas = np.stack([areas_of(matrix) for matrix in counts])
    assert areas.shape == (4, 6, 3)
    expected = [Scores(matrix).mean_iou for matrix in counts]
    assert np.isnan(expected[3])
    assert mean_iou_of(areas) == pytest.approx(expected, abs=1e-15, nan_ok=True)
    assert mean_iou_of(areas.sum(axis=0)) == pytest.approx(Scores(counts.sum(axis=0)).mean_iou, abs=1e-15)


@pytest.mark.parametrize(
    ("classes", "size"), [(1, (1, 1)), (2, (1, 7)), (11, (61, 53)), (150, (97, 31)), (300, (19, 5))]
)
def test_scores_equal_counting_by_hand(classes: int, size: tuple[int, int]) -> None:
    pairs = [random_maps(classes, size, 0.2 if size != (1, 1) else 0, seed) for seed in range(4)]
    counts = sum(
        (confusion(truth, predicted, classes) for truth, predicted in pairs), np.zeros((classes, classes), int)
    )
    scores, expected = Scores(counts), by_hand(pairs, classes)
    np.testing.assert_allclose(scores.iou, expected["iou"], atol=1e-12)
    np.testing.assert_allclose(scores.accuracy, expected["accuracy"], atol=1e-12)
    for name in ("mean_iou", "mean_accuracy", "pixel_accuracy"):
        assert getattr(scores, name) == pytest.approx(expected[name], abs=1e-12)


def test_scores_equal_scikit_learn() -> None:
    metrics = pytest.importorskip(
        "sklearn.metrics", reason="scikit-learn is not installed; the count by hand covers it"
    )
    truth, predicted = random_maps(19, (211, 97), 0.1, 5)
    known = truth != IGNORED
    scores = Scores(confusion(truth, predicted, 19))
    assert np.array_equal(scores.counts, metrics.confusion_matrix(truth[known], predicted[known], labels=range(19)))
    expected = metrics.jaccard_score(truth[known], predicted[known], labels=range(19), average=None)
    np.testing.assert_allclose(scores.iou, expected, atol=1e-12)
    assert scores.mean_accuracy == pytest.approx(metrics.balanced_accuracy_score(truth[known], predicted[known]))
    assert scores.pixel_accuracy == pytest.approx(metrics.accuracy_score(truth[known], predicted[known]))


def test_class_that_occurs_nowhere_is_left_out() -> None:
    truth = np.array([[0, 0, 1, IGNORED]], np.uint16)
    predicted = np.array([[0, 1, 1, 3]], np.uint8)
    scores = Scores(confusion(truth, predicted, 4))
    assert scores.iou[:2].tolist() == [0.5, 0.5]
    assert np.isnan(scores.iou[2:]).all()  # class 3 is predicted where nothing counts
    assert scores.mean_iou == 0.5
    assert scores.pixels == 3


def test_class_that_is_only_predicted_counts_as_zero() -> None:
    scores = Scores(confusion(np.zeros((1, 2), np.uint16), np.array([[0, 1]]), 3))
    assert scores.iou[:2].tolist() == [0.5, 0.0]
    assert scores.mean_iou == 0.25
    assert scores.mean_accuracy == 0.5


def test_nothing_to_score_is_not_a_number() -> None:
    scores = Scores(confusion(np.full((2, 2), IGNORED, np.uint16), np.zeros((2, 2), np.uint8), 3))
    assert scores.pixels == 0
    with np.errstate(all="raise"):  # not a number, and no warning beside it
        assert np.isnan([scores.mean_iou, scores.mean_accuracy, scores.pixel_accuracy]).all()


def test_what_cannot_be_scored_is_refused() -> None:
    truth = np.zeros((2, 2), np.uint16)
    with pytest.raises(UsageError, match="pixels and prediction"):
        confusion(truth, np.zeros((2, 3), np.uint8), 2)
    with pytest.raises(UsageError, match=r"prediction holds class ids outside 0\.\.1"):
        confusion(truth, np.full((2, 2), 2), 2)
    with pytest.raises(UsageError, match="ground truth holds class ids"):
        confusion(truth + 2, np.zeros((2, 2), np.uint8), 2)
    with pytest.raises(UsageError, match="classes"):
        confusion(truth, truth, MOST_CLASSES + 1)
    with pytest.raises(UsageError, match="square"):
        Scores(np.zeros((2, 3), np.int64))


# Boundaries.


def slow_boundary_counts(truth: Ids, predicted: Ids, classes: int) -> NDArray[np.int64]:
    """The definition, pixel by pixel."""
    height, width = truth.shape
    tolerance = max(1.0, 0.0075 * np.hypot(height, width))
    predicted = np.where(truth == IGNORED, IGNORED, predicted.astype(int))
    counts = np.zeros((classes, 4), np.int64)

    def boundary(labels: Ids, number: int) -> list[tuple[int, int]]:
        found = []
        for y, x in np.argwhere(labels == number):
            around = [(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)]
            inside = [labels[p] for p in around if 0 <= p[0] < height and 0 <= p[1] < width]
            if any(other not in (number, IGNORED) for other in inside):
                found.append((y, x))
        return found

    for number in range(classes):
        maps = [np.array(boundary(labels, number)).reshape(-1, 2) for labels in (predicted, truth)]
        for place, (mine, others) in enumerate([maps, maps[::-1]]):
            distance = np.sqrt(((mine[:, None] - others[None]) ** 2).sum(-1))
            counts[number, 2 * place] = (distance <= tolerance + 1e-9).any(axis=1).sum() if len(others) else 0
            counts[number, 2 * place + 1] = len(mine)
    return counts


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (13, 11), (60, 450)])
def test_boundary_counts_equal_the_definition(size: tuple[int, int]) -> None:
    random = np.random.default_rng(3)
    blocks = random.integers(0, 4, (size[0] // 5 + 1, size[1] // 5 + 1)).astype(np.uint16)
    truth = blocks.repeat(5, 0).repeat(5, 1)[: size[0], : size[1]].copy()
    predicted = np.roll(truth, 2, axis=1).astype(np.uint8)
    predicted[random.random(size) < 0.05] = 2
    predicted[random.random(size) < 0.05] = 4  # a class that is nowhere
    truth[random.random(size) < 0.1] = IGNORED
    assert np.array_equal(boundary_counts(truth, predicted, 5), slow_boundary_counts(truth, predicted, 5))


def test_boundary_score_of_a_perfect_map_and_of_one_without_borders() -> None:
    truth = np.zeros((20, 30), np.uint16)
    truth[5:10, 5:20] = 2
    perfect = BoundaryScores(boundary_counts(truth, truth.astype(np.uint8), 4))
    assert perfect.f_score[[0, 2]].tolist() == [1.0, 1.0]
    assert np.isnan(perfect.f_score[[1, 3]]).all()
    assert perfect.mean_f_score == 1.0
    with np.errstate(all="raise"):  # no warning either
        assert BoundaryScores(boundary_counts(truth, np.zeros((20, 30), np.uint8), 4)).mean_f_score == 0.0
    even = np.zeros((20, 30), np.uint16)
    assert np.isnan(BoundaryScores(boundary_counts(even, even, 4)).mean_f_score)


def test_boundary_score_is_the_harmonic_mean_of_two_shares() -> None:
    # Matched of predicted, found of true: one pixel, a third and a half, one side only, nothing.
    counts = np.array([[1, 1, 1, 1], [1, 3, 2, 4], [0, 1, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]])
    assert BoundaryScores(counts).f_score.tolist()[:4] == [1.0, pytest.approx(0.4), 0.0, 0.0]
    assert np.isnan(BoundaryScores(counts).f_score[4])
    assert BoundaryScores(counts).mean_f_score == pytest.approx(0.35)


def test_border_to_ignored_pixels_is_no_boundary() -> None:
    truth = np.zeros((9, 9), np.uint16)
    truth[:, 4:] = IGNORED
    predicted = np.zeros((9, 9), np.uint8)
    predicted[:, 5:] = 1
    assert not boundary_counts(truth, predicted, 2).any()
