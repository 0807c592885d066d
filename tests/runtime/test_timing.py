"""Alternating times: every variant has its turn in every round, and the figures are those of NumPy."""

from __future__ import annotations

import itertools
import time
from collections import Counter

import numpy as np
import pytest

from algm_trt.runtime.timing import Samples, Spread, alternate, measure, take_turns


def calls_of(names: str, rounds: int, seed: int = 0, warmup: int = 0) -> list[str]:
    """Names in the order in which they were called."""
    seen: list[str] = []
    alternate({name: lambda name=name: seen.append(name) for name in names}, rounds, warmup, seed)
    return seen


@pytest.mark.parametrize(("rounds", "warmup"), [(1, 0), (2, 1), (5, 3)])
def test_every_variant_has_one_turn_in_every_round(rounds: int, warmup: int) -> None:
    seen = calls_of("abc", rounds, warmup=warmup)
    assert len(seen) == 3 * (rounds + warmup)
    for begin in range(0, len(seen), 3):
        assert sorted(seen[begin : begin + 3]) == ["a", "b", "c"]


def test_the_order_depends_on_the_seed_alone() -> None:
    assert calls_of("abcde", 7, seed=3) == calls_of("abcde", 7, seed=3)
    assert calls_of("abcde", 7, seed=3) != calls_of("abcde", 7, seed=4)


def test_in_two_rounds_each_variant_runs_as_often_before_as_after_any_other() -> None:
    seen = calls_of("abcd", 6)
    first: Counter[tuple[str, str]] = Counter()
    for begin in range(0, len(seen), 4):
        order = seen[begin : begin + 4]
        first.update((x, y) for index, x in enumerate(order) for y in order[index + 1 :])
    assert set(first.values()) == {3}
    assert len({tuple(seen[begin : begin + 4]) for begin in range(0, len(seen), 4)}) > 2


def test_calls_of_a_turn_are_timed_one_by_one() -> None:
    times = alternate({"pair": [lambda: time.sleep(0.02), lambda: None], "one": lambda: None}, rounds=3)
    assert [len(turn) for turn in times["pair"].rounds] == [2, 2, 2]
    assert [len(turn) for turn in times["one"].rounds] == [1, 1, 1]
    for slow, fast in times["pair"].rounds:
        assert slow >= 0.02 > fast


def test_measure_runs_rounds_after_the_warm_up() -> None:
    seen: list[int] = []
    samples = measure([lambda: seen.append(1), lambda: seen.append(2)], rounds=3, warmup=2)
    assert seen == [1, 2] * 5
    assert [len(turn) for turn in samples.rounds] == [2, 2, 2]


def test_rounds_can_be_left_early() -> None:
    seen: list[int] = []
    turns = take_turns({number: lambda number=number: seen.append(number) for number in (1, 2)}, rounds=100)
    names = [name for name, _ in itertools.islice(turns, 3)]
    assert names == seen
    assert sorted(names[:2]) == [1, 2]


def test_figures_are_those_of_numpy() -> None:
    rng = np.random.default_rng(0)
    values = rng.exponential(size=(7, 3))
    samples = Samples(tuple(tuple(turn) for turn in values.tolist()))
    means = values.mean(axis=1)
    assert samples.per_round == pytest.approx(means)
    assert samples.seconds.median == pytest.approx(np.median(means))
    assert (samples.seconds.lower, samples.seconds.upper) == pytest.approx(np.quantile(means, [0.25, 0.75]))
    for percent in (50, 90, 99):
        assert samples.percentile(percent) == pytest.approx(np.percentile(values, percent))


def test_the_shortest_time_is_the_highest_rate() -> None:
    assert Spread(0.1, 0.2, 0.5).rate(2) == Spread(4.0, 10.0, 20.0)
    assert Spread(0.1, 0.2, 0.5).rate() == Spread(2.0, 5.0, 10.0)


def test_ratios_are_paired_by_round() -> None:
    # a machine that slows down tenfold half-way changes no ratio
    fast = Samples(((1.0,), (1.1,), (10.0,)))
    slow = Samples(((2.0,), (2.2,), (20.0,)))
    assert slow.over(fast) == Spread(2.0, 2.0, 2.0)
    assert fast.over(slow).median == 0.5
    with pytest.raises(ValueError, match="zip"):
        slow.over(Samples(((1.0,),)))


def test_json_holds_every_time() -> None:
    content = Samples(((1.0, 3.0), (2.0, 2.0))).to_dict()
    assert content["rounds"] == [[1.0, 3.0], [2.0, 2.0]]
    assert content["seconds"] == {"lower_quartile": 2.0, "median": 2.0, "upper_quartile": 2.0}
    assert set(content["percentiles"]) == {"p50", "p90", "p99"}


@pytest.mark.parametrize("rounds", [(), ((),), ((1.0,), ())])
def test_no_time_is_no_sample(rounds: tuple[tuple[float, ...], ...]) -> None:
    with pytest.raises(ValueError, match="at least one"):
        Samples(rounds)


def test_no_round_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1, got 0"):
        alternate({"a": lambda: None}, rounds=0)
