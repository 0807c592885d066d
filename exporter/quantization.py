"""Weights of linear layers in eight bits, for products whose other factor is quantised while the model runs."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

# Seven bits and a sign would do, six are used: processors without VNNI add two products of an unsigned and a signed
# byte in 16 bits, and 2 * 255 * 64 is the most of them that cannot saturate.
LARGEST: Final = 64


def quantize_weight(weight: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """A weight as bytes, with a scale for each output channel.

    Args:
        weight: (inputs, outputs).

    Returns:
        Bytes of -64 to 64, (inputs, outputs), and their unit, (outputs,): `bytes * unit` is within half a unit of the
        weight. A channel of zeros, and one too small for a unit that float32 can hold, is all zeros.
    """
    unit = np.abs(weight).max(axis=0) / np.float32(LARGEST)
    unit = np.where(unit >= np.finfo(np.float32).tiny, unit, np.float32(1))
    return np.rint(weight / unit).astype(np.int8), unit
