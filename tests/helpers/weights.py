"""Random weights for a Segmenter of any shape: the same for the same seed and name, on every machine and version.

Needs NumPy only, so that the script which runs the official code makes the same weights as the tests. Drawn uniformly
from `RandomState`, whose stream NumPy has frozen: integers and exact arithmetic, no function of a mathematics library.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Shapes = Mapping[str, tuple[int, ...]]
Weights = dict[str, NDArray[np.float32]]

# Spread of the parameters that are not matrices; the others have unit gain.
_SPREAD = {"pos_embed": 0.3, "cls_token": 0.5, "dist_token": 0.5, "cls_emb": 1.0, "bias": 0.05}
_GAIN = {"proj.weight": 1.0, "qkv.weight": 1.5}


def random_weights(shapes: Shapes, seed: int = 0) -> Weights:
    """Float32 weights for every name; norms are near the identity, matrices keep the size of what they multiply."""
    return {name: _random_weight(name, shape, seed) for name, shape in shapes.items()}


def _random_weight(name: str, shape: tuple[int, ...], seed: int) -> NDArray[np.float32]:
    random = np.random.RandomState((zlib.crc32(name.encode()) + seed) % 2**32)
    values = (2 * random.random_sample(shape) - 1) * np.sqrt(3.0)
    last = name.rsplit(".", 1)[-1]
    if last in _SPREAD:
        values *= _SPREAD[last]
    elif len(shape) == 1:
        values = 1 + 0.1 * values
    else:
        gain = next((gain for suffix, gain in _GAIN.items() if name.endswith(suffix)), 1.0)
        values *= gain / np.sqrt(np.prod(shape[1:]))
    return np.asarray(values, np.float32)


def weights_sha256(weights: Weights) -> str:
    """Checksum of names and values."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode() + weights[name].tobytes())
    return digest.hexdigest()
