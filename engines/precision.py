"""Float16 from a float32 export: weights and activations in float16, and the islands that stay in float32.

The result has the casts that `algm-export --precision fp16` writes: around islands, nowhere else. No cast is around a
softmax, because TensorRT fuses attention only without; its fused kernels sum in float32 by themselves.

A merging network can have more in float32. The local merge orders its windows by similarity, and the global merge
compares tokens at even positions with tokens at odd ones: two windows that float16 puts in the other order change
sides, and patches far from any threshold merge with others. `REFINEMENTS` make that rarer, at a price;
`algm_trt.engines.agreement.fit_float16` takes as many as a network needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

import numpy as np
import onnx
import onnx_graphsurgeon as gs  # type: ignore[import-untyped]
from onnx import TensorProto, numpy_helper

from algm_trt.engines.source import card_of, set_card
from algm_trt.engines.weights import closed_graph, constant, element_types, open_graph
from algm_trt.plugins import spec
from algm_trt.plugins.errors import AlgmError
from algm_trt.plugins.spec import FLOAT16_MAX

Nodes: TypeAlias = list[Any]
"""Nodes of onnx-graphsurgeon, which has no types."""


class PrecisionError(AlgmError):
    """A model whose numbers do not fit into float16."""


@dataclass(frozen=True)
class Island:
    """Nodes that stay in float32.

    Attributes:
        name: for people.
        reason: why float16 would harm there.
        members: picks the nodes of a graph.
    """

    name: str
    reason: str
    members: Callable[[Any], Nodes]


def _preprocessing(graph: Any) -> Nodes:
    """From the uint8 pictures to the transposition to channels first, inclusive."""
    users: Nodes = next((value.outputs for value in graph.inputs if value.name == "images"), [])
    found: Nodes = []
    while not found or found[-1].op != "Transpose":
        if len(users) != 1:
            raise PrecisionError("the preprocessing of the model is not that of algm-export: export it again")
        found += users
        users = found[-1].outputs[0].outputs
    return found


def _normalisations(graph: Any) -> Nodes:
    return [node for node in graph.nodes if node.op == "LayerNormalization"]


def _scores(graph: Any) -> Nodes:
    """The nodes after the last learned matrices, up to the logits and labels."""
    found: dict[int, Any] = {}
    waiting = [value.inputs[0] for value in graph.outputs if value.name in ("logits", "labels")]
    while waiting:
        node = waiting.pop()
        if id(node) in found or _learned(node):
            continue
        found[id(node)] = node
        waiting += [tensor.inputs[0] for tensor in _activations(node) if tensor.inputs]
    return list(found.values())


def _merges(graph: Any) -> Nodes:
    return [node for node in graph.nodes if node.op in (spec.LOCAL_MERGE.name, spec.GLOBAL_MERGE.name)]


def _merged_stream(graph: Any) -> Nodes:
    """From the pictures to the first tokens, and what is added to them up to the last merge, which is included."""
    merges = _merges(graph)
    if not merges:
        return []
    node = merges[-1]
    found: Nodes = []
    while node.op != "Add" or not any(isinstance(tensor, gs.Constant) for tensor in node.inputs):
        found.append(node)
        # Both merges and both residual additions of a block have the stream as their first input.
        node = node.inputs[0].inputs[0]
    return found + _upstream(node)


def _before_merging(graph: Any) -> Nodes:
    """All that the first merge depends on."""
    return _upstream(merges[0]) if (merges := _merges(graph)) else []


def _upstream(last: Any) -> Nodes:
    """A node and all nodes that it depends on."""
    found: dict[int, Any] = {}
    waiting = [last]
    while waiting:
        node = waiting.pop()
        if id(node) not in found:
            found[id(node)] = node
            waiting += [tensor.inputs[0] for tensor in node.inputs if tensor.inputs]
    return list(found.values())


ISLANDS: Final = (
    Island(
        "preprocessing",
        "pixel minus mean over standard deviation: exact in float32, and as fast since it reads bytes; the first "
        "cast comes after the transposition, so that the model sees what PyTorch would round",
        _preprocessing,
    ),
    Island(
        "layer normalisation",
        "sums of squares of the residual stream leave float16's range in trained Vision Transformers, and its mean "
        "loses digits; TensorRT joins the casts with the kernel",
        _normalisations,
    ),
    Island(
        "class scores",
        "cosines, mask normalisation and interpolation decide between classes whose scores differ in the fourth "
        "digit; they are a hundredth of the work",
        _scores,
    ),
)
"""What stays in float32 in the graph. Inside the operators of domain `algm` similarities, means, thresholds and softmax
sums are float32 as well, whatever the type of the activations: the merging decisions hang on them."""

REFINEMENTS: Final = (
    Island(
        "merged stream",
        "roundings of the patch embedding and of the residual stream are most of the error of a trained network's "
        "similarities; in float32 they cost 1.5 % of the operations of a ViT-S at 512 x 512, and twice the bytes",
        _merged_stream,
    ),
    Island(
        "before the first merge",
        "a network whose first attention is sharp multiplies every rounding in front of it, and then nothing less "
        "than float32 up to the first merge keeps the order of its windows; these are 9 % of the operations of a ViT-S "
        "at 512 x 512, with an attention that TensorRT does not fuse",
        _before_merging,
    ),
)
"""Islands that only some merging networks need, cheapest first. A dense network has none of these nodes."""


def to_float16(model: onnx.ModelProto, refinements: int = 0) -> onnx.ModelProto:
    """The float16 model of a float32 export; a float16 export is returned as it is.

    Args:
        model: with its model card and function bodies; it is not changed.
        refinements: how many of `REFINEMENTS` stay in float32 as well, in their order.

    Returns:
        A model with the same inputs and outputs, whose card says fp16.

    Raises:
        PrecisionError: a weight is beyond float16 or not a number, and the message names it; or the model is not a
            floating-point one of algm-export.
    """
    card = card_of(model)
    if card is not None and card.precision == "fp16":
        return model
    if card is not None and card.precision == "int8":
        raise PrecisionError("an int8 model cannot become float16: export the checkpoint with --precision fp32")
    # Functions cast by themselves and stay as they are.
    graph = open_graph(model)
    conversion = _Conversion(graph, float_tensors(model), _kept(graph, refinements))
    conversion.run()
    _check_weights(model, conversion.constants)
    half = closed_graph(graph, model, {new.name: name for name, new in conversion.constants.items()})
    if card is not None:
        set_card(half, replace(card, precision="fp16"))
    return half


def float_tensors(model: onnx.ModelProto) -> set[str]:
    """Names of the float32 tensors of a graph that nodes compute."""
    return {name for name, kind in element_types(model).items() if kind == TensorProto.FLOAT}


def float16_tensors(model: onnx.ModelProto) -> list[str]:
    """Names of the float32 tensors that the conversion without refinements makes float16, in the order of the graph."""
    graph = open_graph(model)
    kept, floats = _kept(graph, 0), float_tensors(model)
    return [t.name for node in graph.nodes if id(node) not in kept for t in node.outputs if t.name in floats]


class _Conversion:
    """Rewrites a graph in place: one cast per tensor and direction, in front of the first node that needs it."""

    def __init__(self, graph: Any, floats: set[str], kept: set[int]) -> None:
        self.graph = graph
        self.floats = floats
        self.kept = kept
        self.halves = {
            tensor.name
            for node in graph.nodes
            if id(node) not in self.kept
            for tensor in node.outputs
            if tensor.name in floats
        }
        self.constants: dict[str, Any] = {}
        self.casts: dict[str, Any] = {}

    def run(self) -> None:
        nodes: Nodes = []
        for node in list(self.graph.nodes):
            nodes += self._cast_inputs(node)
            nodes.append(node)
        for node in nodes:
            for tensor in node.outputs:
                if tensor.name in self.halves:
                    tensor.dtype = np.float16
        self.graph.nodes = nodes

    def _cast_inputs(self, node: Any) -> Nodes:
        """Give a node its inputs in its own type; returns the casts that this needs."""
        added: Nodes = []
        if node.op == "Shape":  # which takes any type
            return added
        half_node = id(node) not in self.kept
        for index, tensor in enumerate(node.inputs):
            wants_half = half_node and not _always_float(node, index)
            if isinstance(tensor, gs.Constant):
                if wants_half and tensor.dtype == np.float32:
                    node.inputs[index] = self._half_constant(tensor)
            elif tensor.name in self.floats and (tensor.name in self.halves) != wants_half:
                name = f"{tensor.name}/{'fp16' if wants_half else 'fp32'}"
                if name not in self.casts:
                    self.casts[name] = gs.Variable(name, np.float16 if wants_half else np.float32)
                    to = TensorProto.FLOAT16 if wants_half else TensorProto.FLOAT
                    added.append(gs.Node("Cast", name, {"to": to}, [tensor], [self.casts[name]]))
                node.inputs[index] = self.casts[name]
        return added

    def _half_constant(self, tensor: Any) -> Any:
        if tensor.name not in self.constants:
            # An island may use the float32 constant too: both then exist, under two names.
            shared = any(id(node) in self.kept for node in tensor.outputs)
            name = f"{tensor.name}/fp16" if shared else tensor.name
            self.constants[tensor.name] = constant(name, np.float16, tensor.shape)
        return self.constants[tensor.name]


def _kept(graph: Any, refinements: int) -> set[int]:
    """Identities of the nodes of all islands."""
    islands = (*ISLANDS, *REFINEMENTS[:refinements])
    return {id(node) for island in islands for node in island.members(graph)}


def _learned(node: Any) -> bool:
    """Whether a node multiplies by or adds weights, normalisations aside."""
    return node.op != "LayerNormalization" and any(
        isinstance(tensor, gs.Constant) and tensor.dtype == np.float32 and len(tensor.shape) for tensor in node.inputs
    )


def _activations(node: Any) -> Iterator[Any]:
    """Inputs of a node that carry activations; for operators of ours, those without indices and lengths."""
    described = spec.OPS.get(node.op)
    for index, tensor in enumerate(node.inputs):
        if not isinstance(tensor, gs.Constant) and (described is None or described.inputs[index].dtype == "x"):
            yield tensor


def _always_float(node: Any, index: int) -> bool:
    """Whether an input of an operator of ours is float32 whatever the activations."""
    described = spec.OPS.get(node.op)
    return described is not None and described.inputs[index].dtype == "float32"


def _check_weights(model: onnx.ModelProto, names: Iterable[str]) -> None:
    """Name every weight that float16 cannot hold.

    Raises:
        PrecisionError: there are some.
    """
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    largest = {name: float(np.abs(numpy_helper.to_array(weights[name])).max(initial=0)) for name in names}
    beyond = [f"{name} reaches {size:.3g}" for name, size in largest.items() if not size <= FLOAT16_MAX]
    if beyond:
        raise PrecisionError(f"float16 ends at {FLOAT16_MAX:g}, but {', '.join(beyond)}: build with --fp32")
