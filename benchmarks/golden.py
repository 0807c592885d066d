"""Distance from the official code: `python benchmarks/golden.py GOLDEN [--json FILE]`.

GOLDEN is a folder of outputs of the official code (models, pictures, cases with token maps, scores and label maps), one
picture per batch. PyTorch and ONNX Runtime run the same pictures; the table has the largest |difference| of the class
scores, the share of equal labels, and whether token counts and token maps are equal. The last case is a whole picture
in sliding windows.
"""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from parts.record import recording_parser, write_record
from PIL import Image

from algm_trt.exporter import ExportOptions, export_onnx, load_checkpoint
from algm_trt.exporter.segmenter import full_size_logits, normalise, segmenter_from_checkpoint
from algm_trt.runtime.backends.onnxruntime_engine import OnnxRuntimeEngine
from algm_trt.runtime.card import MergeSettings
from algm_trt.runtime.decode import decode_image
from algm_trt.runtime.engine import open_engine
from algm_trt.runtime.engine_options import EngineOptions
from algm_trt.runtime.field import LogitField
from algm_trt.runtime.windows import WindowPlan, crop

Arrays = dict[str, NDArray[Any]]


def official_merge(meta: dict[str, Any]) -> MergeSettings:
    """Merge settings of a case."""
    return MergeSettings(tuple(meta["selected_layers"]), tuple(meta["merging_window_size"]), meta["threshold"])


def run_onnx(model: Path, image: NDArray[np.uint8], merge: MergeSettings | None, folder: Path) -> Arrays:
    """Outputs of the exported model for one picture."""
    options = ExportOptions(size=(image.shape[0], image.shape[1]), verify=False, **_flags(merge))
    path = export_onnx(model, folder / "model.onnx", options).path
    engine = OnnxRuntimeEngine(path, device="cpu", own_labels=True)
    output = engine.run(image[None])
    return {"logits": output.logits, "labels": output.labels, "counts": output.token_counts, "map": output.token_map}


@torch.no_grad()
def run_torch(model: Path, image: NDArray[np.uint8], merge: MergeSettings | None) -> Arrays:
    """Outputs of the PyTorch model for one picture."""
    network = segmenter_from_checkpoint(load_checkpoint(model), merge)
    output = network(normalise(torch.from_numpy(image[None]), network.config.normalization))
    labels = full_size_logits(output.logits, network.config.patch_size, (image.shape[0], image.shape[1])).argmax(1)
    found = {"logits": output.logits, "labels": labels, "counts": output.token_counts, "map": output.token_map}
    return {name: value.numpy() for name, value in found.items()}


def compare(found: Arrays, arrays: Arrays, kind: str, labels: NDArray[np.uint8], extra: int) -> dict[str, Any]:
    """One backend against the official outputs of one case."""
    row: dict[str, Any] = {
        "max_score_difference": float(np.abs(found["logits"] - arrays[f"{kind}_masks"]).max()),
        "labels_equal": float(np.mean(found["labels"][0] == labels)),
    }
    final = [key for key in arrays if key.startswith(f"{kind}_m") and key.endswith("_index")]
    if final:
        official = arrays[sorted(final)[-1]][0, extra:]
        row["patches_in_another_token"] = int(np.sum(found["map"].ravel() != official))
        sizes = [len(arrays[key.replace("_index", "_size")][0]) for key in sorted(final)]
        row["token_counts_equal"] = found["counts"][0, 1:].tolist() == [sizes[0], sizes[-1]]
    return row


