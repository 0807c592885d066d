"""How much a model computes per window, from its architecture and the tokens that are left at each stage.

Counted are the products of matrices in embedding, linear layers, attention and decoder. A multiplication with its
addition counts once, as in the GFLOPs of the paper; norms, activations, resizing and the similarities that merges look
at are left out: small beside the rest.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from algm_trt.runtime.card import ModelCard

_Counts: TypeAlias = NDArray[np.float64]

# As `SegmenterConfig.describe` of the exporter writes it, and no longer; the MLP is four times as wide as the rest
# unless it says so.
_ARCHITECTURE = re.compile(
    r"(ViT|DeiT distilled) d(?P<width>\d{1,5}) h\d+ L(?P<layers>\d{1,4})( ff(?P<hidden>\d{1,6}))? /\d+, "
    r"(?P<decoder>mask_transformer|linear)( x(?P<decoder_layers>\d{1,4}))?"
)


@dataclass(frozen=True)
class Operations:
    """What a model computes.

    Attributes:
        giga: billions of multiplications with their additions, mean per window.
        exact: whether the tokens at each layer are known; if not, `giga` is an upper bound.
    """

    giga: float
    exact: bool

    @property
    def text(self) -> str:
        """For people."""
        return f"{'' if self.exact else '<= '}{self.giga:.{1 if self.giga >= 10 else 2}f}"

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"per_window": self.giga, "exact": self.exact}


def operations_of(card: ModelCard, counts: NDArray[np.int32]) -> Operations | None:
    """Count what a model computes.

    With one local and one global merge the tokens of every layer are known; with more global ones, those between the
    merges are at most as many as after the local one.

    Args:
        card: of the model.
        counts: (W, 3) tokens of each window: before merging, after the local, after the last global merge.

    Returns:
        None where the card does not say what the model consists of.
    """
    found = _ARCHITECTURE.fullmatch(card.architecture)
    if found is None:
        return None
    width = int(found["width"])
    hidden = int(found["hidden"] or 4 * width)
    patches, classes = card.grid[0] * card.grid[1], len(card.classes)
    before, local, last = counts.astype(np.float64).T
    total = patches * 3 * card.patch_size**2 * width + np.zeros(len(counts))
    tokens, merges = before, card.merge.layers if card.merge else ()
    for layer in range(1, int(found["layers"]) + 1):
        total += _attention(tokens, width)
        if layer in merges:
            tokens = last if layer == merges[-1] else local
        total += _feed_forward(tokens, width, hidden)
    if found["decoder"] == "linear":
        total += (tokens if merges else patches) * width * classes
    else:
        inside = tokens - card.extra_tokens + classes
        block = _attention(inside, width) + _feed_forward(inside, width, hidden)
        total += tokens * width**2 + int(found["decoder_layers"] or 0) * block
        total += (patches + classes) * width**2 + patches * classes * width
    return Operations(float(total.mean()) / 1e9, exact=len(merges) <= 2)


def _attention(tokens: _Counts, width: int) -> _Counts:
    """Queries, keys, values and output of every token, and the two products of all tokens with all."""
    return 4 * tokens * width**2 + 2 * tokens**2 * width


def _feed_forward(tokens: _Counts, width: int, hidden: int) -> _Counts:
    """The two linear layers of an MLP."""
    return 2 * tokens * width * hidden
