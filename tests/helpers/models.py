"""Models for tests: Segmenters with random weights, operators as one-node ONNX models, ONNX Runtime sessions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from helpers.cases import OpCase
from helpers.weights import random_weights
from numpy.typing import NDArray
from onnx import helper

from algm_trt.exporter.config import SegmenterConfig
from algm_trt.exporter.graph_builder import GraphBuilder
from algm_trt.exporter.segmenter import Segmenter, full_size_logits, normalise
from algm_trt.runtime.card import MergeSettings

Array = NDArray[Any]

TINY = SegmenterConfig(image_size=(128, 128), patch_size=16, d_model=64, n_layers=4, n_heads=2, d_ff=256, n_cls=12)
LINEAR = replace(TINY, decoder="linear", decoder_layers=0)
DISTILLED = replace(TINY, distilled=True, normalization="deit")
VIT_SMALL = SegmenterConfig(
    image_size=(512, 512), patch_size=16, d_model=384, n_layers=12, n_heads=6, d_ff=1536, n_cls=150, decoder_heads=6
)

Size = tuple[int, int]
TWO = MergeSettings((1, 3), (2, 2), 0.6)
LOCAL_ONLY = MergeSettings((2,), (2, 2), 0.6)
THREE = MergeSettings((1, 2, 4), (2, 2), 0.6)
NETWORKS: dict[str, tuple[SegmenterConfig, MergeSettings | None, Size]] = {
    "masks": (TINY, TWO, (128, 128)),
    "dense": (TINY, None, (128, 128)),
    "local only": (TINY, LOCAL_ONLY, (128, 128)),
    "three merges": (TINY, THREE, (128, 128)),
    "not square, window 2x4": (TINY, MergeSettings((1, 3), (2, 4), 0.5), (96, 192)),
    "padded": (TINY, TWO, (121, 95)),
    "padded, dense": (TINY, None, (121, 95)),
    "linear": (LINEAR, TWO, (128, 96)),
    "linear, dense": (LINEAR, None, (100, 128)),
    "distilled": (DISTILLED, TWO, (128, 128)),
    "one window": (TINY, TWO, (32, 32)),
    "one class": (replace(TINY, n_cls=1), TWO, (64, 64)),
}
"""Architecture, merging, and size of the pictures, by name: what every way to run a network has to run."""


def random_segmenter(config: SegmenterConfig, merge: MergeSettings | None = None, seed: int = 0) -> Segmenter:
    """A Segmenter whose every parameter is random and the same for the same seed."""
    model = Segmenter(config, merge)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    weights = {name: torch.from_numpy(value) for name, value in random_weights(shapes, seed).items()}
    model.load_state_dict(weights, strict=True)
    return model.eval()


def torch_outputs(model: Segmenter, images: NDArray[np.uint8], threshold: float | None = None) -> dict[str, Array]:
    """What the ONNX graph returns for images (B, H, W, 3), computed by the PyTorch model."""
    with torch.no_grad():
        out = model(normalise(torch.from_numpy(images), model.config.normalization), threshold)
        full = full_size_logits(out.logits, model.config.patch_size, (images.shape[1], images.shape[2]))
    return {
        "logits": out.logits.numpy(),
        "labels": full.argmax(dim=1).numpy(),
        "token_counts": out.token_counts.numpy(),
        "token_map": out.token_map.numpy(),
    }


def session(model: onnx.ModelProto, threads: int = 2) -> onnxruntime.InferenceSession:
    """An ONNX Runtime session on the CPU."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def onnx_outputs(
    running: onnxruntime.InferenceSession, images: NDArray[np.uint8], threshold: float | None = None
) -> dict[str, Array]:
    """Outputs by name of a complete model for images (B, H, W, 3)."""
    feed: dict[str, Array] = {"images": images}
    if threshold is not None:
        feed["threshold"] = np.array(threshold, np.float32)
    names = [output.name for output in running.get_outputs()]
    return dict(zip(names, running.run(names, feed), strict=True))


def one_node_model(case: OpCase) -> onnx.ModelProto:
    """The operator alone, with free dimensions, and the function body that the exporter ships for it."""
    inputs = case.inputs()
    outputs = case.op.outputs[: case.output_count]
    g = GraphBuilder("fp32")
    g.algm(case.op, [t.name for t in case.op.inputs], "node", [f"{t.name}_out" for t in outputs], **case.attributes)
    infos = [_info(t.name, value.dtype, value.ndim) for t, value in zip(case.op.inputs, inputs, strict=True)]
    types = [inputs[0].dtype if t.dtype == "x" else np.dtype(t.dtype) for t in outputs]
    ranks = [len(t.shape) for t in outputs]
    results = [_info(f"{t.name}_out", dtype, rank) for t, dtype, rank in zip(outputs, types, ranks, strict=True)]
    return g.model(case.op.name, infos, results)


def run_node(running: onnxruntime.InferenceSession, inputs: Sequence[Array]) -> list[Array]:
    """Outputs of a one-node model."""
    names = [value.name for value in running.get_inputs()]
    return list(running.run(None, dict(zip(names, inputs, strict=True))))


def _info(name: str, dtype: np.dtype[Any], rank: int) -> onnx.ValueInfoProto:
    free = [f"{name}_{axis}" for axis in range(rank)]
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(dtype), free)
