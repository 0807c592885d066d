"""The watch on an engine's batches: it sees all of them and changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from helpers.fake_engine import FakeEngine, color_picture

from algm_trt.runtime.engine import Engine
from algm_trt.runtime.pipeline import Inferred, Item, run_pipeline
from algm_trt.runtime.pipeline_options import PipelineOptions
from algm_trt.runtime.watched_engine import WatchedEngine
from algm_trt.runtime.window_runner import HostWindowRunner, usual_batch


class WithRunner(FakeEngine):
    """An engine with a runner of its own."""

    usual_batch = 3

    def window_runner(self, batch_size: int) -> HostWindowRunner:
        self.runners = [*getattr(self, "runners", []), batch_size]
        return HostWindowRunner(self, batch_size)


def logits(engine: Engine) -> list[np.ndarray]:
    items = [Item(seed, lambda seed=seed: color_picture(40, 61, seed), lambda: (40, 61)) for seed in range(3)]  # type: ignore[misc]

    def finish(seed: int, inferred: Inferred) -> np.ndarray:
        return inferred.scores.logits()

    outcomes = list(run_pipeline(engine, PipelineOptions(batch_size=4), items, finish))
    assert [outcome.error for outcome in outcomes] == [None] * 3
    return [outcome.value for outcome in outcomes if outcome.value is not None]


@pytest.mark.parametrize("kind", [FakeEngine, WithRunner])
def test_every_batch_is_seen_and_nothing_changes(kind: type[FakeEngine]) -> None:
    seen: list[tuple[int, int]] = []
    engine = kind()

    @contextmanager
    def watch(size: int) -> Iterator[None]:
        before = len(engine.batches)
        yield
        seen.append((size, engine.batches[before]))

    watched = WatchedEngine(engine, watch)
    assert watched.usual_batch == usual_batch(engine)
    found = logits(watched)
    assert seen == [(size, size) for size in engine.batches]
    assert sum(size for size, _ in seen) == 3 * len(found[0])
    for one, other in zip(found, logits(kind()), strict=True):
        assert np.array_equal(one, other)


def test_the_runner_is_the_engines_own() -> None:
    engine = WithRunner()

    @contextmanager
    def watch(size: int) -> Iterator[None]:
        yield

    logits(WatchedEngine(engine, watch))
    assert engine.runners == [4]


def test_closing_closes_the_engine() -> None:
    engine = FakeEngine()

    @contextmanager
    def watch(size: int) -> Iterator[None]:
        yield

    WatchedEngine(engine, watch).close()
    assert engine.closed
