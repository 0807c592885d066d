"""Thresholds of the local merge by what they leave, and how many windows of a picture merge."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from typing import Final

import numpy as np
from numpy.typing import NDArray
from parts.networks import MERGE

from algm_trt.exporter.config import SegmenterConfig
from algm_trt.runtime.engine import Engine

MEMBERS: Final = MERGE.window[0] * MERGE.window[1]
"""Tokens of a window."""


def threshold_leaving(wanted: float, left: Callable[[float], float], steps: int = 16) -> float:
    """The threshold at which as many tokens are left as wanted.

    Args:
        wanted: tokens, or a share of them.
        left: the same at a threshold; grows with it.
        steps: halvings of the range of similarities.
    """
    low, high = -1.0, 1.0
    for _ in range(steps):
        middle = (low + high) / 2
        low, high = (middle, high) if left(middle) < wanted else (low, middle)
    return (low + high) / 2


def halfway_threshold(mean_tokens: Callable[[float], float], config: SegmenterConfig) -> float:
    """Threshold at which half of the windows merge.

    Args:
        mean_tokens: of a picture after the local merge, at a threshold.
        config: of the network, which merges by `MERGE`.
    """
    windows = _windows(config)
    return threshold_leaving(_tokens(config) - windows // 2 * (MEMBERS - 1), mean_tokens)


def engine_threshold(engine: Engine, images: NDArray[np.uint8], config: SegmenterConfig) -> float:
    """Threshold at which half of the windows of pictures (B, H, W, 3) merge in an opened model."""
    return halfway_threshold(lambda at: statistics.fmean(local_tokens(engine, images, at)), config)


def local_tokens(engine: Engine, images: NDArray[np.uint8], threshold: float) -> list[int]:
    """Tokens of each picture of (B, H, W, 3) after the local merge."""
    return [int(engine.run(image[None], threshold).token_counts[0, 1]) for image in images]


def windows_merged(tokens: Iterable[int], config: SegmenterConfig) -> list[float]:
    """Share of the windows of each picture that merged, by its tokens after the local merge."""
    merged = ((_tokens(config) - left) / (MEMBERS - 1) for left in tokens)
    return [round(count / _windows(config), 3) for count in merged]


def _windows(config: SegmenterConfig) -> int:
    return config.grid[0] * config.grid[1] // MEMBERS


def _tokens(config: SegmenterConfig) -> int:
    return config.extra_tokens + MEMBERS * _windows(config)
