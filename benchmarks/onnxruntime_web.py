"""Model files in a browser's ONNX Runtime: `python benchmarks/onnxruntime_web.py [--json FILE]`.

onnxruntime-web is ONNX Runtime compiled to WebAssembly. Node.js runs it here, on one thread, with the code that a
browser runs; npm fetches it. Two networks, dense and merged in turns, one picture at a time, from pixels to labels: the
trained sample, and a ViT-S/16 of 512x512 and 150 classes with random weights at the threshold at which half of the
windows merge. All outputs are compared with those of ONNX Runtime in Python.
"""

from __future__ import annotations

import json
import statistics
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from parts.backends import exported
from parts.networks import SAMPLE, SIZE, random_checkpoint, random_config
from parts.record import recording_parser, write_record
from parts.thresholds import engine_threshold

from algm_trt.exporter.checkpoint import load_checkpoint
from algm_trt.runtime.backends.onnxruntime_engine import OnnxRuntimeEngine
from algm_trt.runtime.scenes import draw_scene

SCRIPT: Final = Path(__file__).with_suffix(".mjs")


@dataclass(frozen=True)
class Model:
    """A model file to run, and the threshold to run it with."""

    name: str
    path: Path
    threshold: float | None

    def outputs(self, images: NDArray[np.uint8]) -> Iterator[dict[str, NDArray[Any]]]:
        """What ONNX Runtime in Python makes of each picture of (B, H, W, 3)."""
        session = ort.InferenceSession(self.path, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        merging = {} if self.threshold is None else {"threshold": np.array(self.threshold, np.float32)}
        for image in images:
            yield dict(zip(names, session.run(names, {"images": image[None]} | merging), strict=True))


def install(folder: Path, version: str) -> str:
    """Fetch onnxruntime-web into a folder; returns its version."""
    (folder / "package.json").write_text("{}")
    package = f"onnxruntime-web@{version}"
    subprocess.run(["npm", "install", "--no-audit", "--no-fund", package], cwd=folder, check=True, capture_output=True)
    installed = json.loads((folder / "node_modules" / "onnxruntime-web" / "package.json").read_text())
    return str(installed["version"])


def in_node(models: list[Model], images: NDArray[np.uint8], rounds: int, packages: Path, folder: Path) -> list[float]:
    """Run models on pictures (B, H, W, 3) in Node.js; outputs go to `folder`. Returns medians in milliseconds."""
    pictures = folder / "pictures.rgb"
    images.tofile(pictures)
    job = {
        "packages": str(packages),
        "folder": str(folder),
        "pictures": str(pictures),
        "size": images.shape[1:3],
        "rounds": rounds,
        "models": [{"name": m.name, "path": str(m.path), "threshold": m.threshold} for m in models],
    }
    (folder / "job.json").write_text(json.dumps(job))
    subprocess.run(["node", str(SCRIPT), str(folder / "job.json")], check=True)
    return [statistics.median(times) for times in json.loads((folder / "times.json").read_text())]


def agreement(model: Model, images: NDArray[np.uint8], folder: Path) -> dict[str, Any]:
    """How far the outputs in `folder` are from those of ONNX Runtime in Python."""
    distance, labels, counts = 0.0, [], 0
    for index, here in enumerate(model.outputs(images)):
        there = {
            name: np.fromfile(folder / f"{model.name}.{index}.{name}", value.dtype).reshape(value.shape)
            for name, value in here.items()
        }
        distance = max(distance, float(np.abs(here["logits"] - there["logits"]).max()))
        labels.append(float((here["labels"] == there["labels"]).mean()))
        counts += int((here["token_counts"] == there["token_counts"]).all())
    return {"max_logit_difference": distance, "labels_equal": min(labels), "pictures_with_equal_counts": counts}


def measure(network: str, count: int, rounds: int, packages: Path) -> dict[str, Any]:
    """One network, dense and merged."""
    with TemporaryDirectory() as text:
        folder = Path(text)
        config = random_config("vit_small", SIZE)
        checkpoint = load_checkpoint(SAMPLE if network == "sample" else random_checkpoint(config, folder))
        paths = exported(checkpoint, folder, precisions=("fp32",))
        engine = OnnxRuntimeEngine(paths["merged", "fp32"], device="cpu")
        height, width = engine.card.size
        images = np.stack([draw_scene(height, width, seed).image for seed in range(count)])
        trained = engine.card.merge.threshold if engine.card.merge else None
        threshold = trained if network == "sample" else engine_threshold(engine, images, config)
        at = {"dense": None, "merged": threshold}
        models = [Model(kind, path, at[kind]) for (kind, _), path in paths.items()]
        medians = in_node(models, images, rounds, packages, folder)
        rows = [
            {"model": model.name, "ms": round(median, 1)} | agreement(model, images, folder)
            for model, median in zip(models, medians, strict=True)
        ]
    return {"network": network, "input": [height, width], "threshold": threshold, "pictures": count, "models": rows}


def main() -> None:
    """Fetch, run, compare, print, write JSON."""
    parser = recording_parser(__doc__)
    parser.add_argument("--version", default="latest", help="of onnxruntime-web")
    parser.add_argument("--pictures", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with TemporaryDirectory() as text:
        packages = Path(text)
        version = install(packages, arguments.version)
        node = subprocess.run(["node", "--version"], check=True, capture_output=True, text=True).stdout.strip()
        results = [
            measure(network, arguments.pictures, arguments.rounds, packages) for network in ("sample", "vit_small")
        ]
    for result in results:
        for row in result["models"]:
            print(result["network"], *(f"{key}={value}" for key, value in row.items()))
    record = {"onnxruntime_web": version, "node": node, "rounds": arguments.rounds, "results": results}
    write_record(arguments.json, record)


if __name__ == "__main__":
    main()
