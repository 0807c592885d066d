"""Merged against dense on a CPU, and the cost of the labels: `python benchmarks/merging_cpu.py [--json FILE]`.

ViT-S/16, 512 x 512, 150 classes, random weights (the speed of a model does not depend on what it learnt, only on how
many tokens merge), one picture at a time through ONNX Runtime. The threshold is the one at which half of the windows of
the pictures merge. Merged and dense models take turns in one process on the same pictures; medians over pictures and
rounds.

The cost of the labels is that of the model's label operator run alone on the same logits (`in model`), and that of
`LogitField.labels`, which algm-infer uses to overlap windows (`in runtime`).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime as ort
from networks import BACKBONES, CLASSES, MERGE, halfway_threshold, random_config, random_segmenter
from numpy.typing import NDArray
from onnx import TensorProto, helper
from record import write_record

from algm_trt.exporter.graph import build_graph
from algm_trt.plugins.spec import LABELS
from algm_trt.runtime.decode import decode_image
from algm_trt.runtime.field import LogitField
from algm_trt.runtime.scenes import draw_scene
from algm_trt.runtime.windows import plan_whole

SIZE = (512, 512)
PATCH = 16
GRID = (SIZE[0] // PATCH, SIZE[1] // PATCH)
WINDOWS = 256
PLAN = plan_whole(SIZE, SIZE)


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

    def label(self, logits: NDArray[np.float32]) -> object:
        """For the label operator alone: labels from logits (1, K, h, w)."""
        scores = np.ascontiguousarray(logits.transpose(0, 2, 3, 1))
        return self.session.run(None, {self.inputs[0]: scores})


def labels_only(graph: onnx.ModelProto) -> onnx.ModelProto:
    """The label operator of a graph and what follows it, fed with class scores (1, h, w, K)."""
    cut = onnx.ModelProto()
    cut.CopyFrom(graph)
    nodes = [node for node in cut.graph.node if node.op_type == LABELS.name or node.name.startswith("labels/")]
    scores = helper.make_tensor_value_info(nodes[0].input[0], TensorProto.FLOAT, [1, *GRID, CLASSES])
    outputs = [value for value in cut.graph.output if value.name == "labels"]
    del cut.graph.node[:], cut.graph.input[:], cut.graph.output[:], cut.graph.initializer[:]
    cut.graph.node.extend(nodes)
    cut.graph.input.append(scores)
    cut.graph.output.extend(outputs)
    return cut


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

    images = pictures(arguments.pictures, arguments.count)
    config = random_config(arguments.backbone, SIZE[0])
    graph = build_graph(random_segmenter(config, MERGE), SIZE)
    dense_graph = build_graph(random_segmenter(config, None), SIZE)
    merged, dense, head = (Model(proto, arguments.threads) for proto in (graph, dense_graph, labels_only(graph)))

    def local_tokens(threshold: float) -> float:
        return statistics.fmean(int(merged.run(image, threshold)["token_counts"][0, 1]) for image in images)

    threshold = halfway_threshold(local_tokens, config)
    times: dict[str, list[float]] = {"merged": [], "dense": [], "labels in model": [], "labels in runtime": []}
    for _ in range(arguments.rounds):
        for image in images:
            logits = merged.run(image, threshold)["logits"]
            calls: dict[str, Callable[[], object]] = {
                "merged": lambda image=image: merged.run(image, threshold),
                "dense": lambda image=image: dense.run(image, threshold),
                "labels in model": lambda logits=logits: head.label(logits),
                "labels in runtime": lambda logits=logits: LogitField(PLAN, logits, PATCH).labels(),
            }
            for name, call in calls.items():
                times[name].append(seconds(call))
    counts = [merged.run(image, threshold)["token_counts"][0].tolist() for image in images]
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
        "labels_in_model_share": round(median["labels in model"] / median["merged"], 4),
        "labels_in_runtime_share": round(median["labels in runtime"] / median["merged"], 4),
    }
    for key, value in results.items():
        print(f"{key}: {value}")
    if arguments.json:
        write_record(arguments.json, results)


if __name__ == "__main__":
    main()
