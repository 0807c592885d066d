"""Quantised linear layers: their weights, where they stand, each against exact sums, and the model that they make."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from helpers.compare import assert_same_bits
from helpers.engines import tiny_model
from helpers.models import LINEAR, TINY, TWO, onnx_outputs, random_segmenter, session
from helpers.pictures import drawn_scene, noise
from numpy.typing import NDArray

from algm_trt.exporter.config import SegmenterConfig
from algm_trt.exporter.graph import build_graph
from algm_trt.exporter.quantization import quantize_weight
from algm_trt.runtime.backends.onnxruntime_engine import OnnxRuntimeEngine
from algm_trt.runtime.card import MergeSettings

SIZE = (128, 128)
LATE = MergeSettings((2,), (2, 2), 0.6)


@pytest.mark.parametrize("spread", [1e-12, 0.02, 1e6])
def test_a_weight_is_within_half_a_scale(spread: float) -> None:
    weight = (spread * np.random.default_rng(1).standard_normal((70, 50))).astype(np.float32)
    weight[:, 7] *= 1000
    values, scale = quantize_weight(weight)
    assert values.dtype == np.int8
    assert scale.dtype == np.float32
    assert (np.abs(values).max(axis=0) == 64).all(), "every channel uses all of its range"
    assert (np.abs(values * scale.astype(np.float64) - weight) <= 0.5001 * scale).all()


def test_two_products_never_saturate_sixteen_bits() -> None:
    """What processors without VNNI add up at once: two unsigned bytes times two bytes of a weight."""
    weight = np.array([[3.0, -3.0], [3.0, -3.0], [1.0, 1.0]], np.float32)
    values, _ = quantize_weight(weight)
    pair = 255 * values[:2].astype(np.int64).sum(axis=0)
    assert (np.abs(pair) <= np.iinfo(np.int16).max).all()
    assert np.abs(pair).max() == 2 * 255 * 64


@pytest.mark.parametrize("size", [0.0, 1e-40])
def test_a_channel_without_a_scale_is_zero(size: float) -> None:
    weight = np.ones((4, 2), np.float32)
    weight[:, 1] = size
    values, scale = quantize_weight(weight)
    assert (values[:, 1] == 0).all()
    assert scale[1] == 1


def _quantized_linear(x: NDArray[np.float32], weight: NDArray[np.float32], bias: NDArray[np.float32]) -> NDArray[Any]:
    """A quantised linear layer as ONNX defines DynamicQuantizeLinear, its sums exact."""
    low, high = min(x.min(), np.float32(0)), max(x.max(), np.float32(0))
    scale = (high - low) / np.float32(255)
    zero = np.clip(np.rint(-low / scale), 0, 255)
    x_quantized = np.clip(np.rint(x / scale) + zero, 0, 255).astype(np.int64) - int(zero)
    values, scales = quantize_weight(weight)
    return (x_quantized @ values.astype(np.int64)).astype(np.float32) * (scale * scales) + bias


def _quantized_layers(proto: onnx.ModelProto) -> list[str]:
    return [node.name.removesuffix("/matmul_integer") for node in proto.graph.node if node.op_type == "MatMulInteger"]


def _encoder_layers(first: int, count: int) -> list[str]:
    """Names of the linear layers behind the attention of a 1-based layer; 0: all."""
    parts = [(index, part) for index in range(count) for part in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")]
    if first:
        parts = parts[4 * (first - 1) + 2 :]
    return [f"encoder.blocks.{index}.{part}" for index, part in parts]


DECODER = ["decoder.proj_dec"] + [
    f"decoder.blocks.{index}.{part}" for index in range(2) for part in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
]


@pytest.mark.parametrize(
    ("config", "merge", "expected"),
    [
        (TINY, TWO, _encoder_layers(1, 4) + DECODER),
        (TINY, LATE, _encoder_layers(2, 4) + DECODER),
        (TINY, None, _encoder_layers(0, 4) + DECODER),
        (LINEAR, TWO, _encoder_layers(1, 4)),
        (LINEAR, None, _encoder_layers(0, 4)),
    ],
    ids=["masks", "masks, late", "masks, dense", "linear", "linear, dense"],
)
class TestGraph:
    def test_bytes_stand_behind_the_local_merge_and_make_no_scores(
        self, config: SegmenterConfig, merge: MergeSettings | None, expected: list[str]
    ) -> None:
        assert _quantized_layers(build_graph(random_segmenter(config, merge), SIZE, "int8")) == expected

    def test_each_layer_is_the_sum_of_its_bytes(
        self, config: SegmenterConfig, merge: MergeSettings | None, expected: list[str]
    ) -> None:
        model = random_segmenter(config, merge)
        weights = {name: value.detach().numpy() for name, value in model.state_dict().items()}
        proto = build_graph(model, SIZE, "int8")
        inputs = {node.name.removesuffix("/quantize"): node.input[0] for node in proto.graph.node}
        for name in dict.fromkeys([*(inputs[layer] for layer in expected), *(f"{layer}/bias" for layer in expected)]):
            proto.graph.output.add(name=name)
        values = onnx_outputs(session(proto), drawn_scene(*SIZE, seed=3)[None], merge.threshold if merge else None)
        for layer in expected:
            right = _quantized_linear(values[inputs[layer]], weights[f"{layer}.weight"].T, weights[f"{layer}.bias"])
            np.testing.assert_allclose(values[f"{layer}/bias"], right, rtol=1e-5, atol=1e-5, err_msg=layer)

    def test_the_local_merge_is_that_of_float32(
        self, config: SegmenterConfig, merge: MergeSettings | None, expected: list[str]
    ) -> None:
        """And so is what the scores say, on the whole: random weights spread them over a range of about four."""
        model = random_segmenter(config, merge)
        int8, exact = session(build_graph(model, SIZE, "int8")), session(build_graph(model, SIZE))
        for picture in (drawn_scene(*SIZE, seed=3), drawn_scene(*SIZE, seed=5)):
            threshold = merge.threshold if merge else None
            found = onnx_outputs(int8, picture[None], threshold)
            full = onnx_outputs(exact, picture[None], threshold)
            np.testing.assert_array_equal(found["token_counts"][:, :2], full["token_counts"][:, :2])
            if merge is LATE:
                np.testing.assert_array_equal(found["token_map"], full["token_map"])
            assert 1e-3 < np.abs(found["logits"] - full["logits"]).mean() < 0.2


@pytest.mark.parametrize("merge", [TWO, None], ids=["merged", "dense"])
def test_the_file_takes_one_picture_at_a_time(merge: MergeSettings | None) -> None:
    running = session(build_graph(random_segmenter(TINY, merge), SIZE, "int8"))
    pictures = np.stack([drawn_scene(*SIZE, seed=3), noise(*SIZE, seed=1)])
    threshold = merge.threshold if merge else None
    for value in (*running.get_outputs(), running.get_inputs()[0]):
        assert value.shape[0] == 1, value.name
    assert len(onnx_outputs(running, pictures[:1], threshold)["labels"]) == 1
    with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument, match="Got: 2 Expected: 1"):
        onnx_outputs(running, pictures, threshold)


@pytest.mark.parametrize("streams", [1, 2])
def test_a_picture_has_the_same_bits_in_any_batch(tmp_path: Path, streams: int) -> None:
    """The span of the activations is taken of one picture at a time, not of a batch."""
    path = tmp_path / "model.onnx"
    onnx.save(tiny_model(precision="int8"), path)
    engine = OnnxRuntimeEngine(path, streams=streams)
    pictures = np.stack([drawn_scene(*SIZE, seed=3), noise(*SIZE, seed=1), drawn_scene(*SIZE, seed=5)])
    together = engine.run(pictures)
    for index, picture in enumerate(pictures):
        assert_same_bits(engine.run(picture[None]).logits[0], together.logits[index], f"picture {index}")
    engine.close()
