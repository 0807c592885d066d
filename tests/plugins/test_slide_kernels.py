"""The slide mode's kernels, run on a CPU by plugins/native/cpu_twin, against the NumPy reference and runtime/field.py.

As in test_cpu_twin.py, every tensor lies beside a guard page and each case runs under several schedules.
"""

from __future__ import annotations

import ctypes
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import slide_cases as cases
from helpers.kernel_cases import DTYPES
from helpers.kernels import HostMemory, KernelError, Kernels
from helpers.slide_cases import SlideCase

from algm_trt.plugins import interface
from algm_trt.runtime.field import AxisOperator

# In order; blocks backwards; greedy, backwards and asynchronous copies at once.
SCHEDULES = (0, 1, 7)
dtypes = pytest.mark.parametrize("dtype", DTYPES)


@pytest.fixture(params=SCHEDULES)
def kernels(twin_library: Path, request: pytest.FixtureRequest) -> Kernels:
    kernels = Kernels(twin_library, HostMemory())
    kernels.library.algm_twin_set_seed(request.param)
    return kernels


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20261122)


@pytest.mark.parametrize("case", cases.CUT_CASES, ids=str)
def test_windows_are_cut_exactly(kernels: Kernels, rng: np.random.Generator, case: Any) -> None:
    cases.check_cut_windows(kernels, rng, case)


@dtypes
@pytest.mark.parametrize("case", cases.SLIDE_CASES, ids=str)
def test_labels_of_noise_agree(kernels: Kernels, rng: np.random.Generator, case: SlideCase, dtype: Any) -> None:
    cases.check_slide_labels(kernels, case, cases.noise(rng, case, dtype))


@dtypes
@pytest.mark.parametrize("case", cases.SLIDE_CASES, ids=str)
def test_labels_of_regions_agree(kernels: Kernels, rng: np.random.Generator, case: SlideCase, dtype: Any) -> None:
    cases.check_slide_labels(kernels, case, cases.regions(rng, case, dtype))


@pytest.mark.parametrize("classes", [1, 7, 130, 300])
def test_ties_go_to_the_lower_class(kernels: Kernels, rng: np.random.Generator, classes: int) -> None:
    for case in (SlideCase((40, 53), (32, 24), 16, 8, classes), SlideCase((70, 50), (24, 32), 0, 8, classes)):
        cases.check_ties(kernels, case, cases.noise(rng, case, np.float32))


def test_quantised_logits_agree_with_the_full_evaluation(kernels: Kernels, rng: np.random.Generator) -> None:
    """Logits of few values tie at many nodes; shares are multiples of 1/32, so that float32 has every sum exactly."""
    case = SlideCase((64, 48), (64, 48), 48, 16, 6)
    logits = rng.integers(0, 3, case.shape).astype(np.float32)
    values = cases.reference.slide_values(logits, 1, *case.axes)
    np.testing.assert_array_equal(cases.slide_labels(kernels, case, logits), values.argmax(axis=2))


def test_all_equal_is_class_zero(kernels: Kernels) -> None:
    case = SlideCase((61, 53), (32, 32), 24, 8, 19)
    assert not cases.slide_labels(kernels, case, np.full(case.shape, -2.5, np.float16)).any()


@dtypes
def test_what_is_not_finite_wins_nowhere_or_is_contained(
    kernels: Kernels, rng: np.random.Generator, dtype: Any
) -> None:
    case = SlideCase((61, 53), (32, 32), 24, 8, 19)
    logits = cases.noise(rng, case, dtype)
    masked = logits.copy()
    masked[:, 3] = -np.inf
    masked[:, 5] = np.nan
    others = [k for k in range(19) if k not in (3, 5)]
    fewer = cases.slide_labels(kernels, replace(case, classes=17), np.ascontiguousarray(logits[:, others]))
    np.testing.assert_array_equal(cases.slide_labels(kernels, case, masked), np.array(others)[fewer])
    for value in (np.nan, -np.inf):
        assert not cases.slide_labels(kernels, case, np.full(case.shape, value, dtype)).any()
    logits[rng.random(case.shape) < 0.2] = np.nan
    logits[rng.random(case.shape) < 0.1] = np.inf
    assert cases.slide_labels(kernels, case, logits).max() < 19


