"""The complete ONNX graph: valid, readable, equal to the PyTorch model, and the same for an image in any batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import onnx
import pytest
from helpers.chain import encoder_token_map
from helpers.compare import assert_same_bits
from helpers.models import (
    DISTILLED,
    LINEAR,
    LOCAL_ONLY,
    NETWORKS,
    THREE,
    TINY,
    TWO,
    VIT_SMALL,
    Size,
    onnx_outputs,
    random_segmenter,
    session,
    torch_outputs,
)
from helpers.pictures import checkerboard, drawn_scene, gradient, noise
from numpy.typing import NDArray

from algm_trt.exporter.config import ConfigError
from algm_trt.exporter.graph import build_graph
from algm_trt.exporter.graph_builder import GraphBuilder
from algm_trt.exporter.segmenter import Segmenter
from algm_trt.plugins import spec
from algm_trt.runtime.card import MergeSettings

Array = NDArray[Any]

NARROW = replace(TINY, d_model=40, n_heads=1, d_ff=90, n_cls=7, patch_size=8, image_size=(64, 64))
MANY_CLASSES = replace(TINY, n_cls=300, n_layers=2)

GRAPHS = NETWORKS | {
    "window 4x4": (TINY, MergeSettings((2, 3), (4, 4), 0.4), (128, 192)),
    "linear, local only": (LINEAR, LOCAL_ONLY, (128, 128)),
    "distilled, three merges": (DISTILLED, THREE, (96, 128)),
    "distilled, linear": (replace(LINEAR, distilled=True, normalization="deit"), TWO, (128, 128)),
    "distilled, dense": (DISTILLED, None, (128, 128)),
    "width 40, patch 8": (NARROW, TWO, (80, 48)),
    "300 classes": (MANY_CLASSES, MergeSettings((1, 2), (2, 2), 0.6), (64, 96)),
    "one class, linear": (replace(LINEAR, n_cls=1), TWO, (64, 64)),
}


@cache
def _model(name: str) -> tuple[Segmenter, Size]:
    config, merge, size = GRAPHS[name]
    return random_segmenter(config, merge), size


@cache
def _graph(name: str, precision: str) -> onnx.ModelProto:
    model, size = _model(name)
    return build_graph(model, size, precision)


def unlike_pictures(size: Size, count: int) -> NDArray[np.uint8]:
    """Pictures of which some merge nearly everything and some next to nothing: (count, H, W, 3)."""
    even = gradient(*size, (20, 30, 40), (25, 32, 41))
    made = [drawn_scene(*size, seed=seed) for seed in range(count)]
    made[1::4] = [noise(*size, seed=seed) for seed in range(len(made[1::4]))]
    made[2::4] = [even + np.uint8(20 * seed) for seed in range(len(made[2::4]))]
    made[3::8] = [checkerboard(*size, cell=24 + seed) for seed in range(len(made[3::8]))]
    return np.stack(made)


def test_a_constant_has_one_value() -> None:
    g = GraphBuilder("fp32")
    assert g.constant("axis", np.array([1], np.int64)) == g.constant("axis", np.array([1], np.int64)) == "axis"
    for other in (np.array([2], np.int64), np.array([1], np.int32), np.array([1, 1], np.int64)):
        with pytest.raises(ValueError, match="axis has another value already"):
            g.constant("axis", other)
    assert list(g.initializers) == ["axis"]


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("name", GRAPHS)
class TestValidity:
    def test_checker_and_strict_shape_inference(self, name: str, precision: str) -> None:
        proto = _graph(name, precision)
        onnx.checker.check_model(proto, full_check=True)
        onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=True)

    def test_inputs_and_outputs_are_those_of_the_documentation(self, name: str, precision: str) -> None:
        model, size = _model(name)
        graph = _graph(name, precision).graph
        grid = [-(-side // model.config.patch_size) for side in size]
        classes = model.config.n_cls
        label_type = onnx.TensorProto.INT32 if classes > 256 else onnx.TensorProto.UINT8
        batch = 1 if precision == "int8" else "batch"
        inputs = {"images": (onnx.TensorProto.UINT8, [batch, *size, 3])}
        if model.merge:
            inputs["threshold"] = (onnx.TensorProto.FLOAT, [])
        assert _signature(graph.input) == inputs
        assert _signature(graph.output) == {
            "logits": (onnx.TensorProto.FLOAT, [batch, classes, *grid]),
            "labels": (label_type, [batch, *size]),
            "token_counts": (onnx.TensorProto.INT32, [batch, 3]),
            "token_map": (onnx.TensorProto.INT32, [batch, *grid]),
        }

    def test_names_are_unique_and_say_where_they_are(self, name: str, precision: str) -> None:
        graph = _graph(name, precision).graph
        nodes = [node.name for node in graph.node]
        assert len(set(nodes)) == len(nodes)
        places = ("preprocess/", "encoder.", "decoder", "labels/", "tokens/")
        assert [node for node in nodes if not node.startswith(places)] == []
        written = [output for node in graph.node for output in node.output]
        assert len(set(written)) == len(written)
        assert all(written)
        read = {value for node in graph.node for value in node.input}
        assert {value.name for value in graph.initializer} <= read, "initialisers that nothing reads"

    def test_normalisations_are_of_several_values(self, name: str, precision: str) -> None:
        """ONNX Runtime 1.21 to 1.23 refuses one of a single value."""
        graph = _graph(name, precision).graph
        lengths = {tensor.name: tensor.dims for tensor in graph.initializer}
        scales = {node.input[1] for node in graph.node if node.op_type == "LayerNormalization"}
        assert scales
        assert all(lengths[scale][-1] > 1 for scale in scales)

    def test_each_operator_stands_where_the_network_needs_it(self, name: str, precision: str) -> None:
        model, _ = _model(name)
        proto = _graph(name, precision)
        ours = [node for node in proto.graph.node if node.domain == spec.DOMAIN]
        counts = {name: sum(node.op_type == name for node in ours) for name in spec.OPS}
        merges = len(model.merge.layers) if model.merge else 0
        config = model.config
        packed = config.n_layers + config.decoder_layers - model.merge.layers[0] if model.merge else 0
        masks = config.decoder == "mask_transformer"
        assert counts == {
            "AlgmLocalMerge": min(merges, 1),
            "AlgmGlobalMerge": max(merges - 1, 0),
            "AlgmPackedAttention": packed,
            "AlgmAppendTokens": int(bool(merges) and masks),
            "AlgmUnmerge": int(bool(merges)),
            "AlgmLabels": 1,
        }
        for node in ours:
            _check_attributes(node)
        assert {function.name for function in proto.functions} == {node.op_type for node in ours}


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", GRAPHS)
def test_uint8_is_only_converted_from_and_to_float32(name: str, precision: str) -> None:
    """In what TensorRT takes; int8 models are for ONNX Runtime."""
    graph = onnx.shape_inference.infer_shapes(_graph(name, precision), strict_mode=True).graph
    values = (*graph.input, *graph.value_info, *graph.output)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    bytes_ = {tensor for tensor, kind in types.items() if kind == onnx.TensorProto.UINT8}
    assert "images" in bytes_
    for node in graph.node:
        names = {*node.input, *node.output}
        if names & bytes_:
            assert node.op_type == "Cast", node.name
            assert {types[tensor] for tensor in names} == {onnx.TensorProto.UINT8, onnx.TensorProto.FLOAT}


def _signature(values: Sequence[onnx.ValueInfoProto]) -> dict[str, tuple[int, list[Any]]]:
    found = {}
    for value in values:
        tensor = value.type.tensor_type
        found[value.name] = (tensor.elem_type, [d.dim_param or d.dim_value for d in tensor.shape.dim])
    return found


def _check_attributes(node: onnx.NodeProto) -> None:
    """All attributes of the contract, within its bounds, and where TensorRT finds the plugin."""
    op = spec.OPS[node.op_type]
    given = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    assert given.pop("plugin_namespace") == b"algm"
    assert given.pop("plugin_version") == b"1"
    assert set(given) == {attribute.name for attribute in op.attributes}
    for attribute in op.attributes:
        value = given[attribute.name]
        values = value if attribute.kind == "ints" else [value]
        assert len(values) == attribute.length
        assert all(attribute.minimum <= v <= attribute.maximum for v in values)


@pytest.mark.parametrize("name", GRAPHS)
def test_onnx_runtime_agrees_with_pytorch(name: str) -> None:
    model, size = _model(name)
    images = unlike_pictures(size, 5)
    threshold = model.merge.threshold if model.merge else None
    actual = onnx_outputs(session(build_graph(model, size)), images, threshold)
    expected = torch_outputs(model, images)
    np.testing.assert_array_equal(actual["token_counts"], expected["token_counts"])
    np.testing.assert_array_equal(actual["token_map"], expected["token_map"])
    assert np.abs(actual["logits"] - expected["logits"]).max() < 1e-4
    assert (actual["labels"] == expected["labels"]).mean() >= 0.9995
    if model.merge and size != (32, 32):
        assert len(np.unique(actual["token_counts"][:, 1])) > 1, "the pictures should merge unlike numbers of tokens"


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_single_class_has_the_score_of_pytorch_in_every_bit(precision: str) -> None:
    model, size = _model("one class")
    image = unlike_pictures(size, 1)
    outputs = onnx_outputs(session(_graph("one class", precision)), image, TWO.threshold)
    assert_same_bits(outputs["logits"], torch_outputs(model, image)["logits"], "logits")
    assert not outputs["labels"].any()


@pytest.mark.parametrize("name", ["masks", "linear", "distilled", "dense", "width 40, patch 8"])
def test_float16_is_close_to_float32(name: str) -> None:
    """Where both merge the same tokens; a decision within float16's rounding may fall otherwise."""
    model, size = _model(name)
    images = unlike_pictures(size, 5)
    threshold = model.merge.threshold if model.merge else None
    half = onnx_outputs(session(build_graph(model, size, "fp16")), images, threshold)
    full = onnx_outputs(session(build_graph(model, size)), images, threshold)
    assert half["logits"].dtype == np.float32
    same = [np.array_equal(a, b) for a, b in zip(half["token_map"], full["token_map"], strict=True)]
    assert sum(same) >= 2
    for image in np.flatnonzero(same):
        assert np.abs(half["logits"][image] - full["logits"][image]).max() < 0.05
        assert (half["labels"][image] == full["labels"][image]).mean() > 0.98
    one_window = 3
    difference = np.abs(half["token_counts"] - full["token_counts"])
    assert (difference <= one_window + 0.05 * full["token_counts"]).all()


