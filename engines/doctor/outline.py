"""What an ONNX file contains, read from its bytes: no onnx package is needed, and weights are not copied.

ONNX is protobuf. The numbers of fields below are those of onnx.proto.
"""

from __future__ import annotations

import mmap
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from algm_trt.plugins.errors import AlgmError
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
        if field == 7:
            graph = as_message(value)
        elif field == 8:
            opset = _values(value)
            opsets[as_text(opset.get(1, b""))] = as_number(opset.get(2, 0))
        elif field == 14:
            entry = _values(value)
            metadata[as_text(entry.get(1, b""))] = as_text(entry.get(2, b""))
        elif field == 25:
            function = _values(value)
            functions.append(f"{as_text(function.get(10, b''))}::{as_text(function.get(1, b''))}")
    nodes: Counter[str] = Counter()
    weight_bytes: Counter[int] = Counter()
    largest = ("", 0.0)
    ports: dict[int, list[Port]] = {11: [], 12: []}
    for field, value, _ in fields(graph):
        if field == 1:
            node = _values(value)
            nodes[f"{as_text(node.get(7, b''))}::{as_text(node.get(4, b''))}"] += 1
        elif field == 5:
            name, dtype, size, weight = _initializer(value)
            weight_bytes[dtype] += size
            largest = max(largest, (name, weight), key=lambda item: item[1])
        elif field in ports:
            ports[field].append(_port(value))
    return Outline(
        opsets, metadata, tuple(functions), dict(nodes), tuple(ports[11]), tuple(ports[12]), dict(weight_bytes), largest
    )


def _initializer(message: int | memoryview) -> tuple[str, int, int, float]:
    """Name, data type, bytes, and the largest absolute value if it is float32."""
    tensor = _values(message)
    name, dtype = as_text(tensor.get(8, b"")), as_number(tensor.get(2, 0))
    raw = as_message(tensor.get(9, tensor.get(4, b"")))
    if dtype != FLOAT or tensor.get(14) == _EXTERNAL or not raw.nbytes:
        return name, dtype, raw.nbytes, 0.0
    values = np.frombuffer(raw, "<f4")
    largest = float(np.abs(values).max())
    return name, dtype, raw.nbytes, largest if np.isfinite(largest) else np.inf


def _port(message: int | memoryview) -> Port:
    """ValueInfoProto: name, and the type of a tensor."""
    info = _values(message)
    tensor = _values(_values(info.get(2, b"")).get(1, b""))
    shape: list[int | str] = []
    for dimension in fields(as_message(tensor.get(2, b""))):
        extent = _values(dimension.value)
        shape.append(as_number(extent[1]) if 1 in extent else as_text(extent.get(2, b"?")))
    return Port(as_text(info.get(1, b"")), as_number(tensor.get(1, 0)), tuple(shape))


def _values(message: int | memoryview | bytes) -> dict[int, int | memoryview]:
    """Value by number of the fields of a message; of a repeated field the last."""
    return {field.number: field.value for field in fields(as_message(message))}
