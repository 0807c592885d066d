"""An exported model without its labels, which the runtime makes of the scores several times as fast.

A library runs all of a graph, whatever output is asked for, and as standard operators the labels of a picture are some
10 to 20 ms. So they are taken out of the graph before a library sees it, with all that nothing else needs.

The file is not parsed as a whole, which would copy the weights once more, and inference does without the package onnx:
of the fields of its messages most go through as they are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from algm_trt.runtime.backends import onnx_fields
from algm_trt.runtime.backends.protobuf import PREFIXED, Field, as_message, as_text, encoded_varint, fields

LABELS: Final = "labels"


def without_labels(path: Path) -> bytes | None:
    """The model in a file without its output `labels`, or None where that is no ONNX model with such an output.

    Raises:
        OSError: the file cannot be read.
    """
    content = memoryview(path.read_bytes())
    try:
        model = list(fields(content))
        (graph,) = (field for field in model if field.number == onnx_fields.MODEL_GRAPH)
        kept = _needed(list(fields(as_message(graph.value))))
    except ValueError:  # empty, cut short, or something else
        return None
    if kept is None:
        return None
    length = sum(len(field.whole) for field in kept)
    parts: list[bytes | memoryview] = []
    for field in model:
        if field is graph:
            key = encoded_varint(onnx_fields.MODEL_GRAPH << 3 | PREFIXED)
            parts += [key, encoded_varint(length), *(part.whole for part in kept)]
        else:
            parts.append(field.whole)
    return b"".join(parts)


def _needed(graph: list[Field]) -> list[Field] | None:
    """The fields of a graph without the output and the nodes that only it needs; None if there is no such output."""
    outputs = {_texts(field, onnx_fields.VALUE_NAME)[0] for field in graph if field.number == onnx_fields.GRAPH_OUTPUT}
    if LABELS not in outputs:
        return None
    names = outputs - {LABELS}
    kept = []
    for field in reversed(graph):  # nodes are in topological order, as ONNX prescribes
        if field.number == onnx_fields.GRAPH_OUTPUT and _texts(field, onnx_fields.VALUE_NAME) == [LABELS]:
            continue
        if field.number == onnx_fields.GRAPH_NODE:
            if names.isdisjoint(_texts(field, onnx_fields.NODE_OUTPUT)):
                continue
            names |= _read_by(field)
        kept.append(field)
    return kept[::-1]


def _read_by(node: Field) -> set[str]:
    """Names of what a node reads, itself or within the graphs of an If or a Loop."""
    names: set[str] = set()
    nodes = [node]
    for part in nodes:  # grows on the way
        names.update(_texts(part, onnx_fields.NODE_INPUT))
        for attribute in _parts(part, onnx_fields.NODE_ATTRIBUTE):
            for graph in _parts(attribute, onnx_fields.ATTRIBUTE_GRAPH, onnx_fields.ATTRIBUTE_GRAPHS):
                nodes += _parts(graph, onnx_fields.GRAPH_NODE)
    return names


def _parts(message: Field, *numbers: int) -> list[Field]:
    """The fields of these numbers in a field that holds a message."""
    return [field for field in fields(as_message(message.value)) if field.number in numbers]


def _texts(message: Field, number: int) -> list[str]:
    """The texts in the fields of this number."""
    return [as_text(field.value) for field in _parts(message, number)]
