"""Times of things that compete, measured so that they can be compared: all take turns in one process.

A machine changes while it is measured: its clock rate, its caches, what else runs on it. Times taken one after the
other differ by that too. Here every variant has one turn in each round, the order changes from round to round, and two
variants are compared round by round.

    times = alternate({"dense": lambda: dense.run(x), "merged": lambda: merged.run(x)}, rounds=9)
    times["merged"].seconds.median           # seconds per call: median over rounds of the mean of a turn
    times["dense"].over(times["merged"])     # how many times as long, with quartiles over rounds
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import numpy as np

Name = TypeVar("Name", bound=Hashable)
Call: TypeAlias = Callable[[], object]
Turn: TypeAlias = Call | Sequence[Call]
"""What a variant does in a round: one call, or several that are timed one by one."""


@dataclass(frozen=True)
class Spread:
    """Where values lie.

    Attributes:
        lower: first quartile.
        median: second quartile.
        upper: third quartile.
    """

    lower: float
    median: float
    upper: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Quartiles of at least one value, linear between neighbours as NumPy computes them."""
        lower, median, upper = np.percentile(np.asarray(values, np.float64), (25, 50, 75)).tolist()
        return cls(lower, median, upper)

    def rate(self, count: float = 1) -> Spread:
        """Of seconds: how many of something per second, if `count` take so long."""
        return Spread(count / self.upper, count / self.median, count / self.lower)

    def to_dict(self) -> dict[str, float]:
        """For JSON."""
        return {"lower_quartile": self.lower, "median": self.median, "upper_quartile": self.upper}


@dataclass(frozen=True)
class Samples:
    """Times of one variant.

    Attributes:
        rounds: seconds of every call, a tuple per round.
    """

    rounds: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        if not self.rounds or not all(self.rounds):
            raise ValueError("times need at least one round, and every round one call")

    @property
    def per_round(self) -> tuple[float, ...]:
        """Mean seconds per call, a value per round."""
        return tuple(sum(turn) / len(turn) for turn in self.rounds)

    @property
    def calls(self) -> tuple[float, ...]:
        """Seconds of every call, all rounds together."""
        return tuple(seconds for turn in self.rounds for seconds in turn)

    @property
    def seconds(self) -> Spread:
        """Seconds per call: quartiles over rounds."""
        return Spread.of(self.per_round)

    def percentile(self, percent: float) -> float:
        """Seconds that this percentage of all calls stay within."""
        return float(np.percentile(np.asarray(self.calls, np.float64), percent))

    def over(self, other: Samples) -> Spread:
        """How many times as long as another variant this one takes per call: quartiles over rounds, paired.

        Args:
            other: from the same `alternate`.

        Raises:
            ValueError: another number of rounds.
        """
        pairs = zip(self.per_round, other.per_round, strict=True)
        return Spread.of([mine / theirs for mine, theirs in pairs])

    def to_dict(self) -> dict[str, Any]:
        """For JSON: the figures, and every time they come from."""
        return {
            "seconds": self.seconds.to_dict(),
            "percentiles": {f"p{percent}": self.percentile(percent) for percent in (50, 90, 99)},
            "rounds": [list(turn) for turn in self.rounds],
        }


def alternate(variants: Mapping[Name, Turn], rounds: int, warmup: int = 1, seed: int = 0) -> dict[Name, Samples]:
    """Time variants against each other.

    Args:
        variants: by name. A turn of several calls gives several times per round; what a call returns is dropped.
        rounds: turns of each variant, at least one.
        warmup: turns of each variant before, which are not timed.
        seed: of the order within the rounds.

    Returns:
        Times of each variant by the wall clock of this machine: work that goes on elsewhere after a call has returned,
        as on a GPU, is not in them, so a call has to wait for it.

    Raises:
        ValueError: fewer than one round.
    """
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {rounds}")
    for _ in range(warmup):
        for turn in variants.values():
            run_turn(turn)
    times: dict[Name, list[tuple[float, ...]]] = {name: [] for name in variants}
    for name, seconds in take_turns(variants, rounds, seed):
        times[name].append(seconds)
    return {name: Samples(tuple(turns)) for name, turns in times.items()}


def measure(turn: Turn, rounds: int, warmup: int = 1) -> Samples:
    """Time what has nothing to compete with; arguments as for `alternate`."""
    return alternate({"": turn}, rounds, warmup)[""]


def take_turns(variants: Mapping[Name, Turn], rounds: int, seed: int = 0) -> Iterator[tuple[Name, tuple[float, ...]]]:
    """Run the rounds turn by turn: for callers who show progress, or stop early and keep what they have.

    Yields:
        The variant whose turn it was, and the seconds of its calls.
    """
    for names in _orders(list(variants), rounds, seed):
        for name in names:
            yield name, run_turn(variants[name])


def run_turn(turn: Turn) -> tuple[float, ...]:
    """Seconds of each call of one turn."""
    return tuple(_seconds(call) for call in ((turn,) if callable(turn) else turn))


def _orders(names: Sequence[Name], rounds: int, seed: int) -> Iterator[list[Name]]:
    """The order of each round: shuffled, and the next round the same backwards.

    Backwards, because in every two rounds each variant then runs as often before any other as after it.
    """
    generator = random.Random(seed)
    order = list(names)
    for index in range(rounds):
        if index % 2:
            order.reverse()
        else:
            generator.shuffle(order)
        yield list(order)


def _seconds(call: Call) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin
