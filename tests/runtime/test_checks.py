"""Numbers as options and calls give them."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from helpers.fake_engine import FakeEngine, color_picture, make_card

from algm_trt.plugins.errors import UsageError
from algm_trt.runtime import Segmenter
from algm_trt.runtime.checks import finite_threshold, whole_number
from algm_trt.runtime.engine import checked_threshold
from algm_trt.runtime.engine_options import MOST_THREADS, EngineOptions
from algm_trt.runtime.pipeline_options import PipelineOptions

NO_WHOLE_NUMBERS = (1.5, 2.0, "2", "16", True, False, b"2", [2], np.float32(2), float("nan"), 2j)


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3), np.array(3)])
def test_whole_numbers_become_ints(value: object) -> None:
    assert (type(whole_number("threads", value)), whole_number("threads", value)) == (int, 3)
    assert type(EngineOptions(threads=value).threads) is int  # type: ignore[arg-type]
    assert type(PipelineOptions(stride=value).stride) is int  # type: ignore[arg-type]


@pytest.mark.parametrize("value", NO_WHOLE_NUMBERS, ids=repr)
@pytest.mark.parametrize("option", ["threads", "streams"])
def test_engine_options_name_what_is_no_whole_number(option: str, value: object) -> None:
    with pytest.raises(UsageError) as caught:
        EngineOptions(**{option: value})  # type: ignore[arg-type]
    assert str(caught.value) == f"{option} must be a whole number, got {value!r}"


@pytest.mark.parametrize("value", NO_WHOLE_NUMBERS, ids=repr)
@pytest.mark.parametrize("option", ["stride", "batch_size", "workers", "short_side"])
def test_pipeline_options_name_what_is_no_whole_number(option: str, value: object) -> None:
    with pytest.raises(UsageError) as caught:
        Segmenter(FakeEngine())(color_picture(40, 40), **{option: value})  # type: ignore[call-overload]
    assert str(caught.value) == f"{option.replace('_', ' ')} must be a whole number, got {value!r}"


def test_a_batch_size_is_never_none_and_ranges_hold() -> None:
    with pytest.raises(UsageError, match="batch size must be a whole number, got None"):
        PipelineOptions(batch_size=None)  # type: ignore[arg-type]
    for number in (0, -1, MOST_THREADS + 1, 2**70):
        with pytest.raises(UsageError, match=f"streams must be between 1 and {MOST_THREADS}, got {number}"):
            EngineOptions(streams=number)
    assert EngineOptions(threads=None, streams=None) == EngineOptions(streams=None)
    assert EngineOptions(threads=MOST_THREADS).threads == MOST_THREADS


@pytest.mark.parametrize(
    "value", ["0.9", b"0.9", True, None, math.nan, math.inf, -math.inf, 1e39, -1e39, 10**400, [0.9], 1j], ids=repr
)
def test_thresholds_that_are_no_finite_float32_are_refused_everywhere(value: object) -> None:
    card = make_card()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UsageError, match="the threshold must be a finite number"):
            finite_threshold(value)
        if value is not None:  # the threshold of the card
            with pytest.raises(UsageError, match="the threshold must be a finite number"):
                checked_threshold(value, card)  # type: ignore[arg-type]
            with pytest.raises(UsageError, match="the threshold must be a finite number"):
                Segmenter(FakeEngine())(color_picture(40, 40), threshold=value)


@pytest.mark.parametrize(
    "value", [0, 1, 0.9, -2.5, np.float32(0.5), np.float64(0.1), np.array(0.25), 3.4028234e38, 5e-324]
)
def test_numbers_are_thresholds(value: float) -> None:
    assert (type(finite_threshold(value)), finite_threshold(value)) == (float, float(value))
    assert checked_threshold(value, make_card()) == float(value) == PipelineOptions(threshold=value).threshold
