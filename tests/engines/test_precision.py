"""The float16 conversion: the exporter's graph, islands with reasons, refinements, weights that do not fit."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from helpers.engines import tiny_model, with_initializer
from helpers.models import DISTILLED, LINEAR, TINY, TWO, random_segmenter
from helpers.rtx import build_with_rtx
from onnx import TensorProto

from algm_trt.engines.precision import ISLANDS, REFINEMENTS, PrecisionError, float16_tensors, to_float16
from algm_trt.engines.rounding import float16_names
from algm_trt.engines.source import card_of, without_functions
from algm_trt.exporter.config import SegmenterConfig
from algm_trt.exporter.graph import build_graph
from algm_trt.plugins import spec
from algm_trt.runtime.card import MergeSettings


def structure(model: onnx.ModelProto) -> list[str]:
    """A hash per node of everything that it computes, names aside: operator, attributes, weights, inputs."""
    weights = {
        tensor.name: (tensor.data_type, onnx.numpy_helper.to_array(tensor).tobytes())
        for tensor in model.graph.initializer
    }
    values: dict[str, object] = {value.name: ("input", value.name) for value in model.graph.input}
    hashes = []
    for node in model.graph.node:
        attributes = sorted((attribute.name, attribute.SerializeToString()) for attribute in node.attribute)
        inputs = [values[name] if name in values else weights[name] for name in node.input]
        text = repr((node.op_type, node.domain, attributes, inputs))
        hashes.append(hashlib.sha256(text.encode()).hexdigest())
        values |= {name: (hashes[-1], index) for index, name in enumerate(node.output)}
    return hashes


@pytest.mark.parametrize("size", [(128, 128), (120, 100)])
@pytest.mark.parametrize("merge", [TWO, None], ids=["merging", "dense"])
@pytest.mark.parametrize(
    "config", [TINY, LINEAR, DISTILLED, replace(TINY, n_cls=1)], ids=["mask", "linear", "distilled", "one class"]
)
def test_conversion_gives_the_graph_of_the_exporter(
    config: SegmenterConfig, merge: MergeSettings | None, size: tuple[int, int]
) -> None:
    if merge is not None and size != (128, 128):
        merge = replace(merge, window=(2, 7))
    converted = to_float16(tiny_model(config, merge, size))
    exported = tiny_model(config, merge, size, precision="fp16")
    assert structure(converted) == structure(exported)
    assert converted.graph.output == exported.graph.output
    assert converted.functions == exported.functions
    assert converted.opset_import == exported.opset_import
    assert card_of(converted) == card_of(exported)
    onnx.checker.check_model(converted, full_check=True)


def test_the_model_given_is_not_changed() -> None:
    model = tiny_model()
    before = model.SerializeToString(deterministic=True)
    to_float16(model)
    assert model.SerializeToString(deterministic=True) == before


def test_float16_export_passes_unchanged() -> None:
    model = tiny_model(precision="fp16")
    assert to_float16(model) is model


@pytest.mark.parametrize("refinements", [0, 1, 2])
def test_no_cast_is_around_a_softmax(refinements: int) -> None:
    model = to_float16(tiny_model(), refinements)
    casts = {name for node in model.graph.node if node.op_type == "Cast" for name in (*node.input, *node.output)}
    softmaxes = [node for node in model.graph.node if node.op_type == "Softmax"]
    assert softmaxes
    assert all(not casts & {*node.input, *node.output} for node in softmaxes)


def test_islands_are_few_and_each_has_a_reason() -> None:
    assert [island.name for island in ISLANDS] == ["preprocessing", "layer normalisation", "class scores"]
    assert [island.name for island in REFINEMENTS] == ["merged stream", "before the first merge"]
    assert all(len(island.reason) > 40 for island in (*ISLANDS, *REFINEMENTS))


def test_all_weights_outside_islands_are_float16() -> None:
    model = to_float16(tiny_model())
    normal = {name for node in model.graph.node if node.op_type == "LayerNormalization" for name in node.input[1:]}
    floats = {tensor.name for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT}
    assert floats == normal | {"preprocess.mean", "preprocess.std"}


def test_a_weight_of_an_island_and_of_another_node_is_there_twice() -> None:
    model, shared = tiny_model(), "encoder.blocks.0.norm1.bias"
    other = next(node for node in model.graph.node if "encoder.blocks.0.mlp.fc2.bias" in node.input)
    other.input[list(other.input).index("encoder.blocks.0.mlp.fc2.bias")] = shared
    converted = to_float16(model)
    types = {tensor.name: tensor.data_type for tensor in converted.graph.initializer if shared in tensor.name}
    assert types == {shared: TensorProto.FLOAT, f"{shared}/fp16": TensorProto.FLOAT16}
    onnx.checker.check_model(converted, full_check=True)


def merges(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type in (spec.LOCAL_MERGE.name, spec.GLOBAL_MERGE.name)]


def upstream(model: onnx.ModelProto, name: str) -> set[str]:
    """Names of all tensors that a tensor depends on, its own included."""
    maker = {output: node for node in model.graph.node for output in node.output}
    found, waiting = set[str](), [name]
    while waiting:
        if (tensor := waiting.pop()) not in found:
            found.add(tensor)
            waiting += maker[tensor].input if tensor in maker else []
    return found


@pytest.mark.parametrize("config", [TINY, LINEAR, DISTILLED], ids=["mask", "linear", "distilled"])
@pytest.mark.parametrize("layers", [(1, 3), (2, 3), (2,), (1, 2, 3)])
def test_merged_stream_is_float32_up_to_the_last_merge(config: SegmenterConfig, layers: tuple[int, ...]) -> None:
    model = to_float16(tiny_model(config, replace(TWO, layers=layers)), 1)
    onnx.checker.check_model(model, full_check=True)
    halves = float16_names(model)
    assert {node.input[0] for node in merges(model)}.isdisjoint(halves)
    last = layers[-1] - 1
    sums = [node.output[0] for node in model.graph.node if node.name.endswith(("/positions", "/residual"))]
    inside = [name for name in sums if name in upstream(model, f"encoder.blocks.{last}.attn/residual")]
    assert len(inside) == 2 * layers[-1]
    assert set(sums) & halves == set(sums) - set(inside)
    products = {node.output[0] for node in model.graph.node if node.op_type in ("MatMul", "AlgmPackedAttention")}
    assert products - halves <= {"decoder/cosines"}


@pytest.mark.parametrize("layers", [(1, 3), (2, 3), (2,)])
def test_nothing_is_rounded_before_the_first_merge(layers: tuple[int, ...]) -> None:
    model = to_float16(tiny_model(merge=replace(TWO, layers=layers)), 2)
    onnx.checker.check_model(model, full_check=True)
    local = merges(model)[0].input[0]
    assert upstream(model, local).isdisjoint(float16_names(model))
    floats = {tensor.name for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT}
    assert f"encoder.blocks.{layers[0] - 1}.attn.proj.weight_t" in floats
    assert f"encoder.blocks.{layers[0] - 1}.mlp.fc1.weight_t" not in floats


def test_dense_networks_have_nothing_to_refine() -> None:
    dense = tiny_model(merge=None)
    assert structure(to_float16(dense, 2)) == structure(to_float16(dense))


@pytest.mark.rtx
@pytest.mark.heavy
@pytest.mark.parametrize("refinements", [0, 1, 2])
def test_converted_vit_small_builds(refinements: int, plugin_library: Path) -> None:
    config = SegmenterConfig(
        image_size=(512, 512), patch_size=16, d_model=384, n_layers=12, n_heads=6, d_ff=1536, n_cls=150, decoder_heads=6
    )
    merge = MergeSettings(layers=(1, 5), window=(2, 2), threshold=0.9)
    model = to_float16(build_graph(random_segmenter(config, merge), (512, 512)), refinements)
    profile = {"images": ((1, 512, 512, 3), (4, 512, 512, 3), (8, 512, 512, 3))}
    report = build_with_rtx(without_functions(model).SerializeToString(), plugin_library, "SM89", profile)
    assert report.errors == []
    assert report.unused_inputs == []
    assert report.plugin_layers == sum(node.domain == spec.DOMAIN for node in model.graph.node)
    assert report.plan_bytes > 0


@pytest.mark.parametrize("scale", [1e6, np.inf, np.nan])
def test_weights_beyond_float16_are_named(scale: float) -> None:
    name = "encoder.blocks.1.mlp.fc1.weight_t"
    with pytest.raises(PrecisionError, match=rf"float16 ends at 65504, but {name} reaches .*: build with --fp32"):
        to_float16(with_initializer(tiny_model(), name, scale))


def test_weights_of_islands_may_be_large() -> None:
    to_float16(with_initializer(tiny_model(), "encoder.blocks.1.norm1.weight", 1e6))


def test_weights_that_a_refinement_keeps_may_be_large() -> None:
    model = with_initializer(tiny_model(), "encoder.blocks.0.attn.qkv.weight_t", 1e6)
    with pytest.raises(PrecisionError, match=r"encoder\.blocks\.0\.attn\.qkv\.weight_t reaches"):
        to_float16(model, 1)
    to_float16(model, 2)


def test_foreign_preprocessing_is_refused() -> None:
    model = tiny_model()
    model.graph.node.append(onnx.helper.make_node("Cast", ["images"], ["twice"], to=TensorProto.FLOAT))
    with pytest.raises(PrecisionError, match="preprocessing"):
        to_float16(model)
    model.graph.input[0].name = "pixels"
    with pytest.raises(PrecisionError, match="preprocessing"):
        to_float16(model)


def test_tensors_to_watch_are_those_that_become_float16() -> None:
    model = tiny_model()
    typed = onnx.shape_inference.infer_shapes(to_float16(model)).graph
    halves = {v.name for v in typed.value_info if v.type.tensor_type.elem_type == TensorProto.FLOAT16}
    assert {name for name in halves if not name.endswith("/fp16")} == set(float16_tensors(model))
