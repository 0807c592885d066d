"""Small ONNX graphs of the operators, functions left out: one per operator, and a chain of all six."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from algm_trt.plugins.spec import DOMAIN, OPS, PLUGIN_NAMESPACE, PLUGIN_VERSION, VERSION

Extent = int | str
Shape = tuple[int, ...]

_DTYPES = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "int32": TensorProto.INT32}
_NAMES = {"float32": "FLOAT", "float16": "HALF", "int32": "INT32"}


@dataclass(frozen=True)
class Graph:
    """A model for TensorRT and what parsing it must give.

    Attributes:
        model: the ONNX model, checked.
        profile: per input the smallest, the usual and the largest shape.
        plugins: number of operators of ours.
        outputs: per output its type by TensorRT's name and its extents, -1 where the batch or the data decide.
    """

    model: onnx.ModelProto
    profile: Mapping[str, tuple[Shape, Shape, Shape]]
    plugins: int
    outputs: Mapping[str, tuple[str, list[int]]]

    @property
    def serialized(self) -> bytes:
        """The model as bytes."""
        return self.model.SerializeToString()


@dataclass(frozen=True)
class Input:
    """A graph input: type and shape for the smallest, usual and largest batch, equal extents being fixed."""

    dtype: str
    smallest: Shape
    usual: Shape
    largest: Shape


@dataclass
class GraphBuilder:
    """Collects nodes, inputs and weights."""

    activation: str
    inputs: dict[str, Input] = field(default_factory=dict)
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)

    def input(self, name: str, dtype: str, *shapes: Shape) -> str:
        """Add an input with one shape, or with the smallest, usual and largest; "x" is the activations' type."""
        smallest, usual, largest = shapes * 3 if len(shapes) == 1 else shapes
        self.inputs[name] = Input(self.activation if dtype == "x" else dtype, smallest, usual, largest)
        return name

    def weight(self, name: str, *shape: int) -> str:
        """Add a constant of small random numbers."""
        values = np.random.default_rng(len(self.weights)).standard_normal(shape) / 16
        self.weights.append(numpy_helper.from_array(values.astype(self.activation), name))
        return name

    def op(self, name: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: object) -> None:
        """Add one of our operators with the attributes by which TensorRT finds its plugin."""
        common = {"plugin_namespace": PLUGIN_NAMESPACE, "plugin_version": PLUGIN_VERSION}
        label = f"{name}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(name, inputs, outputs, name=label, domain=DOMAIN, **common, **attributes))

    def standard(self, name: str, inputs: Sequence[str], output: str, **attributes: object) -> str:
        """Add a standard operator with one output."""
        self.nodes.append(helper.make_node(name, inputs, [output], name=f"{name}_{len(self.nodes)}", **attributes))
        return output

    def graph(self, outputs: Mapping[str, tuple[str, Sequence[Extent]]]) -> Graph:
        """The finished graph; an extent given as text is not known before the engine runs."""
        typed = {n: (self.activation if t == "x" else t, list(s)) for n, (t, s) in outputs.items()}
        proto = helper.make_graph(
            self.nodes,
            "graph",
            [helper.make_tensor_value_info(n, _DTYPES[i.dtype], _extents(i, n)) for n, i in self.inputs.items()],
            [helper.make_tensor_value_info(n, _DTYPES[t], s) for n, (t, s) in typed.items()],
            self.weights,
        )
        opsets = [helper.make_opsetid("", 18), helper.make_opsetid(DOMAIN, VERSION)]
        return Graph(
            helper.make_model(proto, opset_imports=opsets, ir_version=9),
            {n: (i.smallest, i.usual, i.largest) for n, i in self.inputs.items() if i.smallest},
            sum(node.op_type in OPS for node in self.nodes),
            {n: (_NAMES[t], [-1 if isinstance(e, str) else e for e in s]) for n, (t, s) in typed.items()},
        )


def _extents(described: Input, name: str) -> list[Extent]:
    pairs = zip(described.smallest, described.largest, strict=True)
    return [low if low == high else f"{name}_{i}" for i, (low, high) in enumerate(pairs)]


def local_merge(activation: str) -> Graph:
    """One AlgmLocalMerge: a 4x6 grid in 2x3 windows behind two extra tokens, 64 channels, batch 1 to 8."""
    g = GraphBuilder(activation)
    g.input("x", "x", (1, 26, 64), (3, 26, 64), (8, 26, 64))
    g.input("threshold", "float32", ())
    attributes = {"grid": [4, 6], "window": [2, 3], "extra_tokens": 2, "expected_keep": 0.6}
    g.op("AlgmLocalMerge", ["x", "threshold"], ["y", "sizes", "cu_seqlens", "token_map", "count"], **attributes)
    return g.graph(
        {
            "y": ("x", ["T1", 64]),
            "sizes": ("int32", ["T1"]),
            "cu_seqlens": ("int32", ["B+1"]),
            "token_map": ("int32", ["B", 24]),
            "count": ("int32", []),
        }
    )


def global_merge(activation: str) -> Graph:
    """One AlgmGlobalMerge on up to 8 images of up to 25 tokens."""
    g = GraphBuilder(activation)
    g.input("x", "x", (2, 64), (60, 64), (200, 64))
    g.input("sizes", "int32", (2,), (60,), (200,))
    g.input("cu", "int32", (2,), (4,), (9,))
    g.input("map", "int32", (1, 24), (3, 24), (8, 24))
    attributes = {"layer": 6, "extra_tokens": 1, "max_tokens": 25, "expected_keep": 0.75}
    names = ["y", "new_sizes", "cu_seqlens", "token_map", "count"]
    g.op("AlgmGlobalMerge", ["x", "sizes", "cu", "map"], names, **attributes)
    return g.graph(
        {
            "y": ("x", ["T2", 64]),
            "new_sizes": ("int32", ["T2"]),
            "cu_seqlens": ("int32", ["B+1"]),
            "token_map": ("int32", ["B", 24]),
            "count": ("int32", []),
        }
    )


