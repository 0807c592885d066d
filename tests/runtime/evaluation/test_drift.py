"""Labels kept on disk, and what differs between two runs."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from helpers.fake_engine import PALETTE

from algm_trt.runtime.evaluation.drift import WORST, Drift, LabelStore, side_by_side
from algm_trt.runtime.evaluation.metrics import IGNORED


@pytest.mark.parametrize(("shape", "dtype"), [((1, 1), np.uint8), ((7, 13), np.uint8), ((300, 5), np.uint16)])
def test_store_gives_back_what_it_got(tmp_path: Path, shape: tuple[int, int], dtype: type) -> None:
    store = LabelStore(tmp_path)
    labels = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape).astype(dtype)
    store.put(5, labels)
    assert np.array_equal(store.get(5), labels)
    assert store.get(6) is None


def changed(labels: np.ndarray, count: int) -> np.ndarray:
    """The labels with the first `count` pixels changed."""
    other = labels.copy()
    other.ravel()[:count] += 1
    return other


def test_drift_counts_and_remembers_the_worst_in_any_order(tmp_path: Path) -> None:
    store = LabelStore(tmp_path)
    labels = np.zeros((10, 10), np.uint8)
    counts = {index: (index * 7) % 30 for index in range(40)}
    for index in counts:
        store.put(index, labels)
    drifts = [Drift(store), Drift(store)]
    for index, count in counts.items():
        drifts[0].compare(index, changed(labels, count))
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda index: drifts[1].compare(index, changed(labels, counts[index])), reversed(counts)))
    expected = sorted(counts, key=lambda index: (-counts[index], index))[:WORST]
    for drift in drifts:
        assert drift.pictures == 40
        assert drift.shares_equal == pytest.approx({index: 1 - count / 100 for index, count in counts.items()})
        assert drift.share_equal == pytest.approx(1 - sum(counts.values()) / 4000)
        assert [index for index, _ in drift.worst()] == expected
        assert [share for _, share in drift.worst()] == pytest.approx([counts[index] / 100 for index in expected])
        before, after = drift.worst_labels(expected[0])
        assert np.array_equal(before, labels)
        assert np.array_equal(after, changed(labels, counts[expected[0]]))
        with pytest.raises(KeyError):
            drift.worst_labels(0)


def test_equal_labels_and_pictures_without_reference(tmp_path: Path) -> None:
    store = LabelStore(tmp_path)
    store.put(0, np.zeros((3, 3), np.uint8))
    drift = Drift(store)
    assert np.isnan(drift.share_equal)
    drift.compare(0, np.zeros((3, 3), np.uint8))
    drift.compare(1, np.zeros((3, 3), np.uint8))
    assert (drift.pictures, drift.share_equal, drift.worst()) == (1, 1.0, [])


def test_side_by_side_shows_every_map_and_the_difference() -> None:
    picture = np.full((12, 20, 3), 90, np.uint8)
    truth = np.zeros((12, 20), np.uint16)
    truth[0, 0] = IGNORED
    after = truth.copy()
    after[:, 10:] = 1
    sheet = np.asarray(side_by_side(picture, [("truth", truth), ("a", truth), ("b \u2713", after)], PALETTE))
    height = sheet.shape[0] - 12
    assert sheet.shape[1] == 5 * 20
    columns = sheet[height:].reshape(12, 5, 20, 3).swapaxes(0, 1)
    assert (columns[0] == 90).all()
    assert columns[1][0, 0].tolist() == [0, 0, 0]
    assert columns[2][5, 15].tolist() == list(PALETTE[0])
    assert columns[3][5, 15].tolist() == list(PALETTE[1])
    assert columns[4][5, 5].tolist() == [30, 30, 30]
    assert columns[4][5, 15].tolist() == [255, 0, 0]


def test_large_pictures_are_drawn_smaller() -> None:
    maps = [("a", np.zeros((500, 1000), np.uint8)), ("b", np.ones((500, 1000), np.uint8))]
    sheet = side_by_side(np.zeros((500, 1000, 3), np.uint8), maps, PALETTE)
    assert sheet.width == 4 * 480
    assert sheet.height == 240 + 16
