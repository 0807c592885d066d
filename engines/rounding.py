"""A float16 graph as a GPU computes it, for ONNX Runtime on a CPU: the same numbers whatever the processor.

ONNX Runtime has few float16 kernels for CPUs. It computes in float32 and drops each cast to float16 that it need not
keep, those of the graph included: many roundings that an engine makes do not happen, and a comparison looks better than
the engine is. Here every node computes in float32 and an explicit pair of casts, which is kept, rounds its result.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import onnx
import onnx_graphsurgeon as gs  # type: ignore[import-untyped]
from onnx import TensorProto

from algm_trt.engines.weights import closed_graph, element_types, open_graph, values_of

# What these give was rounded before.
_MOVES: Final = {
    *("Identity", "Pad", "Reshape", "Slice", "Split", "Squeeze", "Transpose"),
    *("AlgmAppendTokens", "AlgmUnmerge"),
}


def with_roundings(half: onnx.ModelProto) -> onnx.ModelProto:
    """A model in float32 that rounds to float16 where a float16 engine rounds.

    Matrix products and the operators of domain `algm` sum in float32 and round their result, as tensor cores do; the
    scores of an attention, which fused kernels keep in float32, are not rounded.

    Args:
        half: a model of `algm_trt.engines.precision.to_float16` or of `algm-export --precision fp16`; not changed.

    Returns:
        A model with the same inputs and outputs and the same names of tensors.
    """
    graph = open_graph(half)
    for tensor in graph.tensors().values():
        if isinstance(tensor, gs.Constant) and tensor.dtype == np.float16:
            tensor.values = values_of(np.float32, tensor.shape)
    halves = float16_names(half)
    nodes: list[Any] = []
    for node in graph.nodes:
        nodes += [node, *_roundings(node, halves)]
    graph.nodes = nodes
    return closed_graph(graph, half, {})


def float16_names(half: onnx.ModelProto) -> set[str]:
    """Names of the float16 tensors that the nodes of a model compute."""
    return {name for name, kind in element_types(half).items() if kind == TensorProto.FLOAT16}


def _roundings(node: Any, halves: set[str]) -> list[Any]:
    """The casts behind a node, whose float16 outputs become float32."""
    added: list[Any] = []
    exact = node.op in _MOVES or _are_scores(node)
    for index, tensor in enumerate(node.outputs):
        if tensor.name not in halves:
            continue
        tensor.dtype = np.float32
        if exact:
            continue
        name = tensor.name
        rounded = gs.Variable(f"{name}/rounded", np.float16)
        if node.op == "Cast":
            node.outputs[index] = rounded
        else:
            node.outputs[index] = gs.Variable(f"{name}/exact", np.float32)
            added.append(_cast(f"{name}/round", TensorProto.FLOAT16, node.outputs[index], rounded))
        added.append(_cast(f"{name}/back", TensorProto.FLOAT, rounded, tensor))
    return added


def _are_scores(node: Any) -> bool:
    users = [user for tensor in node.outputs for user in tensor.outputs]
    return bool(users) and all(user.op == "Softmax" for user in users)


def _cast(name: str, to: int, source: Any, target: Any) -> Any:
    return gs.Node("Cast", name, {"to": to}, [source], [target])
