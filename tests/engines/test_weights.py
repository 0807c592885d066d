"""Graphs without the data of their weights: light while they are changed, whole when they are closed."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from helpers.engines import tiny_model
from helpers.models import LINEAR
from onnx import TensorProto, numpy_helper

from algm_trt.engines.weights import closed_graph, constant, element_types, open_graph

NAME = "encoder.blocks.1.mlp.fc1.weight_t"


def weights(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def test_an_open_graph_carries_no_weights() -> None:
    model = tiny_model(LINEAR)
    bare = gs.export_onnx(open_graph(model), do_type_check=False)
    assert model.ByteSize() > 1_000_000
    assert bare.ByteSize() < 150_000
    assert not bare.functions
    shapes = {tensor.name: (tensor.data_type, tuple(tensor.dims)) for tensor in bare.graph.initializer}
    assert shapes == {tensor.name: (tensor.data_type, tuple(tensor.dims)) for tensor in model.graph.initializer}


def test_closed_as_it_was_opened_it_is_the_same_model() -> None:
    model = tiny_model(LINEAR)
    before = model.SerializeToString(deterministic=True)
    closed = closed_graph(open_graph(model), model, {})
    assert model.SerializeToString(deterministic=True) == before
    for same in (closed, model):
        del same.graph.value_info[:]
    assert [node.name for node in closed.graph.node] == [node.name for node in model.graph.node]
    found, expected = weights(closed), weights(model)
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], expected[name]) for name in expected)
    for field in ("functions", "metadata_props", "opset_import", "ir_version", "producer_name"):
        assert getattr(closed, field) == getattr(model, field), field
    onnx.checker.check_model(closed, full_check=True)


def test_a_constant_of_another_name_gets_the_data_under_its_own() -> None:
    model = tiny_model(LINEAR)
    values = weights(model)[NAME]
    graph = open_graph(model)
    node = next(node for node in graph.nodes if any(tensor.name == NAME for tensor in node.inputs))
    node.inputs[1] = constant("other", np.float32, values.shape)
    closed = weights(closed_graph(graph, model, {"other": NAME}))
    assert NAME not in closed
    assert np.array_equal(closed["other"], values)


@pytest.mark.parametrize("raw", [True, False])
def test_a_constant_of_another_type_and_name_gets_converted_data(raw: bool) -> None:
    model = tiny_model(LINEAR)
    values = weights(model)[NAME]
    if not raw:
        tensor = next(tensor for tensor in model.graph.initializer if tensor.name == NAME)
        tensor.CopyFrom(onnx.helper.make_tensor(NAME, TensorProto.FLOAT, values.shape, values.ravel()))
    graph = open_graph(model)
    node = next(node for node in graph.nodes if any(tensor.name == NAME for tensor in node.inputs))
    node.inputs[1] = constant("other", np.float16, values.shape)
    closed = weights(closed_graph(graph, model, {"other": NAME}))
    assert NAME not in closed
    assert closed["other"].dtype == np.float16
    assert np.array_equal(closed["other"], values.astype(np.float16))


def test_types_are_those_of_the_whole_model() -> None:
    model = tiny_model()
    typed = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    values = (*typed.value_info, *typed.output)
    assert element_types(model) == {value.name: value.type.tensor_type.elem_type for value in values}


CONVERSION = """
import re, sys, onnx
from pathlib import Path
from algm_trt.engines.precision import to_float16
from algm_trt.engines.rounding import with_roundings

def peak():  # of this program; getrusage counts what it was forked from as well
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

to_float16(onnx.load(sys.argv[1]))  # what is imported and opened once
before = peak()
model = onnx.load(sys.argv[2])
rounded = with_roundings(to_float16(model))
print((peak() - before) / model.ByteSize())
"""


def test_conversion_holds_each_graph_once(tmp_path: Path) -> None:
    """The float16 graph and the one with roundings are 0.5 and 1 times the model's size; more are copies of weights."""
    wide = replace(LINEAR, d_model=768, d_ff=3072, n_layers=6, n_heads=12)
    for name, config in (("small", LINEAR), ("wide", wide)):
        onnx.save(tiny_model(config), tmp_path / name)
    command = [sys.executable, "-c", CONVERSION, str(tmp_path / "small"), str(tmp_path / "wide")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert 2.4 < float(done.stdout) < 3.2
