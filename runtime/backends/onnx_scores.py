"""An exported model without its labels, which the runtime makes of the scores several times as fast.

A library runs all of a graph, whatever output is asked for, and as standard operators the labels of a picture are some
10 to 20 ms. So they are taken out of the graph before a library sees it, with all that nothing else needs.

The file is not parsed as a whole, which would copy the weights once more, and inference does without the package onnx:
a message of protocol buffers is a row of fields, of which most go through as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

LABELS: Final = "labels"

# Numbers of fields, from onnx.proto.
_MODEL_GRAPH = 7
_GRAPH_NODE, _GRAPH_OUTPUT = 1, 12
_NODE_INPUT, _NODE_OUTPUT = 1, 2
_VALUE_NAME = 1

# Kinds of fields: how long one is.
_VARINT, _EIGHT_BYTES, _PREFIXED, _FOUR_BYTES = 0, 1, 2, 5


class _Field(NamedTuple):
    """A field of a message: its number, all of its bytes, and its content where that is bytes, text or a message."""

    number: int
    whole: memoryview
    content: memoryview


def without_labels(path: Path) -> bytes | None:
    """The model in a file without its output `labels`, or None where that is no ONNX model with such an output.

    Raises:
        OSError: the file cannot be read.
    """
    content = memoryview(path.read_bytes())
    try:
        model = list(_fields(content))
        (graph,) = (field for field in model if field.number == _MODEL_GRAPH)
        fields = _needed(list(_fields(graph.content)))
    except (ValueError, IndexError):  # empty, cut short, or something else
        return None
    if fields is None:
        return None
    length = sum(len(field.whole) for field in fields)
    parts: list[bytes | memoryview] = []
    for field in model:
        if field is graph:
            parts += [_varint_of(_MODEL_GRAPH << 3 | _PREFIXED), _varint_of(length), *(part.whole for part in fields)]
        else:
            parts.append(field.whole)
    return b"".join(parts)


def _needed(graph: list[_Field]) -> list[_Field] | None:
    """The fields of a graph without the output and the nodes that only it needs; None if there is no such output."""
    outputs = {_text(field, _VALUE_NAME)[0] for field in graph if field.number == _GRAPH_OUTPUT}
    if LABELS not in outputs:
        return None
    names = outputs - {LABELS}
    kept = []
    for field in reversed(graph):  # nodes are in topological order, as ONNX prescribes
        if field.number == _GRAPH_OUTPUT and _text(field, _VALUE_NAME) == [LABELS]:
            continue
        if field.number == _GRAPH_NODE:
            if names.isdisjoint(_text(field, _NODE_OUTPUT)):
                continue
            names.update(_text(field, _NODE_INPUT))
        kept.append(field)
    return kept[::-1]


def _text(message: _Field, number: int) -> list[str]:
    """The texts in the fields of this number."""
    return [str(field.content, "utf-8") for field in _fields(message.content) if field.number == number]


def _fields(message: memoryview) -> Iterator[_Field]:
    """The fields of a message.

    Raises:
        ValueError, IndexError: it is not one, or cut short.
    """
    at = 0
    while at < len(message):
        key, begin = _varint(message, at)
        kind = key & 7
        if kind == _VARINT:
            _, stop = _varint(message, begin)
        elif kind == _PREFIXED:
            length, begin = _varint(message, begin)
            stop = begin + length
        else:
            stop = begin + {_EIGHT_BYTES: 8, _FOUR_BYTES: 4}.get(kind, len(message) + 1)
        if stop > len(message):
            raise ValueError("not a message")
        yield _Field(key >> 3, message[at:stop], message[begin:stop])
        at = stop


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """The number at a place, seven bits a byte and the lowest first, and the place behind it."""
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def _varint_of(value: int) -> bytes:
    """A number in that form."""
    parts = [value >> shift & 0x7F for shift in range(0, max(1, value.bit_length()), 7)]
    return bytes([*(part | 0x80 for part in parts[:-1]), parts[-1]])