def forward_cases(golden: Path) -> list[dict[str, Any]]:
    """All cases of single pictures whose model is there."""
    rows = []
    for case in sorted((golden / "cases").iterdir()):
        meta = json.loads((case / "meta.json").read_text())
        model = golden / "models" / meta["model"]
        if meta["mode"] != "forward" or not model.is_dir():
            continue
        arrays = dict(np.load(case / "arrays.npz"))
        for kind, index in _kinds(arrays):
            image = decode_image(golden / "images" / f"{meta['images'][index]}.png")
            merge = None if kind == "pure" else official_merge(meta)
            labels = decode_labels(case / f"{kind}.png")
            extra = load_checkpoint(model).config.extra_tokens
            with TemporaryDirectory() as folder:
                found = {
                    "pytorch": run_torch(model, image, merge),
                    "onnxruntime": run_onnx(model, image, merge, Path(folder)),
                }
            for backend, outputs in found.items():
                row = {"case": case.name, "kind": kind, "backend": backend}
                rows.append(row | compare(outputs, arrays, kind, labels, extra))
    return rows


def sliding_case(golden: Path) -> list[dict[str, Any]]:
    """A picture in sliding windows, one window per forward, dense and merged."""
    case = golden / "cases" / "c08_sliding_768x1138"
    meta = json.loads((case / "meta.json").read_text())
    canvas = decode_image(golden / "images" / f"{meta['images'][0]}.png")
    anchors = [tuple(sorted({anchor[axis] for anchor in meta["anchors"]})) for axis in (0, 1)]
    window = (meta["window_size"],) * 2
    plan = WindowPlan(tuple(meta["ori_shape"]), (canvas.shape[0], canvas.shape[1]), window, *anchors)
    rows = []
    for kind, merge in (("pure", None), ("algm_bs1", official_merge(meta))):
        options = ExportOptions(size=window, verify=False, **_flags(merge))
        with TemporaryDirectory() as folder:
            path = export_onnx(golden / "models" / meta["model"], Path(folder) / "model.onnx", options).path
            engine = open_engine(path, EngineOptions(device="cpu"))
        output = engine.run(np.stack([crop(canvas, plan, index) for index in range(len(plan))]))
        labels = LogitField(plan, output.logits, engine.card.patch_size).labels()
        equal = float(np.mean(labels == decode_labels(case / f"{kind}.png")))
        rows.append({"case": case.name, "kind": kind, "backend": "onnxruntime", "labels_equal": equal})
    return rows


def decode_labels(path: Path) -> NDArray[np.uint8]:
    """A label map as stored."""
    return np.asarray(Image.open(path))


def _kinds(arrays: Arrays) -> list[tuple[str, int]]:
    """Which outputs of a case were made with one picture per batch: name, and index of the picture."""
    alone = [
        (key.removesuffix("_masks"), int(key.split("_")[2]))
        for key in arrays
        if key.startswith("algm_alone_") and key.endswith("_masks")
    ]
    single = [(kind, 0) for kind in ("pure", "algm") if f"{kind}_masks" in arrays]
    return alone or single


def _flags(merge: MergeSettings | None) -> dict[str, Any]:
    if merge is None:
        return {"merge": False}
    return {"merge_layers": merge.layers, "merge_window": merge.window, "threshold": merge.threshold}


def main() -> None:
    """Compare, print, write JSON."""
    parser = recording_parser(__doc__)
    parser.add_argument("golden", type=Path, help="folder of outputs of the official code")
    arguments = parser.parse_args()
    rows = forward_cases(arguments.golden) + sliding_case(arguments.golden)
    for row in rows:
        print(
            "  ".join(
                f"{key}={value:.3g}" if isinstance(value, float) else f"{key}={value}" for key, value in row.items()
            )
        )
    forward = [row for row in rows if "max_score_difference" in row]
    results = {
        "cases": len(rows),
        "max_score_difference": max(row["max_score_difference"] for row in forward),
        "least_labels_equal": min(row["labels_equal"] for row in forward),
        "token_counts_equal": all(row.get("token_counts_equal", True) for row in forward),
        "patches_in_another_token": sum(row.get("patches_in_another_token", 0) for row in forward),
        "least_labels_equal_sliding": min(row["labels_equal"] for row in rows if row not in forward),
        "rows": rows,
    }
    print({key: value for key, value in results.items() if key != "rows"})
    write_record(arguments.json, results)


if __name__ == "__main__":
    main()
