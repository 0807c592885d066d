"""What an ONNX file contains, read from its bytes: no onnx package is needed, and weights are not copied."""

from __future__ import annotations

import mmap
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from algm_trt.plugins.errors import AlgmError
from algm_trt.runtime.backends import onnx_fields
from algm_trt.runtime.backends.protobuf import as_message, as_number, as_text, fields

FLOAT, UINT8, INT8 = 1, 2, 3
"""TensorProto.DataType."""

_EXTERNAL: Final = 1


class OutlineError(AlgmError):
    """A file that is not ONNX, or not a whole one."""


@dataclass(frozen=True)
class Port:
    """An input or output: name, data type, and extents (a text is a free one)."""

    name: str
    dtype: int
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class Outline:
    """An ONNX model without its weights.

    Attributes:
        opsets: version by domain ("" is ONNX itself).
        metadata: text by key.
        functions: "domain::name" of every function body.
        nodes: how many nodes there are of each "domain::op_type" in the main graph.
        inputs: of the main graph.
        outputs: of the main graph.
        weight_bytes: bytes of the initialisers by data type.
        largest_weight: name and absolute value of the largest float32 weight; ("", 0.0) if there is none.
    """

    opsets: Mapping[str, int]
    metadata: Mapping[str, str]
    functions: tuple[str, ...]
    nodes: Mapping[str, int]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    weight_bytes: Mapping[int, int]
    largest_weight: tuple[str, float]

    def port(self, name: str) -> Port | None:
        """The input or output of a name."""
        return next((port for port in (*self.inputs, *self.outputs) if port.name == name), None)


def read_outline(path: Path) -> Outline:
    """Read an ONNX file.

    Raises:
        OutlineError: it is not ONNX, or it is cut off.
        OSError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            outline = _model(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))
    except ValueError as error:
        raise OutlineError(f"{path} is not an ONNX file, or a damaged one: export the checkpoint again") from error
    if not outline.opsets or not outline.nodes:
        raise OutlineError(f"{path} is not an ONNX model: export the checkpoint again")
    return outline


def _model(data: memoryview) -> Outline:
    opsets: dict[str, int] = {}
    metadata: dict[str, str] = {}
    functions: list[str] = []
    graph = memoryview(b"")
    for field, value, _ in fields(data):
        if field == onnx_fields.MODEL_GRAPH:
            graph = as_message(value)
        elif field == onnx_fields.MODEL_OPSET_IMPORT:
            opset = _values(value)
            opsets[_text(opset, onnx_fields.OPSET_DOMAIN)] = _number(opset, onnx_fields.OPSET_VERSION)
        elif field == onnx_fields.MODEL_METADATA_PROPS:
            entry = _values(value)
            metadata[_text(entry, onnx_fields.ENTRY_KEY)] = _text(entry, onnx_fields.ENTRY_VALUE)
        elif field == onnx_fields.MODEL_FUNCTIONS:
            function = _values(value)
            domain, name = _text(function, onnx_fields.FUNCTION_DOMAIN), _text(function, onnx_fields.FUNCTION_NAME)
            functions.append(f"{domain}::{name}")
    nodes: Counter[str] = Counter()
    weight_bytes: Counter[int] = Counter()
    largest = ("", 0.0)
    inputs: list[Port] = []
    outputs: list[Port] = []
    for field, value, _ in fields(graph):
        if field == onnx_fields.GRAPH_NODE:
            node = _values(value)
            nodes[f"{_text(node, onnx_fields.NODE_DOMAIN)}::{_text(node, onnx_fields.NODE_OP_TYPE)}"] += 1
        elif field == onnx_fields.GRAPH_INITIALIZER:
            name, dtype, size, weight = _initializer(value)
            weight_bytes[dtype] += size
            largest = max(largest, (name, weight), key=lambda item: item[1])
        elif field == onnx_fields.GRAPH_INPUT:
            inputs.append(_port(value))
        elif field == onnx_fields.GRAPH_OUTPUT:
            outputs.append(_port(value))
    return Outline(
        opsets=opsets,
        metadata=metadata,
        functions=tuple(functions),
        nodes=dict(nodes),
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        weight_bytes=dict(weight_bytes),
        largest_weight=largest,
    )


def _initializer(message: int | memoryview) -> tuple[str, int, int, float]:
    """Name, data type, bytes, and the largest absolute value if it is float32."""
    tensor = _values(message)
    name, dtype = _text(tensor, onnx_fields.TENSOR_NAME), _number(tensor, onnx_fields.TENSOR_DATA_TYPE)
    raw = as_message(tensor.get(onnx_fields.TENSOR_RAW_DATA, tensor.get(onnx_fields.TENSOR_FLOAT_DATA, b"")))
    if dtype != FLOAT or tensor.get(onnx_fields.TENSOR_DATA_LOCATION) == _EXTERNAL or not raw.nbytes:
        return name, dtype, raw.nbytes, 0.0
    values = np.frombuffer(raw, "<f4")
    largest = float(np.abs(values).max())
    return name, dtype, raw.nbytes, largest if np.isfinite(largest) else np.inf


def _port(message: int | memoryview) -> Port:
    """ValueInfoProto: name, and the type of a tensor."""
    info = _values(message)
    tensor = _values(_values(info.get(onnx_fields.VALUE_TYPE, b"")).get(onnx_fields.TYPE_TENSOR_TYPE, b""))
    shape: list[int | str] = []
    for dimension in fields(as_message(tensor.get(onnx_fields.TENSOR_TYPE_SHAPE, b""))):
        extent = _values(dimension.value)
        is_fixed = onnx_fields.DIMENSION_VALUE in extent
        fixed, free = _number(extent, onnx_fields.DIMENSION_VALUE), _text(extent, onnx_fields.DIMENSION_PARAM)
        shape.append(fixed if is_fixed else free or "?")
    return Port(_text(info, onnx_fields.VALUE_NAME), _number(tensor, onnx_fields.TENSOR_TYPE_ELEM_TYPE), tuple(shape))


def _values(message: int | memoryview | bytes) -> dict[int, int | memoryview]:
    """Value by number of the fields of a message; of a repeated field the last."""
    return {field.number: field.value for field in fields(as_message(message))}


def _text(message: Mapping[int, int | memoryview], number: int) -> str:
    """The text of a field; "" where there is none."""
    return as_text(message.get(number, b""))


def _number(message: Mapping[int, int | memoryview], number: int) -> int:
    """The number of a field; 0 where there is none."""
    return as_number(message.get(number, 0))
