"""Build options: ranges of batches, and combinations that make no sense."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from algm_trt.engines.options import BatchRange, BuildOptions, ranges_up_to
from algm_trt.plugins.errors import UsageError


@pytest.mark.parametrize("batch", [(0, 1, 1), (2, 1, 3), (1, 3, 2), (4, 2, 1), (-1, 1, 1), (1, 1, 5000)])
def test_ranges_that_are_none(batch: tuple[int, int, int]) -> None:
    with pytest.raises(UsageError, match="MIN OPT MAX"):
        BatchRange(*batch)


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ((1,), [(1, 1, 1)]),
        ((7,), [(1, 7, 7)]),
        ((1, 2), [(1, 1, 1), (2, 2, 2)]),
        ((1, 8, 32), [(1, 1, 1), (2, 8, 8), (9, 32, 32)]),
    ],
)
def test_profiles_leave_no_batch_out(sizes: tuple[int, ...], expected: list[tuple[int, int, int]]) -> None:
    assert ranges_up_to(sizes) == tuple(BatchRange(*batch) for batch in expected)


@pytest.mark.parametrize("sizes", [(), (0, 1), (8, 1), (2, 2)])
def test_profiles_must_ascend(sizes: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="ascending"):
        ranges_up_to(sizes)


def test_default_profiles_are_those_of_one_and_eight() -> None:
    assert BuildOptions().batches == ranges_up_to((1, 8))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "int8"}, "fp16 or fp32"),
        ({"target": "other"}, "tensorrt or rtx"),
        ({"batches": ()}, "profile"),
        ({"optimization_level": 6}, "0 to 5"),
        ({"optimization_level": -1}, "0 to 5"),
        ({"workspace_mib": 0}, "must be 1 to"),
        ({"workspace_mib": 10**20}, "must be 1 to"),
        ({"hardware_compatibility": "all"}, "ampere-plus"),
        ({"compute_capabilities": (89,)}, "--target rtx"),
        ({"target": "rtx", "compute_capabilities": (90,)}, "not for 90"),
        ({"target": "rtx", "compute_capabilities": (75,)}, "no float32 matrix products"),
        ({"target": "rtx", "version_compatible": True}, "--version-compatible"),
        ({"target": "rtx", "hardware_compatibility": "ampere-plus"}, "--hardware-compatibility"),
        ({"target": "rtx", "timing_cache": Path("x")}, "--timing-cache"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        BuildOptions(**options)


def test_capabilities_are_sorted_and_have_a_default() -> None:
    assert BuildOptions(target="rtx", compute_capabilities=(120, 89, 89)).capabilities == (89, 120)
    assert BuildOptions(target="rtx").capabilities == (80, 86, 89, 120)
