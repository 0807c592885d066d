"""Labels and logits at the source size against the protocol carried out step by step in torch."""

from __future__ import annotations

import tracemalloc
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.fake_engine import make_card
from numpy.typing import NDArray

from algm_trt.plugins import reference
from algm_trt.plugins.errors import UsageError
from algm_trt.runtime import field
from algm_trt.runtime.field import LogitField, labels_of
from algm_trt.runtime.windows import WindowPlan, plan_slide, plan_whole

MARGIN = 1e-5  # below it float32 rounding may decide which of two classes wins

# source, window, stride (0: whole), patch size
GEOMETRIES = {
    "one pixel": ((1, 1), (64, 64), 48, 16),
    "two by two": ((2, 2), (64, 64), 48, 16),
    "smaller than the window": ((97, 61), (128, 128), 96, 16),
    "equal": ((128, 128), (128, 128), 96, 16),
    "one too small": ((127, 128), (128, 128), 96, 16),
    "one too large": ((129, 128), (128, 128), 96, 16),
    "strip": ((640, 16), (64, 64), 48, 16),
    "primes": ((331, 457), (224, 224), 192, 16),
    "padded window": ((523, 600), (500, 505), 400, 16),
    "padded window, enlarged": ((83, 120), (100, 105), 80, 16),
    "tall window": ((211, 97), (128, 96), 64, 8),
    "wide window, enlarged": ((50, 70), (64, 160), 64, 32),
    "small stride": ((100, 90), (64, 64), 8, 16),
    "patch of one pixel": ((40, 23), (16, 16), 11, 1),
    "patch larger than the window": ((50, 61), (24, 24), 16, 32),
    "odd patch": ((100, 133), (70, 70), 49, 14),
    "whole, reduced": ((61, 53), (128, 96), 0, 16),
    "whole, enlarged": ((409, 613), (128, 96), 0, 16),
}


def plan_of(name: str) -> tuple[WindowPlan, int]:
    source, window, stride, patch_size = GEOMETRIES[name]
    return plan_slide(source, window, stride) if stride else plan_whole(source, window), patch_size


