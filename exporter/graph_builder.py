"""What a graph is collected in: nodes, initialisers and the layers that every part of the network is made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from algm_trt.exporter.config import ConfigError
from algm_trt.exporter.functions import OPSET_VERSION, functions_for
from algm_trt.exporter.quantization import quantize_weight
from algm_trt.plugins import spec

IR_VERSION: Final = 10

# Share of tokens left after a merge that TensorRT tunes its kernels for.
EXPECTED_KEEP: Final = {"AlgmLocalMerge": 0.65, "AlgmGlobalMerge": 0.8}


class GraphBuilder:
    """Collects nodes and initialisers; every node is named by its place in the network.

    Attributes:
        precision: "fp32" or "fp16", the type of weights and activations; "int8" is float32 but for linear layers.
        dtype: type of weights and activations in NumPy.
        onnx_dtype: the same in ONNX.
        quantized: whether linear layers that are added now are quantised: in "int8", from where that may begin.
        nodes: in the order in which they were added.
        initializers: by name.
    """

    def __init__(self, precision: str) -> None:
        self.precision = precision
        self.dtype = np.float16 if precision == "fp16" else np.float32
        self.onnx_dtype = TensorProto.FLOAT16 if precision == "fp16" else TensorProto.FLOAT
        self.quantized = False
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}

    def node(
        self, op_type: str, inputs: Sequence[str], name: str, outputs: Sequence[str] = (), **attributes: Any
    ) -> str:
        """Add a standard operator; returns the name of its (first) output, which is the node's name by default."""
        names = list(outputs) or [name]
        self.nodes.append(helper.make_node(op_type, list(inputs), names, name=name, **attributes))
        return names[0]

    def algm(
        self, op: spec.OpSpec, inputs: Sequence[str], name: str, outputs: Sequence[str], **attributes: Any
    ) -> None:
        """Add an operator of domain `algm`."""
        if op.name in EXPECTED_KEEP:
            attributes["expected_keep"] = EXPECTED_KEEP[op.name]
        attributes |= {"plugin_namespace": spec.PLUGIN_NAMESPACE, "plugin_version": spec.PLUGIN_VERSION}
        node = helper.make_node(op.name, list(inputs), list(outputs), name=name, domain=spec.DOMAIN, **attributes)
        self.nodes.append(node)

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """Add an initialiser of the array's own type.

        Raises:
            ValueError: the name stands for another value already.
        """
        tensor = numpy_helper.from_array(np.ascontiguousarray(value), name)
        if self.initializers.setdefault(name, tensor) != tensor:
            raise ValueError(f"{name} has another value already")
        return name

    def weight(self, name: str, value: torch.Tensor) -> str:
        """Add an initialiser of the activations' type.

        Raises:
            ConfigError: a value is beyond float16.
        """
        array = value.detach().cpu().numpy().astype(np.float32)
        if self.precision == "fp16" and (largest := float(np.abs(array).max(initial=0))) > spec.FLOAT16_MAX:
            raise ConfigError(
                f"{name} reaches {largest:.3g}, beyond float16 ({spec.FLOAT16_MAX:g}): export with --precision fp32"
            )
        return self.constant(name, array.astype(self.dtype))

    def to_float32(self, value: str) -> str:
        """Leave the activations' type for an island in float32."""
        return self.node("Cast", [value], f"{value}/fp32", to=TensorProto.FLOAT) if self.precision == "fp16" else value

    def from_float32(self, value: str) -> str:
        """Come back from an island in float32."""
        return self.node("Cast", [value], f"{value}/fp16", to=self.onnx_dtype) if self.precision == "fp16" else value

    def begin_quantized(self) -> None:
        """From here on, linear layers of an "int8" model are quantised: no local merge comes that would see it."""
        self.quantized = self.precision == "int8"

    def linear(self, module: nn.Linear, x: str, name: str, *, exact: bool = False) -> str:
        """`x @ W.T + b` over the last dimension; `exact` keeps it in the activations' type, whatever the precision."""
        if self.quantized and not exact:
            product = self._quantized_matmul(x, module.weight.T, name)
        else:
            product = self.node("MatMul", [x, self.weight(f"{name}.weight_t", module.weight.T)], f"{name}/matmul")
        return self.node("Add", [product, self.weight(f"{name}.bias", module.bias)], f"{name}/bias")

    def _quantized_matmul(self, x: str, weight: torch.Tensor, name: str) -> str:
        """`x @ weight` in eight bits, which ONNX Runtime runs as one kernel; see `algm_trt.exporter.quantization`."""
        quantized, scale = quantize_weight(weight.detach().cpu().numpy().astype(np.float32))
        x_parts = [f"{name}/{part}" for part in ("quantized", "scale", "zero_point")]
        self.node("DynamicQuantizeLinear", [x], f"{name}/quantize", x_parts)
        x_quantized, x_scale, x_zero_point = x_parts
        factors = [x_quantized, self.constant(f"{name}.weight_t.quantized", quantized), x_zero_point]
        product = self.node("MatMulInteger", factors, f"{name}/matmul_integer")
        product = self.node("Cast", [product], f"{name}/matmul_float", to=TensorProto.FLOAT)
        scales = self.node("Mul", [x_scale, self.constant(f"{name}.weight_t.scale", scale)], f"{name}/matmul_scale")
        return self.node("Mul", [product, scales], f"{name}/matmul")

    def layer_norm(self, module: nn.LayerNorm, x: str, name: str) -> str:
        """LayerNorm over the last dimension, in float32 whatever the precision."""
        scale = self.constant(f"{name}.weight", module.weight.detach().numpy().astype(np.float32))
        bias = self.constant(f"{name}.bias", module.bias.detach().numpy().astype(np.float32))
        normed = self.node("LayerNormalization", [self.to_float32(x), scale, bias], name, axis=-1, epsilon=module.eps)
        return self.from_float32(normed)

    def model(
        self, name: str, inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[onnx.ValueInfoProto]
    ) -> onnx.ModelProto:
        """All that was added as a model, with the function bodies of its operators."""
        graph = helper.make_graph(self.nodes, name, inputs, outputs, list(self.initializers.values()))
        return helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET_VERSION), helper.make_opsetid(spec.DOMAIN, spec.VERSION)],
            ir_version=IR_VERSION,
            producer_name="algm-trt",
            functions=functions_for(self.nodes),
        )
