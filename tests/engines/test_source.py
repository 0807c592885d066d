"""Reading the exported model: what is not one is refused in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from helpers.engines import save_tiny_model, tiny_model
from helpers.models import onnx_outputs, session
from helpers.pictures import drawn_scene
from onnx import TensorProto, helper

from algm_trt.engines.source import (
    SourceError,
    give_threshold_a_dimension,
    plugin_nodes,
    read_model,
    with_functions_inlined,
    without_functions,
)
from algm_trt.plugins.errors import UsageError
from algm_trt.plugins.spec import DOMAIN
from algm_trt.runtime.card import ModelCardError


def test_model_is_read_with_its_card(tmp_path: Path) -> None:
    source = read_model(save_tiny_model(tmp_path))
    assert source.card.size == (128, 128)
    assert len(source.sha256) == 64


def test_missing_model_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="algm-export"):
        read_model(tmp_path / "model.onnx")


@pytest.mark.parametrize("content", [b"\x00\x01\x02 no model", b"PK\x03\x04" * 50])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(SourceError, match="not an ONNX file"):
        read_model(path)


def test_empty_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.touch()
    with pytest.raises(ModelCardError, match="no model card"):
        read_model(path)


def test_foreign_model_is_refused(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    other = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [value], [other])
    onnx.save(helper.make_model(graph), tmp_path / "model.onnx")
    with pytest.raises(ModelCardError, match="not a model of algm-export"):
        read_model(tmp_path / "model.onnx")


@pytest.mark.parametrize("share", [0.01, 0.3, 0.7, 0.95, 0.999])
def test_cut_off_file_is_refused(tmp_path: Path, share: float) -> None:
    path = save_tiny_model(tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises((SourceError, ModelCardError)):
        read_model(path)


def test_file_without_function_bodies_is_not_whole(tmp_path: Path) -> None:
    onnx.save(without_functions(tiny_model()), tmp_path / "model.onnx")
    with pytest.raises(SourceError, match="lacks AlgmAppendTokens"):
        read_model(tmp_path / "model.onnx")


def test_plugin_nodes_are_those_of_the_domain() -> None:
    # Four blocks, of which the first attends densely; two in the decoder; two merges, append, unmerge, labels.
    assert len(plugin_nodes(tiny_model())) == 3 + 2 + 2 + 3


def test_inlined_model_has_standard_operators_alone() -> None:
    inlined = with_functions_inlined(tiny_model())
    assert {node.domain for node in inlined.graph.node} == {""}
    assert not inlined.functions
    assert DOMAIN not in {node.domain for node in inlined.graph.node}


@pytest.mark.parametrize("threshold", [0.3, 0.9])
def test_a_threshold_of_one_element_is_the_same_model(threshold: float) -> None:
    scalar, vector = tiny_model(), tiny_model()
    give_threshold_a_dimension(vector)
    onnx.checker.check_model(vector, full_check=True)
    (shape,) = [value.type.tensor_type.shape for value in vector.graph.input if value.name == "threshold"]
    assert [extent.dim_value for extent in shape.dim] == [1]
    pictures = np.stack([drawn_scene(128, 128, seed=seed) for seed in range(2)])
    expected = onnx_outputs(session(scalar), pictures, threshold)
    running = session(vector)
    names = [output.name for output in running.get_outputs()]
    found = running.run(names, {"images": pictures, "threshold": np.array([threshold], np.float32)})
    for name, value in zip(names, found, strict=True):
        np.testing.assert_array_equal(value, expected[name])


def test_a_dense_model_has_no_threshold_to_change() -> None:
    dense, same = tiny_model(merge=None), tiny_model(merge=None)
    give_threshold_a_dimension(dense)
    assert dense == same
    merging = tiny_model()
    give_threshold_a_dimension(merging)
    assert merging.graph.node[0].input[0] == "images", "the network begins with the pictures"