def packed_attention(activation: str) -> Graph:
    """One AlgmPackedAttention: 3 heads of 64 channels."""
    g = GraphBuilder(activation)
    g.input("qkv", "x", (1, 576), (60, 576), (200, 576))
    g.input("cu", "int32", (2,), (4,), (9,))
    g.op("AlgmPackedAttention", ["qkv", "cu"], ["y"], heads=3, max_tokens=25)
    return g.graph({"y": ("x", ["T", 192])})


def append_tokens(activation: str) -> Graph:
    """One AlgmAppendTokens: seven tokens in, the first of each image out."""
    g = GraphBuilder(activation)
    g.input("x", "x", (1, 64), (60, 64), (200, 64))
    g.input("cu", "int32", (2,), (4,), (9,))
    g.op("AlgmAppendTokens", ["x", "cu", g.weight("tokens", 7, 64)], ["y", "cu_seqlens"], drop=1)
    return g.graph({"y": ("x", ["T", 64]), "cu_seqlens": ("int32", ["B+1"])})


def unmerge(activation: str) -> Graph:
    """One AlgmUnmerge with seven appended tokens."""
    return _unmerge(activation, 7)


def unmerge_plain(activation: str) -> Graph:
    """One AlgmUnmerge without appended tokens: one output."""
    return _unmerge(activation, 0)


def _unmerge(activation: str, appended: int) -> Graph:
    g = GraphBuilder(activation)
    g.input("x", "x", (8, 64), (60, 64), (200, 64))
    g.input("cu", "int32", (2,), (4,), (9,))
    g.input("map", "int32", (1, 24), (3, 24), (8, 24))
    outputs = {"grid": ("x", ["B", 24, 64]), "appended": ("x", ["B", appended, 64])}
    if not appended:
        del outputs["appended"]
    g.op("AlgmUnmerge", ["x", "cu", "map"], list(outputs), appended=appended, drop=1)
    return g.graph(outputs)


def labels(activation: str) -> Graph:
    """One AlgmLabels: a 4x6 grid of 19 classes to 61x97 labels."""
    g = GraphBuilder(activation)
    g.input("logits", "x", (1, 4, 6, 19), (3, 4, 6, 19), (8, 4, 6, 19))
    g.op("AlgmLabels", ["logits"], ["labels"], size=[61, 97])
    return g.graph({"labels": ("int32", ["B", 61, 97])})


def chain(activation: str) -> Graph:
    """All six operators in a row, with matrix products between: the mask decoder's path on an 8x8 grid."""
    g = GraphBuilder(activation)
    channels, classes, tokens = 128, 7, 65
    g.input("x", "x", (1, tokens, channels), (4, tokens, channels), (8, tokens, channels))
    g.input("threshold", "float32", ())
    g.op(
        "AlgmLocalMerge",
        ["x", "threshold"],
        ["y1", "sizes1", "cu1", "map1", "count1"],
        grid=[8, 8],
        window=[2, 2],
        extra_tokens=1,
        expected_keep=0.6,
    )
    attended = _attend(g, "encoder", "y1", "cu1", channels, tokens)
    g.op(
        "AlgmGlobalMerge",
        [attended, "sizes1", "cu1", "map1"],
        ["y2", "sizes2", "cu2", "map2", "count2"],
        layer=6,
        extra_tokens=1,
        max_tokens=tokens,
        expected_keep=0.8,
    )
    g.op("AlgmAppendTokens", ["y2", "cu2", g.weight("class_tokens", classes, channels)], ["y3", "cu3"], drop=1)
    attended = _attend(g, "decoder", "y3", "cu3", channels, tokens + classes)
    g.op("AlgmUnmerge", [attended, "cu3", "map2"], ["grid", "appended"], appended=classes, drop=1)
    g.standard("Transpose", ["appended"], "classes", perm=[0, 2, 1])
    g.standard("MatMul", ["grid", "classes"], "scores")
    g.weights.append(numpy_helper.from_array(np.array([0, 8, 8, classes], np.int64), "spatial"))
    g.standard("Reshape", ["scores", "spatial"], "logits")
    g.op("AlgmLabels", ["logits"], ["labels"], size=[61, 97])
    return g.graph(
        {
            "labels": ("int32", ["B", 61, 97]),
            "logits": ("x", ["B", 8, 8, classes]),
            "count1": ("int32", []),
            "count2": ("int32", []),
        }
    )


def _attend(g: GraphBuilder, name: str, x: str, cu: str, channels: int, tokens: int) -> str:
    """A residual attention block without norm: x + attention(x W)."""
    g.standard("MatMul", [x, g.weight(f"{name}_weight", channels, 3 * channels)], f"{name}_qkv")
    heads = channels // 64
    g.op("AlgmPackedAttention", [f"{name}_qkv", cu], [f"{name}_attended"], heads=heads, max_tokens=tokens)
    return g.standard("Add", [x, f"{name}_attended"], f"{name}_out")


SINGLE = {
    graph.__name__: graph
    for graph in (local_merge, global_merge, packed_attention, append_tokens, unmerge, unmerge_plain, labels)
}
