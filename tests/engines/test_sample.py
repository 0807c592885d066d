"""What the self-test runs is what `examples/record_selftest.py` makes of the sample checkpoint today."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from algm_trt.engines.sample import OPERATORS_MODEL, SAMPLE_MODEL, recorded
from algm_trt.plugins.cases import make_cases
from algm_trt.runtime.backends.onnxruntime_engine import OnnxRuntimeEngine

SCRIPT = Path(__file__).parents[2] / "examples" / "record_selftest.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("record_selftest", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def sort_attributes(model: onnx.ModelProto) -> None:
    """By name: onnx 1.17 makes nodes whose attributes have another order, which means nothing."""
    for node in (*model.graph.node, *(node for function in model.functions for node in function.node)):
        attributes = sorted(node.attribute, key=lambda attribute: attribute.name)
        del node.attribute[:]
        node.attribute.extend(attributes)


def assert_same_graph(actual: onnx.ModelProto, expected: onnx.ModelProto) -> None:
    """Equal nodes, function bodies, inputs, outputs and weights."""
    sort_attributes(actual)
    sort_attributes(expected)
    assert list(actual.graph.node) == list(expected.graph.node)
    assert list(actual.functions) == list(expected.functions)
    assert list(actual.graph.input) == list(expected.graph.input)
    assert list(actual.graph.output) == list(expected.graph.output)
    weights = [
        {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        for model in (actual, expected)
    ]
    assert weights[0].keys() == weights[1].keys()
    for name, value in weights[0].items():
        np.testing.assert_array_equal(value, weights[1][name], name)


def test_the_model_is_the_export_of_the_checkpoint(script: ModuleType, tmp_path: Path) -> None:
    fresh = script.export_sample(tmp_path / "model.onnx")
    assert_same_graph(onnx.load(SAMPLE_MODEL), onnx.load(fresh))
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_the_operators_are_the_cases_with_the_bodies_of_today(script: ModuleType) -> None:
    assert_same_graph(onnx.load(OPERATORS_MODEL), script.operators_model(make_cases()))


def test_the_recording_is_what_the_model_gives() -> None:
    expected = recorded()
    assert expected.images.shape == (2, 192, 192, 3)
    found = OnnxRuntimeEngine(SAMPLE_MODEL, device="cpu").run(expected.images)
    np.testing.assert_allclose(found.logits, expected.logits, atol=1e-4)
    np.testing.assert_array_equal(found.token_counts, expected.token_counts)
    assert np.mean(found.labels == expected.labels) > 0.9999
    assert (expected.token_counts[:, 2] < expected.token_counts[:, 0]).all()
    assert len(np.unique(expected.labels)) > 3


def test_a_recording_can_be_written_and_read(tmp_path: Path) -> None:
    recorded().save(tmp_path / "again.npz")
    again = recorded(tmp_path / "again.npz")
    np.testing.assert_array_equal(again.images, recorded().images)
    np.testing.assert_array_equal(again.logits, recorded().logits)


def test_the_files_stay_small() -> None:
    assert sum(path.stat().st_size for path in SAMPLE_MODEL.parent.iterdir() if path.is_file()) < 2_500_000