def test_weights_beyond_float16_are_refused() -> None:
    model = random_segmenter(TINY)
    model.encoder.blocks[1].mlp.fc1.weight.data[3, 5] = -1e6
    with pytest.raises(ConfigError, match=r"encoder\.blocks\.1\.mlp\.fc1\.weight.*1e\+06.*--precision fp32"):
        build_graph(model, (128, 128), "fp16")
    build_graph(model, (128, 128), "fp32")


# In float32. ONNX Runtime's own float16 softmax gives a row of a length that is no multiple of four other bits at
# another place in memory; the runtime's engine, which runs pictures one by one, is held to it in float16 too.
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    "name",
    [
        "masks",
        "dense",
        "linear",
        "distilled",
        "three merges",
        "width 40, patch 8",
        "padded",
        "one window",
        "one class",
        "one class, linear",
        "not square, window 2x4",
    ],
)
def test_an_image_has_the_same_bits_in_any_batch(name: str, threads: int) -> None:
    model, size = _model(name)
    _assert_invariant(model, size, threads, unlike_pictures(size, 11))


@pytest.mark.heavy
def test_an_image_of_512_pixels_has_the_same_bits_in_any_batch() -> None:
    config = replace(VIT_SMALL, d_model=128, n_heads=2, d_ff=512, n_layers=4, n_cls=50, decoder_heads=2)
    model = random_segmenter(config, TWO)
    _assert_invariant(model, (512, 512), 2, unlike_pictures((512, 512), 9))


