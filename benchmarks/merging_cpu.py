"""Merged against dense on a CPU, and the cost of the labels: `python benchmarks/merging_cpu.py [--json FILE]`.

ViT-S/16, 512 x 512, 150 classes, random weights (the speed of a model does not depend on what it learnt, only on how
many tokens merge), one picture at a time through ONNX Runtime. The threshold is the one at which half of the windows of
the pictures merge. Merged and dense models take turns in one process on the same pictures; medians over pictures and
rounds.

The cost of the labels is the time of the model less that of the same model cut before its label operator (`in model`),
and that of `LogitField.labels`, which algm-infer uses instead to overlap windows (`in runtime`).
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from record import write_record

from algm_trt.exporter.config import SegmenterConfig
from algm_trt.exporter.graph import build_graph
from algm_trt.exporter.segmenter import Segmenter
from algm_trt.plugins.spec import LABELS
from algm_trt.runtime.card import MergeSettings
from algm_trt.runtime.decode import decode_image
from algm_trt.runtime.field import LogitField
from algm_trt.runtime.scenes import draw_scene
from algm_trt.runtime.windows import plan_whole

SIZE = (512, 512)
CLASSES = 150
WINDOWS = 256
MERGE = MergeSettings(layers=(1, 5), window=(2, 2), threshold=0.9)
BACKBONES = {"vit_tiny": (192, 3), "vit_small": (384, 6), "vit_base": (768, 12)}


def random_segmenter(backbone: str, merge: MergeSettings | None) -> Segmenter:
    """A 12-layer Segmenter with a mask decoder and weights as they are before training."""
    width, heads = BACKBONES[backbone]
    config = SegmenterConfig(
        image_size=SIZE,
        patch_size=16,
        d_model=width,
        n_layers=12,
        n_heads=heads,
        d_ff=4 * width,
        n_cls=CLASSES,
        decoder_heads=heads,
        backbone=backbone,
    )
    torch.manual_seed(0)
    model = Segmenter(config, merge).eval()
    for name, parameter in model.named_parameters():
        if name.startswith(("decoder.proj_patch", "decoder.proj_classes")):
            torch.nn.init.normal_(parameter, std=width**-0.5)
        elif parameter.dim() > 1:
            torch.nn.init.trunc_normal_(parameter, std=0.02)
    return model


class Model:
    """A graph in an ONNX Runtime session."""

    def __init__(self, graph: onnx.ModelProto, threads: int) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        self.session = ort.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
        self.inputs = [value.name for value in self.session.get_inputs()]

    def run(self, image: NDArray[np.uint8], threshold: float) -> dict[str, NDArray[np.generic]]:
        """Outputs by name for one picture."""
        feed = {"images": image[None], "threshold": np.array(threshold, np.float32)}
        names = [value.name for value in self.session.get_outputs()]
        return dict(zip(names, self.session.run(names, {name: feed[name] for name in self.inputs}), strict=True))

    def seconds(self, image: NDArray[np.uint8], threshold: float) -> float:
        """Time of one picture."""
        begin = time.perf_counter()
        self.run(image, threshold)
        return time.perf_counter() - begin


def without_labels(graph: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph without its label operator and what follows it."""
    cut = onnx.ModelProto()
    cut.CopyFrom(graph)
    nodes = [node for node in cut.graph.node if node.op_type != LABELS.name and not node.name.startswith("labels/")]
    outputs = [value for value in cut.graph.output if value.name != "labels"]
    del cut.graph.node[:], cut.graph.output[:]
    cut.graph.node.extend(nodes)
    cut.graph.output.extend(outputs)
    return cut


def halfway_threshold(model: Model, images: list[NDArray[np.uint8]]) -> float:
    """Threshold at which half of all windows merge."""
    low, high = -1.0, 1.0
    tokens_at_half = 1 + WINDOWS // 2 + (WINDOWS - WINDOWS // 2) * 4
    for _ in range(16):
        middle = (low + high) / 2
        left = statistics.fmean(int(model.run(image, middle)["token_counts"][0, 1]) for image in images)
        low, high = (middle, high) if left < tokens_at_half else (low, middle)
    return (low + high) / 2


def pictures(folder: Path | None, count: int) -> list[NDArray[np.uint8]]:
    """Pictures of the model's size: drawn, or the first of a folder."""
    if folder is None:
        return [draw_scene(*SIZE, seed).image for seed in range(count)]
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in {".jpg", ".jpeg", ".png"})
    return [cv2.resize(decode_image(path), SIZE[::-1], interpolation=cv2.INTER_AREA) for path in paths[:count]]


def label_seconds(logits: NDArray[np.float32]) -> float:
    """Time of the runtime's label head on the logits of one picture."""
    begin = time.perf_counter()
    LogitField(plan_whole(SIZE, SIZE), logits, 16).labels()
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

    images = pictures(arguments.pictures, arguments.count)
    graph = build_graph(random_segmenter(arguments.backbone, MERGE), SIZE)
    dense_graph = build_graph(random_segmenter(arguments.backbone, None), SIZE)
    models = {
        name: Model(proto, arguments.threads)
        for name, proto in (("merged", graph), ("dense", dense_graph), ("merged, no labels", without_labels(graph)))
    }
    threshold = halfway_threshold(models["merged"], images)
    times: dict[str, list[float]] = {name: [] for name in (*models, "labels in runtime")}
    for _ in range(arguments.rounds):
        for image in images:
            for name, model in models.items():
                times[name].append(model.seconds(image, threshold))
            output = models["merged"].run(image, threshold)
            times["labels in runtime"].append(label_seconds(output["logits"]))
    counts = [models["merged"].run(image, threshold)["token_counts"][0].tolist() for image in images]
    median = {name: statistics.median(values) for name, values in times.items()}
    in_model = median["merged"] - median["merged, no labels"]
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
        "labels_in_model_share": round(in_model / median["merged"], 4),
        "labels_in_runtime_share": round(median["labels in runtime"] / median["merged"], 4),
    }
    for key, value in results.items():
        print(f"{key}: {value}")
    if arguments.json:
        write_record(arguments.json, results)


if __name__ == "__main__":
    main()
