"""Roundings of an engine on ONNX Runtime: every float16 tensor holds float16 numbers, and the right ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from helpers.engines import tiny_model
from helpers.models import LINEAR, TINY, TWO
from numpy.typing import NDArray
from onnx import TensorProto, helper

from algm_trt.engines.precision import to_float16
from algm_trt.engines.rounding import float16_names, with_roundings
from algm_trt.exporter.config import SegmenterConfig
from algm_trt.runtime.card import MergeSettings
from algm_trt.runtime.scenes import draw_scene

Values = dict[str, NDArray[np.generic]]


def run(model: onnx.ModelProto, feed: Values, also: list[str]) -> Values:
    """Outputs and further float32 tensors by name."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    for name in also:
        watched.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    session = ort.InferenceSession(watched.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feed), strict=True))


@pytest.mark.parametrize("refinements", [0, 1, 2])
@pytest.mark.parametrize("merge", [TWO, None], ids=["merging", "dense"])
@pytest.mark.parametrize("config", [TINY, LINEAR], ids=["mask", "linear"])
def test_float16_tensors_hold_float16_numbers(
    config: SegmenterConfig, merge: MergeSettings | None, refinements: int
) -> None:
    half = to_float16(tiny_model(config, merge), refinements)
    rounded = with_roundings(half)
    onnx.checker.check_model(rounded, full_check=True)
    assert float16_names(rounded) == {
        output for node in rounded.graph.node for output in node.output if output.endswith("/rounded")
    }
    feed: Values = {"images": draw_scene(128, 128, 0).image[None]}
    if merge is not None:
        feed["threshold"] = np.array(merge.threshold, np.float32)
    names = sorted(float16_names(half))
    outputs = run(rounded, feed, names)
    scores = [name for name in names if name.endswith("/scores")]
    for name in set(names) - set(scores):
        assert np.array_equal(outputs[name], outputs[name].astype(np.float16)), name
    for name in scores:
        assert not np.array_equal(outputs[name], outputs[name].astype(np.float16)), name


def test_roundings_of_a_chain_are_those_of_numpy() -> None:
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal((8, 8)).astype(np.float16) for _ in range(2)]
    nodes = [
        helper.make_node("Cast", ["x"], ["x/fp16"], to=TensorProto.FLOAT16),
        helper.make_node("MatMul", ["x/fp16", "w0"], ["a"]),
        helper.make_node("MatMul", ["a", "w1"], ["b"]),
        helper.make_node("Add", ["a", "b"], ["c"]),
        helper.make_node("Cast", ["c"], ["y"], to=TensorProto.FLOAT),
    ]
    sides = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [5, 8]) for name in ("x", "y")]
    constants = [onnx.numpy_helper.from_array(weight, f"w{index}") for index, weight in enumerate(weights)]
    graph = helper.make_graph(nodes, "chain", sides[:1], sides[1:], constants)
    half = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    x = rng.standard_normal((5, 8)).astype(np.float32)

    def rounded(value: NDArray[np.floating]) -> NDArray[np.float32]:
        return value.astype(np.float16).astype(np.float32)

    a = rounded(rounded(x) @ weights[0].astype(np.float32))
    expected = rounded(a + rounded(a @ weights[1].astype(np.float32)))
    before = half.SerializeToString(deterministic=True)
    y = run(with_roundings(half), {"x": x}, [])["y"]
    # The last bit of a float32 sum may tip a rounding: a step of float16, seldom.
    assert np.mean(y == expected) > 0.9
    assert np.allclose(y, expected, rtol=2e-3, atol=2e-3)
    assert half.SerializeToString(deterministic=True) == before


def test_a_float16_export_is_taken_as_well() -> None:
    exported = with_roundings(tiny_model(precision="fp16"))
    converted = with_roundings(to_float16(tiny_model()))
    feed: Values = {"images": draw_scene(128, 128, 1).image[None], "threshold": np.array(TWO.threshold, np.float32)}
    one, other = run(exported, feed, []), run(converted, feed, [])
    assert all(np.array_equal(one[name], other[name]) for name in one)


def test_padded_and_oblong_models_run_with_roundings() -> None:
    model = tiny_model(TINY, replace(TWO, window=(2, 7)), (120, 100))
    feed: Values = {"images": draw_scene(120, 100, 2).image[None], "threshold": np.array(0.6, np.float32)}
    assert run(with_roundings(to_float16(model, 1)), feed, [])["labels"].shape == (1, 120, 100)
