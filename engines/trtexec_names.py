"""Options of algm-build-engine under the names that trtexec has for them, where one means exactly the other."""

from __future__ import annotations

import argparse
import re
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

_LEVELS: Final = {
    "none": "none",
    "ampere+": "ampere-plus",
    "samecomputecapability": "same-compute-capability",
}
_POOL: Final = re.compile(r"workspace:([0-9]{1,12}(?:\.[0-9]{1,12})?)([BKMGbkmg]?)")
_MIB: Final = {
    "B": Fraction(1, 2**20),
    "K": Fraction(1, 2**10),
    "": Fraction(1),
    "M": Fraction(1),
    "G": Fraction(2**10),
}


def add_trtexec_names(parser: argparse.ArgumentParser) -> None:
    """Add --timingCacheFile, --builderOptimizationLevel and so on, which --help leaves to a line of its epilog.

    They fill the same attributes as the options of the command, whose defaults stay; the last one given counts.
    """

    def add(name: str, **options: Any) -> None:
        parser.add_argument(name, default=argparse.SUPPRESS, help=argparse.SUPPRESS, **options)

    add("--timingCacheFile", dest="timing_cache", type=Path)
    add("--builderOptimizationLevel", dest="optimization_level", type=int)
    add("--hardwareCompatibilityLevel", dest="hardware_compatibility", type=_compatibility)
    add("--versionCompatible", dest="version_compatible", action="store_true")
    add("--memPoolSize", dest="workspace", type=_workspace)


def _compatibility(text: str) -> str:
    """One of `HARDWARE_COMPATIBILITY`.

    Raises:
        argparse.ArgumentTypeError: no level of trtexec.
    """
    if text.lower() not in _LEVELS:
        raise argparse.ArgumentTypeError(f"must be none, ampere+ or sameComputeCapability, got {text!r}")
    return _LEVELS[text.lower()]


def _workspace(text: str) -> int:
    """The workspace in MiB.

    Raises:
        argparse.ArgumentTypeError: another pool, or not a whole number of MiB.
    """
    match = _POOL.fullmatch(text)
    size = Fraction(match[1]) * _MIB[match[2].upper()] if match else Fraction(0)
    if size < 1 or size.denominator != 1:
        raise argparse.ArgumentTypeError(f"must be workspace:N, N whole MiB, or with K, M or G behind it, got {text!r}")
    return int(size)
