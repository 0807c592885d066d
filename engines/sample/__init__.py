"""What `algm-doctor --selftest` runs: a small trained model, the operators one by one, and recorded outputs.

`python examples/record_selftest.py` writes the files from `examples/sample`; a test exports it afresh and compares.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

SAMPLE_MODEL: Final = Path(__file__).with_name("model.onnx")
"""The checkpoint `examples/sample` as algm-export makes it: float32, merging, 10 classes, 192x192."""

OPERATORS_MODEL: Final = Path(__file__).with_name("operators.onnx")
"""A node for every case of `algm_trt.plugins.cases`: inputs `CASE/INPUT`, outputs `CASE/OUTPUT_out`."""

_RECORDED: Final = Path(__file__).with_name("recorded.npz")


@dataclass(frozen=True)
class Recorded:
    """Pictures and what the sample model made of them when it was recorded, on ONNX Runtime on a CPU.

    Attributes:
        images: (B, H, W, 3) uint8 RGB.
        logits: (B, K, h, w) float32.
        labels: (B, H, W) uint8.
        token_counts: (B, 3) int32.
    """

    images: NDArray[np.uint8]
    logits: NDArray[np.float32]
    labels: NDArray[np.uint8]
    token_counts: NDArray[np.int32]

    def save(self, path: Path) -> None:
        """Write the recording."""
        np.savez_compressed(
            path, images=self.images, logits=self.logits, labels=self.labels, token_counts=self.token_counts
        )


def recorded(path: Path = _RECORDED) -> Recorded:
    """Read the recording."""
    with np.load(path, allow_pickle=False) as data:
        return Recorded(data["images"], data["logits"], data["labels"], data["token_counts"])
