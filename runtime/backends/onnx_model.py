"""What the backends for model.onnx share: its outputs, its card, and errors of their libraries."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Final

from algm_trt.runtime.card import ModelCard
from algm_trt.runtime.engine import EngineError
from algm_trt.runtime.paths import printable

OUTPUTS: Final = ("logits", "labels", "token_counts", "token_map")
SCORES: Final = ("logits", "token_counts", "token_map")
"""The outputs of a model without its labels, see `onnx_scores`."""


def card_of(path: Path, text: str | None, outputs: AbstractSet[str], needed: Iterable[str]) -> ModelCard:
    """The card of a model file.

    Args:
        path: of the model, for the message.
        text: the card's entry in the metadata; None if there is none.
        outputs: names of the model's outputs, as a library sees it.
        needed: OUTPUTS or SCORES, which of them it must have.

    Raises:
        ModelCardError: the model is not from algm-export, or from another version of it.
    """
    return ModelCard.from_metadata(path, text if set(needed) <= outputs else None)


def path_text(path: Path) -> str:
    """The path of a model file for a library that is to read it: they take UTF-8 only.

    Raises:
        EngineError: it holds other bytes.
    """
    text = str(path)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise EngineError(
            f"{printable(path)}: CPU backends take paths in UTF-8 only; rename the file or its folder"
        ) from error
    return text


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its class where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
