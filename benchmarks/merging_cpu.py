"""Merged against dense on a CPU, and the cost of the labels: `python benchmarks/merging_cpu.py [--json FILE]`.

ViT-S/16, 512 x 512, 150 classes, random weights (the speed of a model does not depend on what it learnt, only on how
many tokens merge), one picture at a time through ONNX Runtime, from pixels to labels. The threshold is the one at which
half of the windows of the pictures merge. Merged and dense models take turns in one process on the same pictures;
medians over pictures and rounds.

The engine leaves the labels of the model file out and makes them of its scores: `labels` is that part of the time.
`merged, labels of the file` is the file as other programs run it.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
from networks import BACKBONES, CLASSES, engine_threshold, random_checkpoint, random_config
from numpy.typing import NDArray
from record import write_record

from algm_trt.exporter import ExportOptions, export_onnx
from algm_trt.runtime.backends.onnxruntime_engine import OnnxRuntimeEngine
from algm_trt.runtime.decode import decode_image
from algm_trt.runtime.field import labels_of
from algm_trt.runtime.scenes import draw_scene

SIZE = (512, 512)
WINDOWS = 256


def engines(backbone: str, threads: int) -> tuple[OnnxRuntimeEngine, OnnxRuntimeEngine, OnnxRuntimeEngine]:
    """Merged, dense, and merged with the labels of the file."""
    with TemporaryDirectory() as text:
        folder = Path(text)
        checkpoint = random_checkpoint(random_config(backbone, SIZE[0]), folder)
        merged, dense = (
            export_onnx(checkpoint, folder / f"{merge}.onnx", ExportOptions(merge=merge, verify=False)).path
            for merge in (True, False)
        )
        opened = partial(OnnxRuntimeEngine, device="cpu", threads=threads)
        return opened(merged), opened(dense), opened(merged, own_labels=True)


def pictures(folder: Path | None, count: int) -> list[NDArray[np.uint8]]:
    """Pictures of the model's size: drawn, or the first of a folder."""
    if folder is None:
        return [draw_scene(*SIZE, seed).image for seed in range(count)]
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in {".jpg", ".jpeg", ".png"})
    return [cv2.resize(decode_image(path), SIZE[::-1], interpolation=cv2.INTER_AREA) for path in paths[:count]]


def seconds(function: Callable[[], object]) -> float:
    """Time of a call."""
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin


def main() -> None:
    """Measure, print, write JSON."""
    parser = argparse.ArgumentParser(description="Merged against dense on a CPU.")
    parser.add_argument("--backbone", choices=BACKBONES, default="vit_small")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pictures", type=Path, help="folder of pictures (default: drawn scenes)")
    parser.add_argument("--count", type=int, default=8, help="pictures")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="file for the results")
    arguments = parser.parse_args()

    images = [image[None] for image in pictures(arguments.pictures, arguments.count)]
    merged, dense, whole = engines(arguments.backbone, arguments.threads)

    threshold = engine_threshold(merged, [image[0] for image in images], random_config(arguments.backbone, SIZE[0]))
    times: dict[str, list[float]] = {"merged": [], "dense": [], "labels": [], "merged, labels of the file": []}
    for _ in range(arguments.rounds):
        for image in images:
            logits = merged.run(image, threshold).logits
            calls: dict[str, Callable[[], object]] = {
                "merged": lambda image=image: merged.run(image, threshold).labels,
                "dense": lambda image=image: dense.run(image).labels,
                "labels": lambda logits=logits: labels_of(logits, merged.card),
                "merged, labels of the file": lambda image=image: whole.run(image, threshold).labels,
            }
            for name, call in calls.items():
                times[name].append(seconds(call))
    counts = [merged.run(image, threshold).token_counts[0].tolist() for image in images]
    median = {name: statistics.median(values) for name, values in times.items()}
    results = {
        "what": f"{arguments.backbone} 512x512, {CLASSES} classes, ONNX Runtime, {arguments.threads} threads, batch 1",
        "pictures": str(arguments.pictures.name) if arguments.pictures else "drawn scenes",
        "threshold": threshold,
        "windows_merged": [round((1025 - local) / 3 / WINDOWS, 3) for _, local, _ in counts],
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
    if arguments.json:
        write_record(arguments.json, results)


if __name__ == "__main__":
    main()
