"""A Segmenter as an ONNX graph: standard operators where the tokens are dense, operators of domain `algm` around them.

The graph is written node by node from the module tree instead of being traced: names are those of the modules, no
shape arithmetic surrounds data-dependent dimensions, and float32 and float16 come from the same code.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from torch import nn

from algm_trt.exporter.config import NORMALIZATIONS
from algm_trt.exporter.decoder import LinearDecoder, MaskTransformer
from algm_trt.exporter.graph_builder import GraphBuilder
from algm_trt.exporter.segmenter import Segmenter
from algm_trt.exporter.vit import Attention, Block
from algm_trt.plugins import spec

MAX_UINT8_CLASSES = 256
TO_THE_END = np.array([np.iinfo(np.int64).max], np.int64)


@dataclass(frozen=True)
class GraphTokens:
    """Names of the tensors that carry tokens: the graph's twin of `algm_trt.exporter.vit.Tokens` and its packing.

    Attributes:
        x: dense (B, N, C), or packed (T, C) once merged.
        sizes: "" while dense, as the next two.
        cu_seqlens: start of each image.
        token_map: token of each patch.
        history: `cu_seqlens` after each merge so far.
    """

    x: str
    sizes: str = ""
    cu_seqlens: str = ""
    token_map: str = ""
    history: tuple[str, ...] = ()

    def with_x(self, x: str) -> GraphTokens:
        """The same tokens with other features."""
        return replace(self, x=x)


def build_graph(model: Segmenter, size: tuple[int, int], precision: str = "fp32") -> onnx.ModelProto:
    """Write the network as an ONNX model.

    Args:
        model: in evaluation mode; dense if its `merge` is None.
        size: height and width in pixels of the input; padded to multiples of the patch size inside the graph.
        precision: "fp32"; "fp16" for weights and activations in float16 with float32 islands; "int8" for float32 with
            quantised linear layers behind the local merge, or everywhere in a dense model. Class scores are not
            quantised: they would tie.

    Returns:
        A model with inputs `images` uint8 (B, H, W, 3) RGB and, if it merges, `threshold` float32 (); outputs `logits`
        float32 (B, K, h, w), `labels` uint8 (B, H, W) (int32 above 256 classes), `token_counts` int32 (B, 3) and
        `token_map` int32 (B, h, w). B is free, and 1 in "int8": activations are rounded within the span that they have
        in all that runs at once, so that pictures of a batch would change each other.

    Raises:
        ConfigError: a weight does not fit into float16.
    """
    return _NetworkGraph(model, size, precision).whole()


class _NetworkGraph(GraphBuilder):
    """The graph of one network.

    Attributes:
        network: in evaluation mode.
        config: its architecture.
        merge: its merge settings, or None.
        size: height and width in pixels of the input.
        grid: height and width in patches of the input, padded to whole ones.
        patches: their number.
        extra: tokens in front of the patches.
    """

    def __init__(self, network: Segmenter, size: tuple[int, int], precision: str) -> None:
        super().__init__(precision)
        self.network = network
        self.config = network.config
        self.merge = network.merge
        self.size = size
        self.grid = -(-size[0] // self.config.patch_size), -(-size[1] // self.config.patch_size)
        self.patches = self.grid[0] * self.grid[1]
        self.extra = self.config.extra_tokens

    def whole(self) -> onnx.ModelProto:
        """All of it, as a model."""
        if self.merge is None:
            self.begin_quantized()
        tokens = self._encoder()
        self._outputs(tokens, self._decoder(tokens))
        batch = 1 if self.precision == "int8" else "batch"
        return self.model("algm_segmenter", self._input_infos(batch), self._output_infos(batch))

    def _input_infos(self, batch: int | str) -> list[onnx.ValueInfoProto]:
        images = helper.make_tensor_value_info("images", TensorProto.UINT8, [batch, *self.size, 3])
        threshold = helper.make_tensor_value_info("threshold", TensorProto.FLOAT, [])
        return [images, threshold] if self.merge else [images]

    def _output_infos(self, batch: int | str) -> list[onnx.ValueInfoProto]:
        classes = self.config.n_cls
        label_type = TensorProto.UINT8 if classes <= MAX_UINT8_CLASSES else TensorProto.INT32
        return [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, classes, *self.grid]),
            helper.make_tensor_value_info("labels", label_type, [batch, *self.size]),
            helper.make_tensor_value_info("token_counts", TensorProto.INT32, [batch, 3]),
            helper.make_tensor_value_info("token_map", TensorProto.INT32, [batch, *self.grid]),
        ]

    def _encoder(self) -> GraphTokens:
        tokens = GraphTokens(self._embed())
        max_tokens = self.extra + self.patches
        for layer, block in enumerate(self.network.encoder.blocks, start=1):
            name = f"encoder.blocks.{layer - 1}"
            tokens = tokens.with_x(self._attend(block, tokens, name, max_tokens))
            if self.merge is not None and layer in self.merge.layers:
                tokens = self._merge(tokens, layer, max_tokens)
            tokens = tokens.with_x(self._feed(block, tokens.x, name))
        return tokens.with_x(self.layer_norm(self.network.encoder.norm, tokens.x, "encoder.norm"))

    def _embed(self) -> str:
        """Pixels to tokens with positions, (B, E+N0, C)."""
        encoder, patch = self.network.encoder, self.config.patch_size
        mean, std = (np.array(values, np.float32) for values in NORMALIZATIONS[self.config.normalization])
        x = self.node("Cast", ["images"], "preprocess/float", to=TensorProto.FLOAT)
        x = self.node("Sub", [x, self.constant("preprocess.mean", mean)], "preprocess/centre")
        x = self.node("Div", [x, self.constant("preprocess.std", std)], "preprocess/scale")
        x = self.from_float32(self.node("Transpose", [x], "preprocess/nchw", perm=[0, 3, 1, 2]))
        bottom, right = self.grid[0] * patch - self.size[0], self.grid[1] * patch - self.size[1]
        if bottom or right:
            pads = self.constant("preprocess.pads", np.array([0, 0, 0, 0, 0, 0, bottom, right], np.int64))
            x = self.node("Pad", [x, pads], "preprocess/pad")
        projection = encoder.patch_embed.proj
        weight = self.weight("encoder.patch_embed.proj.weight", projection.weight)
        bias = self.weight("encoder.patch_embed.proj.bias", _bias(projection))
        name = "encoder.patch_embed"
        x = self.node("Conv", [x, weight, bias], f"{name}/proj", kernel_shape=[patch, patch], strides=[patch, patch])
        flat = self.constant("encoder.patch_embed.flat", np.array([0, 0, -1], np.int64))
        x = self.node("Reshape", [x, flat], f"{name}/flatten")
        x = self.node("Transpose", [x], f"{name}/tokens", perm=[0, 2, 1])
        # Rows of zeros in front, to which the extra tokens are added together with the positions: no batch size needed.
        pads = self.constant("encoder.extra_pads", np.array([0, self.extra, 0, 0, 0, 0], np.int64))
        x = self.node("Pad", [x, pads], f"{name}/extra_rows")
        positions = encoder.positions(self.grid).detach().clone()
        positions[:, : self.extra] += encoder.extra()
        return self.node("Add", [x, self.weight("encoder.extra_and_pos_embed", positions)], f"{name}/positions")

    def _attend(self, block: Block, tokens: GraphTokens, name: str, max_tokens: int) -> str:
        normed = self.layer_norm(block.norm1, tokens.x, f"{name}.norm1")
        qkv = self.linear(block.attn.qkv, normed, f"{name}.attn.qkv")
        if tokens.cu_seqlens:
            mixed = f"{name}.attn/packed_attention"
            attributes = {"heads": block.attn.heads, "max_tokens": max_tokens}
            self.algm(spec.PACKED_ATTENTION, [qkv, tokens.cu_seqlens], mixed, [mixed], **attributes)
        else:
            mixed = self._dense_attention(block.attn, qkv, f"{name}.attn")
        out = self.linear(block.attn.proj, mixed, f"{name}.attn.proj")
        return self.node("Add", [tokens.x, out], f"{name}.attn/residual")

    def _dense_attention(self, attention: Attention, qkv: str, name: str) -> str:
        """`qkv` (B, N, 3C) to (B, N, C) in the form that TensorRT fuses: scale on q, no casts around the softmax."""
        depth = attention.qkv.in_features // attention.heads
        split = self.constant(f"attention.split_{attention.heads}", np.array([0, 0, 3, attention.heads, -1], np.int64))
        heads = self.node("Reshape", [qkv, split], f"{name}/heads")
        by_head = self.node("Transpose", [heads], f"{name}/by_head", perm=[2, 0, 3, 1, 4])
        parts = [f"{name}/{part}_1" for part in "qkv"]
        self.node("Split", [by_head], f"{name}/split", parts, axis=0, num_outputs=3)
        zero = self.constant("axis_0", np.array([0], np.int64))
        q, k, v = (self.node("Squeeze", [part, zero], part.removesuffix("_1")) for part in parts)
        scale = self.constant(f"attention.scale_{depth}", np.array(depth**-0.5, self.dtype))
        q = self.node("Mul", [q, scale], f"{name}/q_scaled")
        k_t = self.node("Transpose", [k], f"{name}/k_t", perm=[0, 1, 3, 2])
        weights = self.node("Softmax", [self.node("MatMul", [q, k_t], f"{name}/scores")], f"{name}/softmax", axis=-1)
        mixed = self.node("MatMul", [weights, v], f"{name}/mixed")
        by_token = self.node("Transpose", [mixed], f"{name}/by_token", perm=[0, 2, 1, 3])
        join = self.constant("attention.join", np.array([0, 0, -1], np.int64))
        return self.node("Reshape", [by_token, join], f"{name}/join")

    def _feed(self, block: Block, x: str, name: str) -> str:
        hidden = self.linear(block.mlp.fc1, self.layer_norm(block.norm2, x, f"{name}.norm2"), f"{name}.mlp.fc1")
        out = self.linear(block.mlp.fc2, self.node("Gelu", [hidden], f"{name}.mlp/gelu"), f"{name}.mlp.fc2")
        return self.node("Add", [x, out], f"{name}.mlp/residual")

    def _merge(self, t: GraphTokens, layer: int, max_tokens: int) -> GraphTokens:
        assert self.merge is not None
        name = f"encoder.blocks.{layer - 1}/" + ("global_merge" if t.cu_seqlens else "local_merge")
        outputs = [f"{name}/{part}" for part in ("y", "sizes", "cu_seqlens", "token_map", "count")]
        if t.cu_seqlens:
            inputs = [t.x, t.sizes, t.cu_seqlens, t.token_map]
            attributes = {"layer": layer, "extra_tokens": self.extra, "max_tokens": max_tokens}
            self.algm(spec.GLOBAL_MERGE, inputs, name, outputs, **attributes)
        else:
            shape = {"grid": list(self.grid), "window": list(self.merge.window)}
            self.algm(spec.LOCAL_MERGE, [t.x, "threshold"], name, outputs, **shape, extra_tokens=self.extra)
            self.begin_quantized()
        return GraphTokens(outputs[0], outputs[1], outputs[2], outputs[3], (*t.history, outputs[2]))

    def _decoder(self, tokens: GraphTokens) -> str:
        """Class scores on the grid, float32 (B, h, w, K)."""
        if isinstance(self.network.decoder, LinearDecoder):
            flat = self._linear_decoder(self.network.decoder, tokens)
        else:
            flat = self._mask_decoder(self.network.decoder, tokens)
        shape = self.constant("decoder.grid_shape", np.array([0, *self.grid, self.config.n_cls], np.int64))
        return self.node("Reshape", [flat, shape], "decoder/scores_hw")

    def _linear_decoder(self, decoder: LinearDecoder, t: GraphTokens) -> str:
        if not t.cu_seqlens:
            t = t.with_x(self._drop_extra(t.x))
        scores = self.to_float32(self.linear(decoder.head, t.x, "decoder.head", exact=True))
        if t.cu_seqlens:
            inputs, scores = [scores, t.cu_seqlens, t.token_map], "decoder/unmerge/grid"
            self.algm(spec.UNMERGE, inputs, "decoder/unmerge", [scores], appended=0, drop=0)
        return scores

    def _mask_decoder(self, decoder: MaskTransformer, t: GraphTokens) -> str:
        classes = self.config.n_cls
        x = self.linear(decoder.proj_dec, t.x, "decoder.proj_dec")
        if t.cu_seqlens:
            tokens = self.weight("decoder.cls_emb", decoder.cls_emb[0])
            name = "decoder/append_tokens"
            y, cu_seqlens = f"{name}/y", f"{name}/cu_seqlens"
            self.algm(spec.APPEND_TOKENS, [x, t.cu_seqlens, tokens], name, [y, cu_seqlens], drop=self.extra)
            t = replace(t, x=y, cu_seqlens=cu_seqlens)
        else:
            pads = self.constant("decoder.class_pads", np.array([0, 0, 0, 0, classes, 0], np.int64))
            x = self.node("Pad", [self._drop_extra(x), pads], "decoder/class_rows")
            rows = torch.cat([torch.zeros(1, self.patches, decoder.cls_emb.shape[2]), decoder.cls_emb.detach()], dim=1)
            t = GraphTokens(self.node("Add", [x, self.weight("decoder.cls_emb_rows", rows)], "decoder/with_classes"))
        for index, block in enumerate(decoder.blocks):
            name = f"decoder.blocks.{index}"
            t = t.with_x(self._attend(block, t, name, self.patches + classes))
            t = t.with_x(self._feed(block, t.x, name))
        x = self.layer_norm(decoder.decoder_norm, t.x, "decoder.decoder_norm")
        parts = ["decoder/unmerge/grid", "decoder/unmerge/classes"]
        if t.cu_seqlens:
            inputs = [x, t.cu_seqlens, t.token_map]
            self.algm(spec.UNMERGE, inputs, "decoder/unmerge", parts, appended=classes, drop=self.extra)
        else:
            sizes = self.constant("decoder.parts", np.array([self.patches, classes], np.int64))
            self.node("Split", [x, sizes], "decoder/split", parts, axis=1)
        return self._mask_scores(decoder, *parts)

    def _mask_scores(self, decoder: MaskTransformer, patches: str, classes: str) -> str:
        """Cosines of patches and classes, normalised over the classes, in float32 whatever the precision."""
        units = []
        for part, value, weight in (("patch", patches, decoder.proj_patch), ("classes", classes, decoder.proj_classes)):
            name = f"decoder.proj_{part}"
            projected = self.to_float32(self.node("MatMul", [value, self.weight(name, weight)], f"{name}/matmul"))
            last = self.constant("axis_last", np.array([-1], np.int64))
            length = self.node("ReduceL2", [projected, last], f"{name}/length", keepdims=1)
            units.append(self.node("Div", [projected, length], f"{name}/unit"))
        classes_t = self.node("Transpose", [units[1]], "decoder.proj_classes/unit_t", perm=[0, 2, 1])
        cosines = self.node("MatMul", [units[0], classes_t], "decoder/cosines")
        return self._mask_norm(decoder.mask_norm, cosines)

    def _mask_norm(self, norm: nn.LayerNorm, cosines: str) -> str:
        name = "decoder.mask_norm"
        single = self.config.n_cls == 1
        if single:
            # ONNX Runtime 1.21 to 1.23 normalises no single value. Beside its like it still is the mean, and becomes 0;
            # and it stays a normalisation, which the float16 conversion leaves in float32.
            cosines = self.node("Concat", [cosines, cosines], f"{name}/pair", axis=-1)
        weight, bias = (value.detach().numpy().astype(np.float32) for value in (norm.weight, norm.bias))
        scale = self.constant(f"{name}.weight", weight.repeat(1 + single))
        shift = self.constant(f"{name}.bias", bias.repeat(1 + single))
        normed = f"{name}/normed" if single else name
        self.node("LayerNormalization", [cosines, scale, shift], normed, axis=-1, epsilon=norm.eps)
        if single:
            part = [self.constant(key, np.array([at], np.int64)) for key, at in (("start", 0), ("first", 1))]
            axis = self.constant("axis_last", np.array([-1], np.int64))
            self.node("Slice", [normed, *part, axis], name)
        return name

    def _drop_extra(self, x: str) -> str:
        start = self.constant("decoder.first_patch", np.array([self.extra], np.int64))
        stop = self.constant("to_the_end", TO_THE_END)
        return self.node("Slice", [x, start, stop, self.constant("axis_1", np.array([1], np.int64))], "decoder/patches")

    def _outputs(self, t: GraphTokens, scores: str) -> None:
        self.node("Transpose", [scores], "decoder/logits", ["logits"], perm=[0, 3, 1, 2])
        patch = self.config.patch_size
        padded = [self.grid[0] * patch, self.grid[1] * patch]
        self.algm(spec.LABELS, [scores], "labels/argmax", ["labels/padded"], size=padded)
        pixels = "labels/padded"
        if padded != list(self.size):
            zeros = self.constant("axes_zero", np.zeros(2, np.int64))
            stops = self.constant("labels.size", np.array(self.size, np.int64))
            axes = self.constant("axes_1_2", np.array([1, 2], np.int64))
            pixels = self.node("Slice", [pixels, zeros, stops, axes], "labels/crop")
        narrow = self.config.n_cls <= MAX_UINT8_CLASSES
        if narrow:
            # TensorRT's documentation allows uint8 to come from float32 and float16 only, not from int32.
            pixels = self.node("Cast", [pixels], "labels/float", to=TensorProto.FLOAT)
        to = TensorProto.UINT8 if narrow else TensorProto.INT32
        self.node("Cast", [pixels], "labels/cast", ["labels"], to=to)
        self._telemetry(t, scores)

    def _telemetry(self, t: GraphTokens, scores: str) -> None:
        """`token_counts` and `token_map`."""
        if not t.cu_seqlens:
            # Not of the pictures: TensorRT's documentation allows uint8 to be converted and nothing else.
            batch = self.node("Shape", [scores], "tokens/batch", start=0, end=1)
            for output, row in (
                ("token_counts", np.full((1, 3), self.extra + self.patches, np.int32)),
                ("token_map", self.extra + np.arange(self.patches, dtype=np.int32).reshape(1, *self.grid)),
            ):
                tail = self.constant(f"tokens.{output}_tail", np.array(row.shape[1:], np.int64))
                shape = self.node("Concat", [batch, tail], f"tokens/{output}_shape", axis=0)
                self.node("Expand", [self.constant(f"tokens.{output}", row), shape], f"tokens/{output}", [output])
            return
        one, zero = self.constant("first", np.array([1], np.int64)), self.constant("start", np.array([0], np.int64))
        last, stop = self.constant("but_last", np.array([-1], np.int64)), self.constant("to_the_end", TO_THE_END)
        columns = []
        for title, cu in (("local", t.history[0]), ("final", t.history[-1])):
            begins = self.node("Slice", [cu, zero, last], f"tokens/{title}_begin")
            ends = self.node("Slice", [cu, one, stop], f"tokens/{title}_end")
            lengths = self.node("Sub", [ends, begins], f"tokens/{title}")
            columns.append(self.node("Unsqueeze", [lengths, one], f"tokens/{title}_column"))
        nothing = self.node("Mul", [columns[0], self.constant("tokens.zero", np.array(0, np.int32))], "tokens/zero")
        full = self.constant("tokens.full", np.array(self.extra + self.patches, np.int32))
        columns.insert(0, self.node("Add", [nothing, full], "tokens/grid_column"))
        self.node("Concat", columns, "tokens/counts", ["token_counts"], axis=1)
        shape = self.constant("tokens.map_shape", np.array([0, *self.grid], np.int64))
        self.node("Reshape", [t.token_map, shape], "tokens/map", ["token_map"])


def _bias(module: nn.Conv2d) -> torch.Tensor:
    assert module.bias is not None
    return module.bias
