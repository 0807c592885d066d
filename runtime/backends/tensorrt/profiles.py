"""Which optimisation profile runs a batch, and how a batch is divided that none takes as it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Range = tuple[int, int, int]
"""Smallest, usual and largest batch of a profile."""


@dataclass(frozen=True)
class Piece:
    """A part of a batch that runs at once.

    Attributes:
        start: its first picture.
        count: of its pictures.
        profile: index of the profile that runs it.
        batch: pictures that it runs with: `count`, or the profile's smallest batch if that is more.
    """

    start: int
    count: int
    profile: int
    batch: int

    @property
    def stop(self) -> int:
        """One after its last picture."""
        return self.start + self.count


def pieces(batch: int, profiles: Sequence[Range]) -> list[Piece]:
    """Divide a batch, largest pieces first.

    Of the profiles that take what is left the narrowest runs it, since its kernels are chosen for the fewest sizes. If
    all are for larger batches, the one that needs the least padding; if all are for smaller ones, the largest runs as
    much as it can.

    Args:
        batch: number of pictures, at least 1.
        profiles: of the plan, at least one.
    """
    divided = []
    start = 0
    while start < batch:
        index, count, padded = _next(batch - start, profiles)
        divided.append(Piece(start, count, index, padded))
        start += count
    return divided


def capacity(batch: int, profiles: Sequence[Range]) -> int:
    """The largest piece, padding included, of all batches of 1 to `batch` pictures."""
    largest = max(maximum for _, _, maximum in profiles)
    return max(_next(count, profiles)[2] for count in range(1, min(batch, largest) + 1))


def _next(left: int, profiles: Sequence[Range]) -> tuple[int, int, int]:
    """Profile of the next piece, its pictures, and the batch that it runs with."""
    sizes = list(enumerate(profiles))
    fitting = [(most - least, index) for index, (least, _, most) in sizes if least <= left <= most]
    if fitting:
        return min(fitting)[1], left, left
    wider = [(least, index) for index, (least, _, _) in sizes if least > left]
    if wider:
        return min(wider)[1], left, min(wider)[0]
    most, index = max((most, -index) for index, (_, _, most) in sizes)
    return -index, most, most
