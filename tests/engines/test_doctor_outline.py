"""The outline of an ONNX file, read without the onnx package, against that package; damaged files."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from helpers.engines import tiny_model
from onnx import TensorProto, helper, numpy_helper

from algm_trt.engines.doctor.outline import FLOAT, OutlineError, read_outline
from algm_trt.engines.sample import OPERATORS_MODEL, SAMPLE_MODEL


@pytest.mark.parametrize("path", [SAMPLE_MODEL, OPERATORS_MODEL], ids=lambda path: path.name)
def test_it_says_what_the_onnx_package_says(path: Path) -> None:
    model, outline = onnx.load(path), read_outline(path)
    assert outline.opsets == {opset.domain: opset.version for opset in model.opset_import}
    assert outline.metadata == {entry.key: entry.value for entry in model.metadata_props}
    assert list(outline.functions) == [f"{function.domain}::{function.name}" for function in model.functions]
    assert outline.nodes == Counter(f"{node.domain}::{node.op_type}" for node in model.graph.node)
    for ports, values in ((outline.inputs, model.graph.input), (outline.outputs, model.graph.output)):
        assert [port.name for port in ports] == [value.name for value in values]
        assert [port.dtype for port in ports] == [value.type.tensor_type.elem_type for value in values]
        shapes = [tuple(dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim) for value in values]
        assert [port.shape for port in ports] == shapes
    arrays = [numpy_helper.to_array(value) for value in model.graph.initializer]
    assert outline.weight_bytes == dict(
        sum(
            (
                Counter({value.data_type: array.nbytes})
                for value, array in zip(model.graph.initializer, arrays, strict=True)
            ),
            Counter(),
        )
    )
    largest = max((float(np.abs(array).max()) for array in arrays if array.dtype == np.float32), default=0.0)
    assert outline.largest_weight[1] == largest


def test_port_by_name() -> None:
    outline = read_outline(SAMPLE_MODEL)
    images = outline.port("images")
    assert images is not None
    assert images.shape == ("batch", 192, 192, 3)
    assert outline.port("nothing") is None


@pytest.mark.parametrize("value", [np.nan, np.inf, -1e6])
def test_the_largest_weight_may_be_no_number(tmp_path: Path, value: float) -> None:
    model = tiny_model()
    weight = next(tensor for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT)
    array = numpy_helper.to_array(weight).copy()
    array.flat[-1] = value
    weight.CopyFrom(numpy_helper.from_array(array, "spoilt"))
    onnx.save(model, tmp_path / "model.onnx")
    name, size = read_outline(tmp_path / "model.onnx").largest_weight
    assert name == "spoilt"
    assert size == (1e6 if np.isfinite(value) else np.inf)


def test_weights_as_lists_of_numbers(tmp_path: Path) -> None:
    tensor = helper.make_tensor("listed", TensorProto.FLOAT, [3], [1.0, -7.5, 2.0])
    graph = helper.make_graph([helper.make_node("Neg", ["listed"], ["y"])], "g", [], [], [tensor])
    onnx.save(helper.make_model(graph), tmp_path / "model.onnx")
    outline = read_outline(tmp_path / "model.onnx")
    assert outline.largest_weight == ("listed", 7.5)
    assert outline.weight_bytes == {FLOAT: 12}


def test_files_that_are_cut_off_give_an_outline_or_one_clear_error(tmp_path: Path) -> None:
    content = OPERATORS_MODEL.read_bytes()
    random = np.random.default_rng(1)
    refused = 0
    for length in [0, 1, 2, *random.integers(3, len(content), 60).tolist()]:
        (tmp_path / "cut.onnx").write_bytes(content[:length])
        try:
            read_outline(tmp_path / "cut.onnx")
        except OutlineError:
            refused += 1
    assert refused > 50


def test_other_files_are_refused(tmp_path: Path) -> None:
    random = np.random.default_rng(2)
    for length in [*range(40), *([400] * 40)]:
        (tmp_path / "x.onnx").write_bytes(random.bytes(length))
        with pytest.raises(OutlineError, match="not an ONNX"):
            read_outline(tmp_path / "x.onnx")
