"""Models without the data of their weights, for work on the graph: large weights would be copied several times over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import onnx
import onnx_graphsurgeon as gs  # type: ignore[import-untyped]
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx_graphsurgeon.ir.tensor import LazyValues  # type: ignore[import-untyped]

_WITH_DATA_BYTES: Final = 1024
"""Initializers up to this size keep their data: shape inference reads shapes and axes."""


def open_graph(model: onnx.ModelProto) -> Any:
    """The main graph for graphsurgeon, its large constants without data. Functions are left out."""
    bare = _without_data(model)
    del bare.functions[:]
    return gs.import_onnx(bare)


def closed_graph(graph: Any, model: onnx.ModelProto, sources: Mapping[str, str]) -> onnx.ModelProto:
    """A model with a changed graph, and everything else as it was.

    Args:
        graph: of `open_graph`, changed.
        model: that it was opened from.
        sources: for new names of constants, the initializer whose data they take. Data is converted to the type that a
            constant has in the graph.
    """
    copy: onnx.ModelProto = _copied(model, without="graph")
    copy.graph.CopyFrom(gs.export_onnx(graph, do_type_check=False).graph)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    for tensor in copy.graph.initializer:
        source = weights.get(sources.get(tensor.name, tensor.name))
        if source is not None:
            _fill(tensor, source)
    return copy


def constant(name: str, dtype: type[np.generic], shape: Sequence[int]) -> Any:
    """A constant for graphsurgeon whose data `closed_graph` fills in."""
    return gs.Constant(name, values_of(dtype, shape))


def values_of(dtype: type[np.generic], shape: Sequence[int]) -> Any:
    """What stands for the values of a constant until `closed_graph` fills them in."""
    return LazyValues(onnx.TensorProto(data_type=onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), dims=shape))


def element_types(model: onnx.ModelProto) -> dict[str, int]:
    """Types of all tensors that the nodes of a model compute, by name."""
    typed = onnx.shape_inference.infer_shapes(_without_data(model), strict_mode=True).graph
    computed = {name for node in typed.node for name in node.output}
    values = (*typed.value_info, *typed.output)
    return {value.name: value.type.tensor_type.elem_type for value in values if value.name in computed}


def _without_data(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose large initializers have a type and a shape alone."""
    bare: onnx.ModelProto = _copied(model, without="graph")
    bare.graph.CopyFrom(_copied(model.graph, without="initializer"))
    for tensor in model.graph.initializer:
        if tensor.ByteSize() <= _WITH_DATA_BYTES:
            bare.graph.initializer.append(tensor)
        else:
            bare.graph.initializer.add(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    return bare


def _copied(message: Any, without: str) -> Any:
    """A copy of a message without one of its fields."""
    copy = type(message)()
    for field, value in message.ListFields():
        if field.name == without:
            continue
        if hasattr(value, "extend"):  # what descriptors say about it has changed its name between versions
            getattr(copy, field.name).extend(value)
        elif hasattr(value, "CopyFrom"):
            getattr(copy, field.name).CopyFrom(value)
        else:
            setattr(copy, field.name, value)
    return copy


def _fill(tensor: onnx.TensorProto, source: onnx.TensorProto) -> None:
    """Give an initializer the data of another one, in its own type."""
    if tensor.data_type == source.data_type:
        name = tensor.name
        tensor.CopyFrom(source)
        tensor.name = name
        return
    values: NDArray[Any] = numpy_helper.to_array(source)
    tensor.raw_data = values.astype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)).tobytes()
