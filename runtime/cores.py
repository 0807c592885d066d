"""The processor's cores that this process gets: by its affinity, and in a container by the limit of its time."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

CONTROL_GROUP: Final = Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """Cores that this process may keep busy, those that share a physical one counted singly."""
    return _limited(len(_affinity()))


def physical_cores() -> int:
    """Physical cores that this process may keep busy; `usable_cores` where the system does not tell them apart."""
    cores = set()
    for number in _affinity():
        siblings = str(number)
        with contextlib.suppress(OSError):
            topology = Path(f"/sys/devices/system/cpu/cpu{number}/topology")
            siblings = (topology / "thread_siblings_list").read_text(encoding="utf-8").strip()
        cores.add(siblings)
    return _limited(len(cores))


def restricted() -> bool:
    """Whether this process gets fewer cores than the machine has, by its affinity or by the limit of its container.

    Libraries do not know the one or the other: ONNX Runtime pins threads to cores that a container does not have.
    """
    return len(_affinity()) < (os.cpu_count() or 1) or time_limit() is not None


def time_limit() -> int | None:
    """How many cores' worth of time the container may use, rounded up, as in `docker run --cpus`; None without a limit.

    Libraries do not know of it: with a thread per core of the machine all of them are stopped most of the time.
    """
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):  # control groups of version 2, 1
        with contextlib.suppress(OSError, ValueError):
            text = " ".join((CONTROL_GROUP / name).read_text(encoding="ascii") for name in names)
            quota, period = (int(word) for word in text.split())  # "max" where there is none, or -1
            return -(-quota // period) if quota > 0 < period else None
    return None


def _limited(cores: int) -> int:
    return min(cores, time_limit() or cores)


def _affinity() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return set(os.sched_getaffinity(0))
    return set(range(os.cpu_count() or 1))