def _assert_invariant(model: Segmenter, size: Size, threads: int, pictures: NDArray[np.uint8]) -> None:
    """Alone, in a batch of eight, in the reverse order, and beside other mates: all outputs bit for bit."""
    running = session(build_graph(model, size), threads)
    threshold = model.merge.threshold if model.merge else None
    alone = [onnx_outputs(running, picture[None], threshold) for picture in pictures]
    first = np.arange(8)
    for order in (first, first[::-1], np.arange(len(pictures))[-8:], np.array([0, 0, 1, 0, 0, 0, 0, 0])):
        batch = onnx_outputs(running, pictures[order], threshold)
        for place, index in enumerate(order):
            for output, value in batch.items():
                what = f"{output} of picture {index} at place {place} of {order.tolist()}"
                assert_same_bits(value[place], alone[index][output][0], what)


def test_vit_small_has_few_nodes() -> None:
    """The file opens in a viewer as a network, not as a heap of index arithmetic."""
    merge = MergeSettings((1, 5), (2, 2), 0.88)
    proto = build_graph(random_segmenter(VIT_SMALL, merge), (512, 512))
    assert len(proto.graph.node) < 450
    onnx.checker.check_model(proto, full_check=True)


@pytest.mark.parametrize("name", ["masks", "linear", "distilled", "padded"])
def test_a_threshold_that_nothing_reaches_gives_the_dense_network(name: str) -> None:
    config, _, size = GRAPHS[name]
    images = unlike_pictures(size, 3)
    merged = random_segmenter(config, LOCAL_ONLY)
    dense = torch_outputs(random_segmenter(config), images)
    assert np.abs(torch_outputs(merged, images, 2.0)["logits"] - dense["logits"]).max() < 1e-5
    on_onnx = onnx_outputs(session(build_graph(merged, size)), images, 2.0)
    assert np.abs(on_onnx["logits"] - dense["logits"]).max() < 2e-5
    np.testing.assert_array_equal(on_onnx["token_counts"], dense["token_counts"])
    np.testing.assert_array_equal(on_onnx["token_map"], dense["token_map"])


