"""Weights of quantised linear layers: dynamic per-tensor quantisation of activations, symmetric per-channel weights.

Activations are quantised while the model runs, by DynamicQuantizeLinear: to unsigned bytes within the span that all of
them have at that moment. Weights are signed bytes whose zero point is 0, with a scale for each output channel.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

# Signed bytes hold +-127, and +-64 of them are used: processors without VNNI add two products of an unsigned and a
# signed byte in a saturating int16, and 2 * 255 * 64 = 32640 still fits.
LARGEST: Final = 64


def quantize_weight(weight: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Quantise a weight symmetrically per output channel.

    Args:
        weight: (inputs, outputs).

    Returns:
        The quantised weight of -64 to 64, (inputs, outputs), and its scale, (outputs,): `quantized * scale` is within
        half a scale of the weight. A channel of zeros, and one too small for a scale that float32 can hold, is all
        zeros.
    """
    scale = np.abs(weight).max(axis=0) / np.float32(LARGEST)
    scale = np.where(scale >= np.finfo(np.float32).tiny, scale, np.float32(1))
    return np.rint(weight / scale).astype(np.int8), scale
