"""Figures of one variant: what is computed from raw times and token counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from algm_trt.runtime.job import STAGES
from algm_trt.runtime.timing import Samples, Spread

PERCENTILES: Final = (50, 90, 99)


@dataclass(frozen=True, eq=False)
class TokenFigures:
    """Tokens of the windows that the model alone ran on.

    Attributes:
        counts: (W, 3) int32 per window: before merging, after the local, after the last global merge.
    """

    counts: NDArray[np.int32]

    @property
    def kept(self) -> float:
        """Share of the tokens that are left after all merges."""
        return float(self.counts[:, 2].sum() / self.counts[:, 0].sum())

    @property
    def means(self) -> tuple[float, float, float]:
        """Tokens per window: before merging, after the local, after the last global merge."""
        before, local, last = self.counts.mean(axis=0).tolist()
        return before, local, last

    def padding(self, batch: int, column: int = 2) -> float:
        """Share of a padded batch that would be padding: what packing saves.

        Args:
            batch: windows per batch, taken in order.
            column: 1 after the local merge, 2 after the last global one.
        """
        tokens = self.counts[:, column].astype(np.int64)
        groups = [tokens[start : start + batch] for start in range(0, len(tokens), batch)]
        padded = sum(int(group.max()) * len(group) for group in groups)
        return 1.0 - float(tokens.sum()) / padded

    def to_dict(self, batch: int) -> dict[str, Any]:
        """For JSON."""
        return {
            "kept": self.kept,
            "per_window": list(self.means),
            "padding_avoided": {"after_local": self.padding(batch, 1), "after_global": self.padding(batch, 2)},
            "counts": self.counts.tolist(),
        }


@dataclass(frozen=True)
class ModelFigures:
    """Times of the model alone: `Engine.run` on batches that lie in memory.

    Attributes:
        batch: windows of a batch, as asked for.
        samples: by the clock of the host; a call per batch.
        sizes: windows of each call of a turn.
        device: the same calls by the clock of the device; None where the engine has none.
    """

    batch: int
    samples: Samples
    sizes: tuple[int, ...]
    device: Samples | None = None

    @property
    def filled(self) -> float:
        """Windows per batch, as a share of what was asked for."""
        return sum(self.sizes) / (len(self.sizes) * self.batch)

    @property
    def rates(self) -> tuple[float, ...]:
        """Images (windows) per second, a value per round."""
        return tuple(sum(self.sizes) / sum(turn) for turn in self.samples.rounds)

    @property
    def images_per_second(self) -> Spread:
        """Images (windows) per second: quartiles over rounds."""
        return Spread.of(self.rates)

    @property
    def device_images_per_second(self) -> Spread | None:
        """The same by the clock of the device; None where the engine has none."""
        if self.device is None:
            return None
        return Spread.of([sum(self.sizes) / sum(turn) for turn in self.device.rounds])

    @property
    def calls(self) -> int:
        """Number of calls that `latency` is about."""
        return len(_of_full(self.samples, self.sizes, self.batch).calls)

    def latency(self, percent: float) -> float:
        """Seconds that this percentage of the calls with a full batch stay within; of all calls if none was full."""
        return _of_full(self.samples, self.sizes, self.batch).percentile(percent)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "clock": "host",
            "images_per_second": self.images_per_second.to_dict(),
            "latency_seconds": {f"p{percent}": self.latency(percent) for percent in PERCENTILES},
            "calls_timed": self.calls,
            "batches_filled": self.filled,
            "windows_per_call": list(self.sizes),
            "seconds_of_calls": [list(turn) for turn in self.samples.rounds],
            "device": self._device_dict(),
        }

    def _device_dict(self) -> dict[str, Any] | None:
        device, rates = self.device, self.device_images_per_second
        if device is None or rates is None:
            return None
        full = _of_full(device, self.sizes, self.batch)
        return {
            "clock": "events on the GPU",
            "images_per_second": rates.to_dict(),
            "latency_seconds": {f"p{percent}": full.percentile(percent) for percent in PERCENTILES},
            "seconds_of_calls": [list(turn) for turn in device.rounds],
        }


@dataclass(frozen=True)
class JobFigures:
    """Times of the whole job: from picture files to files written, as algm-infer does it.

    Attributes:
        batch: windows of a batch, as asked for.
        pictures: of a job.
        sizes: windows of each batch of a job.
        seconds: wall time of a job, a value per round.
        stages: seconds of work in each of STAGES in all threads together, over all rounds.
        latencies: seconds of each picture, from when it was taken up until its files were written.
    """

    batch: int
    pictures: int
    sizes: tuple[int, ...]
    seconds: tuple[float, ...]
    stages: Mapping[str, float]
    latencies: Samples

    @property
    def filled(self) -> float:
        """Windows per batch, as a share of what was asked for."""
        return sum(self.sizes) / (len(self.sizes) * self.batch)

    @property
    def rates(self) -> tuple[float, ...]:
        """Pictures per second, a value per round."""
        return tuple(self.pictures / seconds for seconds in self.seconds)

    @property
    def images_per_second(self) -> Spread:
        """Pictures per second: quartiles over rounds."""
        return Spread.of(self.rates)

    @property
    def shares(self) -> dict[str, float]:
        """Share of each stage in the work."""
        total = sum(self.stages.values())
        return {stage: self.stages[stage] / total for stage in STAGES}

    def latency(self, percent: float) -> float:
        """Seconds that this percentage of the pictures stay within, with all waiting for others."""
        return self.latencies.percentile(percent)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "clock": "host",
            "images_per_second": self.images_per_second.to_dict(),
            "latency_seconds": {f"p{percent}": self.latency(percent) for percent in PERCENTILES},
            "pictures": self.pictures,
            "windows": sum(self.sizes),
            "batches_filled": self.filled,
            "share_of_work": self.shares,
            "seconds_of_jobs": list(self.seconds),
            "seconds_of_pictures": [list(turn) for turn in self.latencies.rounds],
        }


def ratio(rates: Sequence[float], base: Sequence[float]) -> Spread:
    """How many times as fast as another variant: quartiles over the rounds that both have, paired by round."""
    return Spread.of([mine / theirs for mine, theirs in zip(rates, base, strict=False)])


def _of_full(samples: Samples, sizes: Sequence[int], batch: int) -> Samples:
    """The calls whose batch was full; all calls if there is none."""
    full = [index for index, size in enumerate(sizes) if size == batch] or range(len(sizes))
    return Samples(tuple(tuple(turn[index] for index in full) for turn in samples.rounds))
