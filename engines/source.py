"""The exported model that an engine is built from: read, checked, and brought into the form that a builder takes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import onnx
import onnx.inliner

from algm_trt.plugins import spec
from algm_trt.plugins.errors import AlgmError, UsageError
from algm_trt.runtime.card import METADATA_KEY, ModelCard

THRESHOLD: Final = "threshold"
_SCALAR: Final = f"{THRESHOLD}/scalar"


class SourceError(AlgmError):
    """A file that is not a model of algm-export, or not a complete one."""


@dataclass(frozen=True)
class SourceModel:
    """An exported model.

    Attributes:
        path: of the file.
        proto: the model with its function bodies.
        card: its model card.
        sha256: of the file.
    """

    path: Path
    proto: onnx.ModelProto
    card: ModelCard
    sha256: str


def read_model(path: Path) -> SourceModel:
    """Read a model that algm-export wrote.

    Raises:
        UsageError: there is no such file.
        SourceError: the file is not ONNX, is cut off, or is not a model of algm-export.
        ModelCardError: its model card is missing or cannot be read.
    """
    if not path.is_file():
        raise UsageError(f"there is no model {path}: make one with algm-export CHECKPOINT, or name another")
    data = path.read_bytes()
    try:
        proto = onnx.load_model_from_string(data)
    except Exception as error:  # protobuf's DecodeError, which onnx does not re-export
        raise SourceError(f"{path} is not an ONNX file, or a damaged one: export the checkpoint again") from error
    card = ModelCard.from_metadata(path, _card_text(proto))
    _check_whole(path, proto, card)
    return SourceModel(path, proto, card, hashlib.sha256(data).hexdigest())


def card_of(proto: onnx.ModelProto) -> ModelCard | None:
    """The model card that a model carries, or None.

    Raises:
        ModelCardError: there is one and it cannot be read.
    """
    text = _card_text(proto)
    return None if text is None else ModelCard.from_json(text)


def set_card(proto: onnx.ModelProto, card: ModelCard) -> None:
    """Replace the model card that a model carries."""
    for entry in proto.metadata_props:
        if entry.key == METADATA_KEY:
            entry.value = card.to_json()


def plugin_nodes(proto: onnx.ModelProto) -> list[str]:
    """Names of the nodes that TensorRT must map to plugins."""
    return [node.name for node in proto.graph.node if node.domain == spec.DOMAIN]


def without_functions(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy without function bodies: a missing plugin then fails loudly, and never builds the slow graph."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    del copy.functions[:]
    return copy


def with_functions_inlined(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model in standard operators alone, which needs no plugin."""
    return onnx.inliner.inline_local_functions(proto)


def give_threshold_a_dimension(proto: onnx.ModelProto) -> None:
    """Make `threshold` a vector of one element, where the model has it: Triton gives an engine no scalars."""
    graph = proto.graph
    readers = [index for index, node in enumerate(graph.node) if THRESHOLD in node.input]
    if not readers:
        return
    for value in graph.input:
        if value.name == THRESHOLD:
            value.type.tensor_type.shape.dim.add(dim_value=1)
    for index in readers:
        names = [_SCALAR if name == THRESHOLD else name for name in graph.node[index].input]
        graph.node[index].input[:] = names
    axes = onnx.numpy_helper.from_array(np.array([0], np.int64), f"{_SCALAR}/axes")
    graph.initializer.append(axes)
    squeeze = onnx.helper.make_node("Squeeze", [THRESHOLD, axes.name], [_SCALAR], name=_SCALAR)
    graph.node.insert(readers[0], squeeze)


def _card_text(proto: onnx.ModelProto) -> str | None:
    return next((entry.value for entry in proto.metadata_props if entry.key == METADATA_KEY), None)


def _check_whole(path: Path, proto: onnx.ModelProto, card: ModelCard) -> None:
    """Check for what is missing from a file that was cut off between two records, or edited.

    Raises:
        SourceError: it lacks operators, inputs or function bodies, or has operators that are not known.
    """
    bodies = {function.name for function in proto.functions if function.domain == spec.DOMAIN}
    used = {node.op_type for node in proto.graph.node if node.domain == spec.DOMAIN}
    inputs = {value.name for value in proto.graph.input}
    expected = {"images", THRESHOLD} if card.merge else {"images"}
    missing = [*sorted(used - bodies), *sorted(expected - inputs)]
    if missing or not used:
        lacks = ", ".join(missing) or "every operator of ALGM"
        raise SourceError(f"{path} is not complete, it lacks {lacks}: export the checkpoint again")
    unknown = sorted(used - set(spec.OPS))
    if unknown:
        raise SourceError(f"{path} has operators that this version lacks: {', '.join(unknown)}; update algm-trt")
