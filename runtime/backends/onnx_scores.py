"""An exported model without its labels, which the runtime makes of the scores several times as fast.

A library runs all of a graph, whatever output is asked for, and as standard operators the labels of a picture are some
10 to 20 ms. So they are taken out of the graph before a library sees it, with all that nothing else needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

LABELS: Final = "labels"

# The fields of ONNX that are looked at, by message: name, number, and the message that a field holds ("": a string).
# All others go through as they are: protocol buffers keep what they do not know.
_FIELDS: Final[Mapping[str, tuple[tuple[str, int, str], ...]]] = {
    "Model": (("graph", 7, "Graph"),),
    "Graph": (("node", 1, "Node"), ("output", 12, "Value")),
    "Node": (("input", 1, ""), ("output", 2, "")),
    "Value": (("name", 1, ""),),
}
_SINGLE: Final = ("graph", "name")


def without_labels(path: Path) -> bytes | None:
    """The model in a file without its output `labels`, or None where that is no ONNX model with such an output.

    Raises:
        OSError: the file cannot be read.
    """
    model = _message("Model")()
    try:
        model.ParseFromString(path.read_bytes())
    except DecodeError:
        return None
    outputs = model.graph.output
    kept = [value for value in outputs if value.name != LABELS]
    if len(kept) == len(outputs):
        return None
    _keep(outputs, kept)
    needed = {value.name for value in kept}
    nodes = []
    for node in reversed(model.graph.node):  # in topological order, as ONNX prescribes
        if needed.intersection(node.output):
            needed.update(node.input)
            nodes.append(node)
    _keep(model.graph.node, nodes[::-1])
    text: bytes = model.SerializeToString()
    return text


def _keep(field: Any, elements: list[Any]) -> None:
    """Leave these elements of a repeated field alone."""
    copies = [type(element).FromString(element.SerializeToString()) for element in elements]
    del field[:]
    field.extend(copies)


@cache
def _message(name: str) -> Any:
    """The class of one of the messages."""
    file = descriptor_pb2.FileDescriptorProto(name="algm/onnx_scores.proto", package="algm.onnx_scores")
    kinds = descriptor_pb2.FieldDescriptorProto
    for message, fields in _FIELDS.items():
        description = file.message_type.add(name=message)
        for field, number, holds in fields:
            description.field.add(
                name=field,
                number=number,
                label=kinds.LABEL_OPTIONAL if field in _SINGLE else kinds.LABEL_REPEATED,
                type=kinds.TYPE_MESSAGE if holds else kinds.TYPE_STRING,
                type_name=f".{file.package}.{holds}" if holds else None,
            )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{file.package}.{name}"))
