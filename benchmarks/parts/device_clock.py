"""Time of work on a device, host and device together, as a user sees it."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch


def synchronise(device: str) -> None:
    """Wait for the device."""
    if device == "cuda":
        torch.cuda.synchronize()


def seconds(run: Callable[[], object], device: str, calls: int) -> float:
    """Time of one call, mean over calls in a row."""
    synchronise(device)
    begin = time.perf_counter()
    for _ in range(calls):
        run()
    synchronise(device)
    return (time.perf_counter() - begin) / calls
