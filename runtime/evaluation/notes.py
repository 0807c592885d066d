"""What a reader of an evaluation should know about its figures and would not see in them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from algm_trt.runtime.card import ModelCard

_NUMBERED = re.compile(r"class \d+")
_NAMES_SHOWN = 3


def notes_on_names(cards: Mapping[str, ModelCard], expected: Sequence[str], where: str) -> list[str]:
    """A line for every model whose own names contradict the order of the classes.

    Numbered names ("class 7") contradict nothing, nor do case, spaces, hyphens and underscores.

    Args:
        cards: of the models, by their names.
        expected: names of the classes that are scored.
        where: they come from.
    """
    notes = []
    for name, card in cards.items():
        pairs = enumerate(zip(card.classes, expected, strict=False))
        unlike = [(number, pair) for number, pair in pairs if _are_unlike(*pair)]
        if unlike:
            number, (own, other) = unlike[0]
            more = f", and {len(unlike) - 1} more" if len(unlike) > 1 else ""
            notes.append(f'class {number} is "{own}" in {name}, "{other}" in {where}{more}: is the order the same?')
    return notes


def notes_on_means(iou: Sequence[NDArray[np.float64]], names: Sequence[str]) -> list[str]:
    """A line if the mean IoU of runs is over different sets of classes.

    Args:
        iou: (K,) of each run; NaN where a class occurs neither in the ground truth nor in the prediction.
        names: of the K classes.
    """
    occurs: list[NDArray[Any]] = [~np.isnan(values) for values in iou]
    varies = np.logical_or.reduce(occurs) & ~np.logical_and.reduce(occurs) if occurs else np.zeros(0, bool)
    if not varies.any():
        return []
    counts = ", ".join(f"{found.sum()} in ({number})" for number, found in enumerate(occurs, start=1))
    named = [name for name, differs in zip(names, varies, strict=True) if differs]
    more = ", ..." if len(named) > _NAMES_SHOWN else ""
    return [
        f"the mean IoU is over different sets of classes, those that occur: {counts}; "
        f"not in all: {', '.join(named[:_NAMES_SHOWN])}{more}"
    ]


def _are_unlike(own: str, other: str) -> bool:
    if _NUMBERED.fullmatch(own) or _NUMBERED.fullmatch(other):
        return False
    return _plain(own) != _plain(other)


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name.casefold())