def test_the_threshold_is_an_input() -> None:
    """One file serves every operating point."""
    model, size = _model("masks")
    running = session(build_graph(model, size))
    images = unlike_pictures(size, 4)
    counts = [onnx_outputs(running, images, t)["token_counts"][:, 1] for t in (-1.0, 0.3, 0.6, 0.9, 2.0)]
    assert (counts[0] == 1 + 16).all()
    assert (counts[-1] == 1 + 64).all()
    assert all((low <= high).all() for low, high in pairwise(counts))


@pytest.mark.parametrize("name", ["distilled", "distilled, three merges", "masks", "not square, window 2x4"])
def test_merging_protects_the_extra_tokens(name: str) -> None:
    """Both extra tokens of a distilled backbone stay, where the official code fails: against a plain NumPy chain."""
    model, size = _model(name)
    images = unlike_pictures(size, 4)
    maps = encoder_token_map(model, images)
    np.testing.assert_array_equal(torch_outputs(model, images)["token_map"].reshape(len(images), -1), maps)
    threshold = model.merge.threshold if model.merge else None
    outputs = onnx_outputs(session(build_graph(model, size)), images, threshold)
    np.testing.assert_array_equal(outputs["token_map"].reshape(len(images), -1), maps)
    assert outputs["token_map"].min() == model.config.extra_tokens
