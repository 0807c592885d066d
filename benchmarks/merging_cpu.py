"""Merged against dense on a CPU, and the cost of the labels: `python benchmarks/merging_cpu.py [--json FILE]`.

ViT-S/16, 512 x 512, 150 classes, random weights (the speed of a model does not depend on what it learnt, only on how
many tokens merge), one picture at a time through ONNX Runtime, from pixels to labels. The threshold is the one at which
half of the windows of the pictures merge. Merged and dense models take turns in one process on the same pictures;
medians over pictures and rounds.

The engine leaves the labels of the model file out and makes them of its scores: `labels` is that part of the time.
`merged, labels of the file` is the file as other programs run it.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray
from parts.backends import exported
from parts.networks import BACKBONES, CLASSES, SIZE, random_checkpoint, random_config
from parts.pictures import load_pictures
from parts.record import recording_parser, write_record
from parts.thresholds import engine_threshold, windows_merged

from algm_trt.exporter.checkpoint import load_checkpoint
from algm_trt.exporter.config import SegmenterConfig
from algm_trt.runtime.backends.onnxruntime_engine import OnnxRuntimeEngine
from algm_trt.runtime.field import labels_of


@dataclass(frozen=True)
class Engines:
    """The network merging, dense, and merging with the labels of the model file."""

    merged: OnnxRuntimeEngine
    dense: OnnxRuntimeEngine
    whole: OnnxRuntimeEngine

    @classmethod
    def of(cls, config: SegmenterConfig, threads: int) -> Engines:
        """Export and open it."""
        with TemporaryDirectory() as text:
            folder = Path(text)
            paths = exported(load_checkpoint(random_checkpoint(config, folder)), folder, precisions=("fp32",))
            merged, dense = (paths[kind, "fp32"] for kind in ("merged", "dense"))
            opened = partial(OnnxRuntimeEngine, device="cpu", threads=threads)
            return cls(opened(merged), opened(dense), opened(merged, own_labels=True))

    def calls(self, image: NDArray[np.uint8], threshold: float) -> dict[str, Callable[[], object]]:
        """What is timed on one picture (1, H, W, 3)."""
        logits = self.merged.run(image, threshold).logits
        return {
            "merged": lambda: self.merged.run(image, threshold).labels,
            "dense": lambda: self.dense.run(image).labels,
            "labels": lambda: labels_of(logits, self.merged.card),
            "merged, labels of the file": lambda: self.whole.run(image, threshold).labels,
        }


def seconds(function: Callable[[], object]) -> float:
    """Time of a call."""
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin


def main() -> None:
    """Measure, print, write JSON."""
    parser = recording_parser(__doc__)
    parser.add_argument("--backbone", choices=BACKBONES, default="vit_small")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pictures", type=Path, help="folder of pictures (default: drawn scenes)")
    parser.add_argument("--count", type=int, default=8, help="pictures")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()

    config = random_config(arguments.backbone, SIZE)
    images, what = load_pictures(arguments.pictures, arguments.count, SIZE)
    engines = Engines.of(config, arguments.threads)
    threshold = engine_threshold(engines.merged, images, config)
    times = defaultdict(list)
    for _ in range(arguments.rounds):
        for image in images[:, None]:
            for name, call in engines.calls(image, threshold).items():
                times[name].append(seconds(call))
    counts = [engines.merged.run(image, threshold).token_counts[0].tolist() for image in images[:, None]]
    median = {name: statistics.median(values) for name, values in times.items()}
    results = {
        "what": f"{arguments.backbone} 512x512, {CLASSES} classes, ONNX Runtime, {arguments.threads} threads, batch 1",
        "pictures": what,
        "threshold": threshold,
        "windows_merged": windows_merged((local for _, local, _ in counts), config),
        "token_counts": counts,
        "median_ms": {name: round(1e3 * value, 1) for name, value in median.items()},
        "spread_ms": {
            name: [round(1e3 * float(value), 1) for value in np.percentile(values, [10, 90])]
            for name, values in times.items()
        },
        "speedup_merged_over_dense": round(median["dense"] / median["merged"], 2),
        "labels_share": round(median["labels"] / median["merged"], 4),
    }
    for key, value in results.items():
        print(f"{key}: {value}")
    write_record(arguments.json, results)


if __name__ == "__main__":
    main()
