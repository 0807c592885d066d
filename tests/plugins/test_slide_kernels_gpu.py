"""The slide mode's kernels on a GPU against the NumPy reference and the CPU path (rung L4).

Run alone with `pytest -m gpu tests/plugins/test_slide_kernels_gpu.py`. Inputs are fresh, outputs are poisoned and lie
between guards.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers import slide_cases as cases
from helpers.kernel_cases import DTYPES
from helpers.kernels import Kernels
from helpers.slide_cases import SlideCase

pytestmark = pytest.mark.gpu
dtypes = pytest.mark.parametrize("dtype", DTYPES)
LARGE_CASES = [SlideCase((512, 683), (512, 512), 480, 16, 150), SlideCase((1024, 2048), (768, 768), 512, 16, 19)]


@pytest.mark.parametrize("case", [*cases.CUT_CASES, ((683, 1024), (512, 512), 6)], ids=str)
def test_cut_windows(kernels: Kernels, rng: np.random.Generator, case: Any) -> None:
    cases.check_cut_windows(kernels, rng, case)


@dtypes
@pytest.mark.parametrize("case", [*cases.SLIDE_CASES, *LARGE_CASES], ids=str)
def test_slide_labels(kernels: Kernels, rng: np.random.Generator, case: SlideCase, dtype: Any) -> None:
    cases.check_slide_labels(kernels, case, cases.noise(rng, case, dtype))
    cases.check_slide_labels(kernels, case, cases.regions(rng, case, dtype))


@pytest.mark.parametrize("classes", [7, 150, 300])
def test_slide_labels_of_ties(kernels: Kernels, rng: np.random.Generator, classes: int) -> None:
    case = SlideCase((140, 153), (96, 72), 48, 8, classes)
    cases.check_ties(kernels, case, cases.noise(rng, case, np.float16))


def test_slide_labels_of_what_is_not_finite(kernels: Kernels, rng: np.random.Generator) -> None:
    case = SlideCase((161, 253), (96, 96), 64, 8, 150)
    logits = cases.noise(rng, case, np.float16)
    logits[rng.random(case.shape) < 0.2] = np.nan
    logits[rng.random(case.shape) < 0.1] = np.inf
    assert cases.slide_labels(kernels, case, logits).max() < 150


@dtypes
def test_a_second_run_gives_the_same_bits(kernels: Kernels, rng: np.random.Generator, dtype: Any) -> None:
    case = LARGE_CASES[0]
    logits = cases.noise(rng, case, dtype)
    first = cases.slide_labels(kernels, case, logits)
    for _ in range(3):
        assert cases.slide_labels(kernels, case, logits).tobytes() == first.tobytes()
