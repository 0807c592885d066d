"""Write what `algm-doctor --selftest` runs: `python examples/record_selftest.py [FOLDER]`.

From the checkpoint `examples/sample` into `engines/sample`: the exported model, the operators one by one, and the
model's outputs on two drawn pictures. The pictures are such that noise does not change which tokens merge.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import helper

from algm_trt.engines.sample import Recorded
from algm_trt.exporter import ExportOptions, export_onnx
from algm_trt.exporter.checkpoint import load_checkpoint
from algm_trt.exporter.graph_builder import GraphBuilder
from algm_trt.exporter.segmenter import Segmenter, normalise, segmenter_from_checkpoint
from algm_trt.plugins.cases import Case, make_cases
from algm_trt.runtime.backends.onnxruntime_engine import OnnxRuntimeEngine
from algm_trt.runtime.scenes import draw_scene

ROOT = Path(__file__).resolve().parents[1]
CHECKPOINT = ROOT / "examples" / "sample"
SEEDS = range(3_000_000, 3_000_040)
PICTURES = 2
NOISE = 1e-5
NOISE_TRIALS = 8


def main(arguments: Sequence[str]) -> None:
    """Write the three files."""
    folder = Path(arguments[0]) if arguments else ROOT / "engines" / "sample"
    model = export_sample(folder / "model.onnx")
    onnx.save(operators_model(make_cases()), folder / "operators.onnx")
    record(model).save(folder / "recorded.npz")
    for name in ("model.onnx", "operators.onnx", "recorded.npz"):
        print(f"{folder / name}: {(folder / name).stat().st_size / 1024:.0f} KiB")


def export_sample(path: Path) -> Path:
    """The sample checkpoint as algm-export writes it, without the report beside it."""
    report = export_onnx(CHECKPOINT, path, ExportOptions(classes=CHECKPOINT / "classes.txt", verify=False))
    report.report_path.unlink()
    return report.path


def operators_model(cases: Sequence[Case]) -> onnx.ModelProto:
    """One graph with a node per case and the function bodies that the exporter ships."""
    g = GraphBuilder("fp32")
    inputs, outputs = [], []
    for case in cases:
        named = [f"{case.name}/{tensor.name}" for tensor in case.op.inputs]
        made = [f"{case.name}/{tensor.name}_out" for tensor in case.op.outputs[: case.outputs]]
        g.algm(case.op, named, case.name, made, **case.attributes)
        inputs += [_info(name, value) for name, value in zip(named, case.inputs, strict=True)]
        outputs += [_info(name, value) for name, value in zip(made, case.expected(), strict=True)]
    return g.model("operators", inputs, outputs)


def _info(name: str, value: np.ndarray) -> onnx.ValueInfoProto:
    free = [f"{name}_{axis}" for axis in range(value.ndim)]
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), free)


def record(path: Path) -> Recorded:
    """The model's outputs on the first drawn pictures whose merging does not hang on rounding."""
    checkpoint = load_checkpoint(CHECKPOINT)
    network = segmenter_from_checkpoint(checkpoint, checkpoint.merge)
    engine = OnnxRuntimeEngine(path, device="cpu", threads=1, own_labels=True)
    images = (draw_scene(*engine.card.size, seed).image for seed in SEEDS)
    chosen = np.stack(list(islice((image for image in images if steady(network, image)), PICTURES)))
    output = engine.run(chosen)
    return Recorded(chosen, output.logits, output.labels.astype(np.uint8), output.token_counts)


@torch.no_grad()
def steady(network: Segmenter, image: np.ndarray) -> bool:
    """Whether the same tokens merge when the input moves by one part in 100 000."""
    pixels = normalise(torch.from_numpy(image[None]), network.config.normalization)
    expected = network(pixels).token_map
    generator = torch.Generator().manual_seed(0)
    noises = (NOISE * torch.randn(pixels.shape, generator=generator) for _ in range(NOISE_TRIALS))
    return all(torch.equal(network(pixels + noise).token_map, expected) for noise in noises)


if __name__ == "__main__":
    main(sys.argv[1:])