def test_a_class_that_is_nan_at_some_nodes_hides_no_other_there(kernels: Kernels) -> None:
    """Class 0 leads in the right half and is NaN in the left one: where a pixel draws on the left, class 1 wins."""
    case = SlideCase((96, 128), (96, 128), 0, 16, 3)
    logits = np.zeros(case.shape, np.float32)
    logits[:, 0], logits[:, 1] = 10, 1
    logits[:, 0, :, :4] = np.nan
    labels = cases.slide_labels(kernels, case, logits)
    columns = np.arange(128) < 4 * 16 + 8  # centre of the first patch of the right half
    np.testing.assert_array_equal(labels, np.tile(columns, (96, 1)))


def test_garbage_in_the_operators_stays_inside_the_buffers(kernels: Kernels, rng: np.random.Generator) -> None:
    for dtype in DTYPES:
        case = SlideCase((61, 53), (32, 32), 24, 8, int(rng.choice([19, 300])))
        logits = cases.noise(rng, case, dtype)
        for limit in (70, 2**31 - 1):
            axes = []
            for axis in case.axes:
                starts, supports, nodes = (
                    rng.integers(-limit, limit, array.shape).astype(np.int32)
                    for array in (axis.starts, axis.supports, axis.nodes)
                )
                shares = rng.choice(np.array([np.nan, np.inf, 0, 1, -3], np.float32), axis.shares.shape)
                axes.append(AxisOperator(np.sort(starts) if limit < 100 else starts, supports, nodes, shares))
            kernels.slide_labels(logits, len(case.plan.rows), *axes)


def test_what_cannot_be_done_is_refused(kernels: Kernels, rng: np.random.Generator) -> None:
    canvas = rng.integers(0, 256, (8, 9, 3), np.uint8)
    for window in ((9, 9), (8, 10), (0, 5)):
        with pytest.raises(KernelError, match="invalid argument"):
            kernels.cut_windows(canvas, np.zeros((1, 2), np.int32), window)
    lib = kernels.library
    good = (1, 2, 2, 19, 4, 4, 50, 40, 4, 5, 4, 4)
    pointers: list[int | None] = [256] * 12  # the last is the workspace
    size = lib.algm_slide_labels_workspace(ctypes.byref(interface.AlgmSlideLabelsParams(*good)))
    assert 4 * 16 * 19 * 2 <= size <= 4 * 16 * 19 * 2 + 1024

    def status(values: tuple[int, ...], given: list[int | None] = pointers, room: int = size) -> int:
        params = interface.AlgmSlideLabelsParams(*values)
        return int(lib.algm_slide_labels(ctypes.byref(params), *given, room, None))

    assert status(good, room=size - 1) == 3
    assert status((*good[:-1], 32769)) == interface.STATUS_UNSUPPORTED
    beyond = [(0, -1), (0, 2), (2, 2**30), (3, 65536), (8, 51), (9, 41)]
    for place, wrong in [*((place, 0) for place in range(1, 12)), *beyond]:
        assert status((*good[:place], wrong, *good[place + 1 :])) == 1, place
        assert lib.algm_slide_labels_workspace(ctypes.byref(interface.AlgmSlideLabelsParams(*good[:3], 0))) == 0
    for place in range(12):
        assert status(good, [*pointers[:place], None, *pointers[place + 1 :]]) == 1, place
    assert lib.algm_slide_labels(None, *pointers, size, None) == 1
    # Windows are counted in 32 bits, with a step to spare.
    for windows in (2**30, 2**31 - 1, -1, 0):
        params = interface.AlgmCutWindowsParams(1, 1, windows, 1, 1)
        assert lib.algm_cut_windows(ctypes.byref(params), *pointers[:4], 0, None) == 1
