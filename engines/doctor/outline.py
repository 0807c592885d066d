"""What an ONNX file contains, read from its bytes: no onnx package is needed, and weights are not copied.

ONNX is protobuf: a message is a row of (field number, wire type, value). The numbers below are those of onnx.proto.
"""

from __future__ import annotations

import mmap
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from algm_trt.plugins.errors import AlgmError

FLOAT, UINT8, INT8 = 1, 2, 3
"""TensorProto.DataType."""

_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5
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
    except (ValueError, IndexError, UnicodeDecodeError) as error:
        raise OutlineError(f"{path} is not an ONNX file, or a damaged one: export the checkpoint again") from error
    if not outline.opsets or not outline.nodes:
        raise OutlineError(f"{path} is not an ONNX model: export the checkpoint again")
    return outline


def _model(data: memoryview) -> Outline:
    opsets: dict[str, int] = {}
    metadata: dict[str, str] = {}
    functions: list[str] = []
    graph = memoryview(b"")
    for field, value in _fields(data):
        if field == 7:
            graph = _message(value)
        elif field == 8:
            opset = dict(_fields(_message(value)))
            opsets[_text(opset.get(1, b""))] = _number(opset.get(2, 0))
        elif field == 14:
            entry = dict(_fields(_message(value)))
            metadata[_text(entry.get(1, b""))] = _text(entry.get(2, b""))
        elif field == 25:
            function = dict(_fields(_message(value)))
            functions.append(f"{_text(function.get(10, b''))}::{_text(function.get(1, b''))}")
    nodes: Counter[str] = Counter()
    weight_bytes: Counter[int] = Counter()
    largest = ("", 0.0)
    ports: dict[int, list[Port]] = {11: [], 12: []}
    for field, value in _fields(graph):
        if field == 1:
            node = dict(_fields(_message(value)))
            nodes[f"{_text(node.get(7, b''))}::{_text(node.get(4, b''))}"] += 1
        elif field == 5:
            name, dtype, size, weight = _initializer(_message(value))
            weight_bytes[dtype] += size
            largest = max(largest, (name, weight), key=lambda item: item[1])
        elif field in ports:
            ports[field].append(_port(_message(value)))
    return Outline(
        opsets, metadata, tuple(functions), dict(nodes), tuple(ports[11]), tuple(ports[12]), dict(weight_bytes), largest
    )


def _initializer(data: memoryview) -> tuple[str, int, int, float]:
    """Name, data type, bytes, and the largest absolute value if it is float32."""
    fields = dict(_fields(data))
    name, dtype = _text(fields.get(8, b"")), _number(fields.get(2, 0))
    raw = _message(fields.get(9, fields.get(4, b"")))
    if dtype != FLOAT or fields.get(14) == _EXTERNAL or not raw.nbytes:
        return name, dtype, raw.nbytes, 0.0
    values = np.frombuffer(raw, "<f4")
    largest = float(np.abs(values).max())
    return name, dtype, raw.nbytes, largest if np.isfinite(largest) else np.inf


def _port(data: memoryview) -> Port:
    """ValueInfoProto: name, and the type of a tensor."""
    info = dict(_fields(data))
    tensor = dict(_fields(_message(dict(_fields(_message(info.get(2, b"")))).get(1, b""))))
    shape: list[int | str] = []
    for _, dimension in _fields(_message(tensor.get(2, b""))):
        extent = dict(_fields(_message(dimension)))
        shape.append(_number(extent[1]) if 1 in extent else _text(extent.get(2, b"?")))
    return Port(_text(info.get(1, b"")), _number(tensor.get(1, 0)), tuple(shape))


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Field numbers and values of a message: numbers, or the bytes of texts and messages.

    Raises:
        ValueError, IndexError: no protobuf, or cut off.
    """
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        field, kind = key >> 3, key & 7
        if kind == _VARINT:
            number, at = _varint(data, at)
            yield field, number
            continue
        if kind == _LENGTH:
            length, at = _varint(data, at)
        elif kind in (_EIGHT_BYTES, _FOUR_BYTES):
            length = 8 if kind == _EIGHT_BYTES else 4
        else:
            raise ValueError(f"wire type {kind}")
        if at + length > len(data) or field == 0:
            raise ValueError("cut off")
        yield field, data[at : at + length]
        at += length


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """A number of variable length at a place, and the place behind it."""
    number = shift = 0
    while True:
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
        shift += 7
        if shift > 63:
            raise ValueError("endless number")


def _message(value: int | memoryview | bytes) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number where a message belongs")
    return memoryview(value)


def _text(value: int | memoryview | bytes) -> str:
    return bytes(_message(value)).decode()


def _number(value: int | memoryview | bytes) -> int:
    if not isinstance(value, int):
        raise ValueError("a message where a number belongs")
    return value
