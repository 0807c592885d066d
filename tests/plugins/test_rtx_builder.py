"""Rung L3: NVIDIA's parser and builder take every operator, from the plugin library, for devices that are not here."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from helpers import plugin_graphs
from helpers.plugin_graphs import Graph
from helpers.rtx import TARGETS, RtxReport, build_with_rtx

pytestmark = pytest.mark.rtx


def with_attribute(graph: Graph, op_type: str, name: str, value: object) -> bytes:
    """The graph's bytes with one attribute of its first `op_type` replaced, or left out when the value is None."""
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    node = next(node for node in model.graph.node if node.op_type == op_type)
    kept = [attribute for attribute in node.attribute if attribute.name != name]
    del node.attribute[:]
    node.attribute.extend(kept if value is None else [*kept, onnx.helper.make_attribute(name, value)])
    return model.SerializeToString()


def assert_built(report: RtxReport, graph: Graph) -> None:
    assert report.errors == []
    assert report.unused_inputs == []
    assert report.plugin_layers == graph.plugins
    assert report.outputs == graph.outputs
    assert report.plan_bytes > 0
    assert report.activation_bytes is not None


@pytest.mark.parametrize("activation", ["float16", "float32"])
@pytest.mark.parametrize("name", plugin_graphs.SINGLE)
def test_single_operator_builds(name: str, activation: str, plugin_library: Path) -> None:
    graph = plugin_graphs.SINGLE[name](activation)
    assert_built(build_with_rtx(graph.serialized, plugin_library, "SM80", graph.profile), graph)


@pytest.mark.parametrize("sm", TARGETS)
def test_chain_builds_for_every_target(sm: str, plugin_library: Path) -> None:
    graph = plugin_graphs.chain("float16")
    report = build_with_rtx(graph.serialized, plugin_library, sm, graph.profile)
    assert_built(report, graph)
    assert report.plugin_layers == 7


def test_chain_in_float32_builds(plugin_library: Path) -> None:
    graph = plugin_graphs.chain("float32")
    assert_built(build_with_rtx(graph.serialized, plugin_library, "SM89", graph.profile), graph)


def test_activation_memory_follows_the_largest_batch(plugin_library: Path) -> None:
    graph = plugin_graphs.chain("float16")
    one_image = graph.profile["x"][0]
    one = build_with_rtx(graph.serialized, plugin_library, "SM80", {**graph.profile, "x": (one_image,) * 3})
    eight = build_with_rtx(graph.serialized, plugin_library, "SM80", graph.profile)
    assert one.activation_bytes is not None
    assert eight.activation_bytes is not None
    # Bounds chain through both merges: nothing is sized for more than eight times one image.
    assert one.activation_bytes < eight.activation_bytes <= 9 * one.activation_bytes


def test_without_the_library_the_parser_names_the_node() -> None:
    graph = plugin_graphs.local_merge("float16")
    report = build_with_rtx(graph.serialized, None, "SM80", graph.profile)
    assert report.plan_bytes == 0
    assert any("AlgmLocalMerge" in error and "Plugin not found" in error for error in report.errors)


@pytest.mark.parametrize(
    ("name", "op_type", "attribute", "value", "message"),
    [
        ("local_merge", "AlgmLocalMerge", "grid", None, "attribute 'grid' is missing"),
        ("local_merge", "AlgmLocalMerge", "grid", [4, 0], "attribute 'grid' is 0 (value 2 of 2); it must be 1 to 4096"),
        ("local_merge", "AlgmLocalMerge", "grid", [4], "attribute 'grid' has 1 value(s)"),
        ("local_merge", "AlgmLocalMerge", "grid", 2.5, "attribute 'grid' has 1 value(s) of field type 1"),
        ("local_merge", "AlgmLocalMerge", "window", [3, 3], "the window 3x3 does not divide the grid 4x6"),
        ("local_merge", "AlgmLocalMerge", "window", [1, 1], "a window must hold at least two tokens"),
        ("local_merge", "AlgmLocalMerge", "extra_tokens", 3, "attribute 'extra_tokens' is 3"),
        ("local_merge", "AlgmLocalMerge", "extra_tokens", 1, "x has 26 tokens per image"),
        ("local_merge", "AlgmLocalMerge", "expected_keep", 1.5, "attribute 'expected_keep' is 1.5"),
        ("global_merge", "AlgmGlobalMerge", "layer", 0, "attribute 'layer' is 0"),
        ("packed_attention", "AlgmPackedAttention", "heads", 5, "qkv has 576 channels, which is not 3 x 5 heads"),
        ("append_tokens", "AlgmAppendTokens", "drop", None, "attribute 'drop' is missing"),
        ("labels", "AlgmLabels", "size", [61, 65537], "attribute 'size' is 65537 (value 2 of 2)"),
    ],
)
def test_bad_attribute_is_named(
    name: str, op_type: str, attribute: str, value: object, message: str, plugin_library: Path
) -> None:
    graph = plugin_graphs.SINGLE[name]("float16")
    model = with_attribute(graph, op_type, attribute, value)
    report = build_with_rtx(model, plugin_library, "SM80", graph.profile)
    assert report.plan_bytes == 0
    assert f"algm: {op_type}: " in report.errors[0]
    assert message in report.errors[0]


def test_hint_may_be_left_out(plugin_library: Path) -> None:
    graph = plugin_graphs.local_merge("float16")
    model = with_attribute(graph, "AlgmLocalMerge", "expected_keep", None)
    report = build_with_rtx(model, plugin_library, "SM80", graph.profile)
    assert report.errors == []
    assert report.plan_bytes > 0


def test_mixed_activation_types_do_not_build(plugin_library: Path) -> None:
    g = plugin_graphs.GraphBuilder("float16")
    g.input("x", "float16", (1, 64), (60, 64), (200, 64))
    g.input("cu", "int32", (2,), (4,), (9,))
    g.input("tokens", "float32", (7, 64))
    g.op("AlgmAppendTokens", ["x", "cu", "tokens"], ["y", "cu_seqlens"], drop=1)
    graph = g.graph({"y": ("x", ["T", 64]), "cu_seqlens": ("int32", ["B+1"])})
    report = build_with_rtx(graph.serialized, plugin_library, "SM80", graph.profile)
    assert report.plan_bytes == 0
    assert report.errors != []
