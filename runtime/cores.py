"""The processor's cores that this process may use."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def usable_cores() -> int:
    """Cores that this process may run on, those that share a physical one counted singly."""
    return len(_usable())


def physical_cores() -> int:
    """Physical cores that this process may run on; `usable_cores` where the system does not tell them apart."""
    cores = set()
    for number in _usable():
        siblings = str(number)
        with contextlib.suppress(OSError):
            topology = Path(f"/sys/devices/system/cpu/cpu{number}/topology")
            siblings = (topology / "thread_siblings_list").read_text(encoding="utf-8").strip()
        cores.add(siblings)
    return len(cores)


def _usable() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return set(os.sched_getaffinity(0))
    return set(range(os.cpu_count() or 1))