def grid_of(plan: WindowPlan, patch_size: int) -> tuple[int, int]:
    return -(-plan.window[0] // patch_size), -(-plan.window[1] // patch_size)


def noise(plan: WindowPlan, patch_size: int, classes: int, seed: int = 0) -> NDArray[np.float32]:
    shape = (len(plan), classes, *grid_of(plan, patch_size))
    return 3 * np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def regions(plan: WindowPlan, patch_size: int, classes: int, seed: int = 0) -> NDArray[np.float32]:
    """Logits that favour one class in each of a few rectangles of the canvas, with a little noise."""
    rng = np.random.default_rng(seed)
    favourite = rng.integers(0, classes, (3, 3))
    logits = 0.1 * noise(plan, patch_size, classes, seed)
    steps = [np.arange(extent) * patch_size for extent in grid_of(plan, patch_size)]
    for window, (top, left) in zip(logits, plan.anchors, strict=True):
        row = np.minimum((top + steps[0]) * 3 // plan.canvas[0], 2)
        column = np.minimum((left + steps[1]) * 3 // plan.canvas[1], 2)
        chosen = favourite[row[:, None], column]
        np.put_along_axis(window, chosen[None], 8.0, axis=0)
    return logits


def protocol(plan: WindowPlan, logits: NDArray[np.float32], patch_size: int) -> torch.Tensor:
    """Logits (K, H0, W0) by the steps of the official evaluation."""
    height, width = plan.window
    padded = [extent * patch_size for extent in logits.shape[2:]]
    tall = F.interpolate(torch.from_numpy(logits), padded, mode="bilinear", align_corners=False)
    total = torch.zeros(logits.shape[1], *plan.canvas)
    count = torch.zeros(plan.canvas)
    for (top, left), window in zip(plan.anchors, tall[:, :, :height, :width], strict=True):
        total[:, top : top + height, left : left + width] += window
        count[top : top + height, left : left + width] += 1
    return F.interpolate((total / count)[None], plan.source, mode="bilinear", align_corners=False)[0]


def assert_labels(labels: NDArray[np.integer], expected: torch.Tensor) -> None:
    """Labels equal the winners of the expected logits, except for a handful of pixels that rounding decides."""
    wrong = labels != expected.argmax(dim=0).numpy()
    if not wrong.any():
        return
    best, second = expected.topk(2, dim=0).values.numpy()
    assert (best - second)[wrong].max() < MARGIN
    assert np.count_nonzero(wrong) <= max(1, 1e-4 * wrong.size)


SMALL = [name for name, (source, *_) in GEOMETRIES.items() if source[0] * source[1] < 20_000]


@pytest.mark.parametrize(
    ("geometry", "classes"),
    [(name, classes) for name in GEOMETRIES for classes in (1, 2, 19)] + [(name, 300) for name in SMALL],
)
def test_noise_agrees_with_the_protocol(geometry: str, classes: int) -> None:
    plan, patch_size = plan_of(geometry)
    logits = noise(plan, patch_size, classes)
    head = LogitField(plan, logits, patch_size)
    expected = protocol(plan, logits, patch_size)
    np.testing.assert_allclose(head.rows(0, plan.source[0]).transpose(2, 0, 1), expected.numpy(), rtol=0, atol=1e-5)
    labels = head.labels()
    assert labels.dtype == (np.uint8 if classes <= 256 else np.uint16)
    assert_labels(labels, expected)


@pytest.mark.parametrize("classes", [2, 19, 150])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_regions_agree_with_the_protocol(geometry: str, classes: int) -> None:
    plan, patch_size = plan_of(geometry)
    logits = regions(plan, patch_size, classes, seed=classes)
    assert_labels(LogitField(plan, logits, patch_size).labels(), protocol(plan, logits, patch_size))


def test_uniform_tiles_are_never_computed() -> None:
    plan = plan_slide((523, 600), (224, 224), 192)
    logits = 0.1 * noise(plan, 16, 19)
    logits[:, 7] += 9
    with mock.patch.object(field, "_winners", side_effect=AssertionError("computed")):
        labels = LogitField(plan, logits, 16).labels()
    assert np.all(labels == 7)


def test_only_classes_that_can_win_are_computed() -> None:
    plan = plan_slide((512, 512), (512, 512), 480)
    logits = regions(plan, 16, 150)
    with mock.patch.object(field, "_winners", wraps=field._winners) as winners:
        LogitField(plan, logits, 16).labels()
    compared = [call.args[0].shape for call in winners.call_args_list]
    assert compared
    assert max(shape[3] for shape in compared) <= 4
    assert sum(shape[0] for shape in compared) < 300  # of 33 x 33 tiles


@pytest.mark.parametrize("classes", [2, 3, 7, 19, 150])
@pytest.mark.parametrize("geometry", ["primes", "smaller than the window", "padded window", "whole, enlarged"])
def test_ties_go_to_the_lower_class(geometry: str, classes: int) -> None:
    """Every class has a twin with the same logits and a higher id: no twin may ever win."""
    plan, patch_size = plan_of(geometry)
    logits = noise(plan, patch_size, classes)
    labels = LogitField(plan, np.concatenate((logits, logits), axis=1), patch_size).labels()
    assert labels.max() < classes
    np.testing.assert_array_equal(labels, LogitField(plan, logits, patch_size).labels())


def test_all_equal_is_class_zero() -> None:
    plan, patch_size = plan_of("primes")
    logits = np.full((len(plan), 19, *grid_of(plan, patch_size)), -2.5, np.float32)
    assert not LogitField(plan, logits, patch_size).labels().any()


def test_quantised_logits_agree_with_the_full_evaluation() -> None:
    """Logits of few values tie at many nodes: shortcut and candidates must still give the winner of rows()."""
    plan, patch_size = plan_of("equal")
    logits = np.random.default_rng(5).integers(0, 3, (len(plan), 6, *grid_of(plan, patch_size))).astype(np.float32)
    head = LogitField(plan, logits, patch_size)
    # weights are multiples of 1/32 per axis here: float32 represents every sum exactly, so that ties are ties
    np.testing.assert_array_equal(head.labels(), head.rows(0, 128).argmax(axis=2))


def test_nan_and_infinity_do_not_crash() -> None:
    plan, patch_size = plan_of("primes")
    logits = noise(plan, patch_size, 19)
    logits[0, 3, 2:5, 2:5] = np.nan
    logits[1, 4, 6, 6] = np.inf
    labels = LogitField(plan, logits, patch_size).labels()
    assert labels.shape == plan.source
    assert labels.max() < 19


@pytest.mark.parametrize(("classes", "dtype"), [(1, np.uint8), (256, np.uint8), (257, np.int32)])
def test_labels_of_pictures_of_a_models_size(classes: int, dtype: type) -> None:
    card = make_card(size=(40, 61), patch_size=8, classes=classes)
    logits = np.random.default_rng(0).standard_normal((3, classes, *card.grid), dtype=np.float32)
    labels = labels_of(logits, card)
    assert (labels.shape, labels.dtype) == ((3, 40, 61), dtype)
    padded = reference.labels(logits.transpose(0, 2, 3, 1), (40, 64))[:, :, :61]
    assert (labels == padded).mean() > 0.999
    logits[1, classes // 2, 2, 3] = np.nan
    logits[2] = np.inf
    assert labels_of(logits, card).max() < classes


@pytest.mark.parametrize("geometry", ["primes", "one pixel", "small stride", "wide window, enlarged"])
def test_bands_are_parts_of_the_whole(geometry: str) -> None:
    plan, patch_size = plan_of(geometry)
    head = LogitField(plan, noise(plan, patch_size, 19), patch_size)
    height = plan.source[0]
    full = head.rows(0, height)
    assert full.shape == (*plan.source, 19)
    assert full.dtype == np.float32
    for start, stop in [(0, 1), (height - 1, height), (height // 3, height // 2 + 1), (height // 2, height // 2)]:
        np.testing.assert_allclose(head.rows(start, stop), full[start:stop], rtol=0, atol=1e-6)
    for start, stop in [(-1, 1), (0, height + 1), (1, 0)]:
        with pytest.raises(UsageError, match="rows"):
            head.rows(start, stop)


def test_probabilities_are_the_softmax() -> None:
    plan, patch_size = plan_of("padded window, enlarged")
    logits = 20 * noise(plan, patch_size, 19)
    probabilities = LogitField(plan, logits, patch_size).probabilities(5, 30)
    expected = protocol(plan, logits, patch_size).softmax(dim=0)[:, 5:30].permute(1, 2, 0)
    np.testing.assert_allclose(probabilities, expected.numpy(), rtol=0, atol=1e-4)
    np.testing.assert_allclose(probabilities.sum(axis=2), 1, rtol=1e-5)


def test_layout_of_the_input_does_not_matter() -> None:
    plan, patch_size = plan_of("primes")
    logits = noise(plan, patch_size, 19)
    strided = np.asfortranarray(logits)
    np.testing.assert_array_equal(
        LogitField(plan, strided, patch_size).labels(), LogitField(plan, logits, patch_size).labels()
    )


@pytest.mark.parametrize("shape", [(3, 19, 14, 14), (6, 19, 13, 14), (6, 19, 14), (6, 0, 14, 14)])
def test_foreign_logits_are_refused(shape: tuple[int, ...]) -> None:
    plan, patch_size = plan_of("primes")
    with pytest.raises(UsageError, match="expected logits"):
        LogitField(plan, np.zeros(shape, np.float32), patch_size)


@pytest.mark.heavy
def test_memory_does_not_grow_with_classes_times_pixels() -> None:
    """24 megapixels and 150 classes would be 14 GB of logits."""
    plan = plan_slide((4000, 6000), (512, 512), 480)
    assert len(plan) == 117
    logits = regions(plan, 16, 150)
    tracemalloc.start()
    head = LogitField(plan, logits, 16)
    labels = head.labels()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak - logits.nbytes - labels.nbytes < 48 * 2**20
    band = head.rows(1990, 1993)
    np.testing.assert_array_equal(labels[1990:1993], band.argmax(axis=2))


def test_memory_does_not_grow_with_the_tiles_that_need_arithmetic() -> None:
    """In noise all tiles do, and their corners alone would be 60 MB."""
    plan = plan_slide((2000, 3000), (512, 512), 480)
    logits = np.random.default_rng(3).standard_normal((len(plan), 150, 32, 32), np.float32)
    tracemalloc.start()
    labels = LogitField(plan, logits, 16).labels()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak - logits.nbytes - labels.nbytes < 32 * 2**20


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_axis_operators_are_the_whole_way_from_mosaic_to_source(geometry: str) -> None:
    """Dense operators built from the arrays alone give the field's logits."""
    plan, patch_size = plan_of(geometry)
    logits = noise(plan, patch_size, 2)
    grid = grid_of(plan, patch_size)
    mosaic = logits.reshape(len(plan.rows), len(plan.columns), 2, *grid).transpose(2, 0, 3, 1, 4)
    value = mosaic.reshape(2, len(plan.rows) * grid[0], len(plan.columns) * grid[1])
    for axis, operator in enumerate(field.axis_operators(plan, patch_size)):
        count = (len(plan.rows), len(plan.columns))[axis] * grid[axis]
        starts, supports, nodes, shares = operator.starts, operator.supports, operator.nodes, operator.shares
        assert [array.dtype for array in (starts, supports, nodes, shares)] == [np.int32] * 3 + [np.float32]
        assert all(array.flags.c_contiguous for array in (starts, supports, nodes, shares))
        assert shares.shape == (plan.source[axis], nodes.shape[1])
        assert starts[0] == 0
        assert starts[-1] == plan.source[axis]
        assert np.diff(starts).min() >= 1
        assert np.diff(starts).max() <= 32
        assert supports.min() >= 1
        assert supports.max() == nodes.shape[1]
        assert nodes.min() >= 0
        assert nodes.max() < count
        dense = np.zeros((plan.source[axis], count), np.float32)
        tile = np.repeat(np.arange(len(supports)), np.diff(starts))
        np.add.at(dense, (np.arange(plan.source[axis])[:, None], nodes[tile]), shares)
        value = np.moveaxis(np.tensordot(dense, value, axes=(1, axis + 1)), 0, axis + 1)
    np.testing.assert_allclose(value, protocol(plan, logits, patch_size).numpy(), rtol=0, atol=1e-5)


def test_axis_operators_of_one_geometry_are_the_same_objects() -> None:
    plan, patch_size = plan_of("primes")
    first, second = field.axis_operators(plan, patch_size), field.axis_operators(plan_of("primes")[0], patch_size)
    assert all(ours is theirs for ours, theirs in zip(first, second, strict=True))
    with pytest.raises(ValueError, match="read-only"):
        first[0].shares[0] = 0
