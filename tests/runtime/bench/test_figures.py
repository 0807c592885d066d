"""Figures of algm-bench against NumPy and against counting by hand."""

from __future__ import annotations

import numpy as np
import pytest

from algm_trt.runtime.bench.figures import JobFigures, ModelFigures, TokenFigures, ratio
from algm_trt.runtime.timing import Samples, Spread


def test_tokens_kept_and_means() -> None:
    tokens = TokenFigures(np.array([[101, 80, 40], [101, 60, 20], [101, 100, 100]], np.int32))
    assert tokens.kept == pytest.approx(160 / 303)
    assert tokens.means == pytest.approx((101, 80, 160 / 3))


def test_padding_is_what_the_longest_window_of_each_batch_costs_the_others() -> None:
    tokens = TokenFigures(np.array([[9, 9, 4], [9, 9, 8], [9, 5, 6], [9, 9, 2], [9, 7, 5]], np.int32))
    assert tokens.padding(1) == 0.0
    # batches of 2: (4, 8), (6, 2), (5)
    assert tokens.padding(2) == pytest.approx(1 - 25 / (16 + 12 + 5))
    assert tokens.padding(5) == pytest.approx(1 - 25 / 40)
    assert tokens.padding(5, column=1) == pytest.approx(1 - 39 / 45)
    assert tokens.padding(99) == tokens.padding(5)
    content = tokens.to_dict(2)
    assert content["padding_avoided"] == {"after_local": tokens.padding(2, 1), "after_global": tokens.padding(2, 2)}
    assert content["padding_avoided"]["after_local"] != content["padding_avoided"]["after_global"]


@pytest.mark.parametrize("rounds", [1, 2, 7])
def test_model_figures_are_those_of_numpy(rounds: int) -> None:
    seconds = np.random.default_rng(rounds).exponential(size=(rounds, 4))
    samples = Samples(tuple(tuple(turn) for turn in seconds.tolist()))
    figures = ModelFigures(8, samples, (8, 8, 8, 3))
    rates = 27 / seconds.sum(axis=1)
    assert figures.rates == pytest.approx(rates)
    spread = figures.images_per_second
    assert (spread.lower, spread.median, spread.upper) == pytest.approx(np.quantile(rates, [0.25, 0.5, 0.75]))
    assert figures.filled == 27 / 32
    for percent in (50, 90, 99):  # of full batches only
        assert figures.latency(percent) == pytest.approx(np.percentile(seconds[:, :3], percent))
    assert figures.calls == seconds[:, :3].size
    assert figures.to_dict()["device"] is None


def test_latency_is_of_all_batches_where_none_is_full() -> None:
    figures = ModelFigures(32, Samples(((0.5,), (1.5,))), (3,))
    assert figures.latency(50) == 1.0
    assert figures.filled == 3 / 32


def test_device_times_stand_beside_those_of_the_host() -> None:
    figures = ModelFigures(2, Samples(((1.0, 1.0),)), (2, 2), Samples(((0.25, 0.75),)))
    assert figures.images_per_second.median == 2.0
    assert figures.device_images_per_second == Spread(4.0, 4.0, 4.0)
    content = figures.to_dict()
    assert content["clock"] == "host"
    assert content["device"]["clock"] == "events on the GPU"
    assert content["device"]["latency_seconds"]["p50"] == 0.5


def test_job_figures() -> None:
    stages = {"decode": 1.0, "cut": 0.0, "model": 2.0, "labels": 0.5, "write": 0.5}
    latencies = Samples(((0.5, 1.0), (1.5, 0.25), (0.75, 4.0)))
    figures = JobFigures(4, 10, (4, 4, 4, 1), (2.0, 5.0, 4.0), stages, latencies)
    assert figures.rates == (5.0, 2.0, 2.5)
    assert figures.images_per_second.median == 2.5
    assert figures.filled == 13 / 16
    assert figures.shares == {"decode": 0.25, "cut": 0.0, "model": 0.5, "labels": 0.125, "write": 0.125}
    assert figures.to_dict()["windows"] == 13
    assert figures.latency(50) == 0.875
    assert figures.to_dict()["latency_seconds"]["p90"] == pytest.approx(np.percentile(latencies.calls, 90))


def test_ratios_are_paired_and_take_the_rounds_that_both_have() -> None:
    assert ratio([2.0, 20.0, 4.0], [1.0, 10.0]) == Spread(2.0, 2.0, 2.0)
