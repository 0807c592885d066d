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
    patch = model.config.patch_size
    grid = -(-size[0] // patch), -(-size[1] // patch)
    g = GraphBuilder(precision)
    if model.merge is None:
        g.begin_quantized()
    tokens = _encoder(g, model, size, grid)
    scores = _decoder(g, model, tokens, grid)
    _outputs(g, model, tokens, scores, size, grid)
    batch = 1 if precision == "int8" else "batch"
    return g.model("algm_segmenter", _inputs(model, size, batch), _output_infos(model, size, grid, batch))


def _inputs(model: Segmenter, size: tuple[int, int], batch: int | str) -> list[onnx.ValueInfoProto]:
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, [batch, *size, 3])
    threshold = helper.make_tensor_value_info("threshold", TensorProto.FLOAT, [])
    return [images, threshold] if model.merge else [images]


def _output_infos(
    model: Segmenter, size: tuple[int, int], grid: tuple[int, int], batch: int | str
) -> list[onnx.ValueInfoProto]:
    classes = model.config.n_cls
    label_type = TensorProto.UINT8 if classes <= MAX_UINT8_CLASSES else TensorProto.INT32
    return [
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, classes, *grid]),
        helper.make_tensor_value_info("labels", label_type, [batch, *size]),
        helper.make_tensor_value_info("token_counts", TensorProto.INT32, [batch, 3]),
        helper.make_tensor_value_info("token_map", TensorProto.INT32, [batch, *grid]),
    ]


def _encoder(g: GraphBuilder, model: Segmenter, size: tuple[int, int], grid: tuple[int, int]) -> GraphTokens:
    tokens = GraphTokens(_embed(g, model, size, grid))
    max_tokens = model.config.extra_tokens + grid[0] * grid[1]
    for layer, block in enumerate(model.encoder.blocks, start=1):
        name = f"encoder.blocks.{layer - 1}"
        tokens = tokens.with_x(_attend(g, block, tokens, name, max_tokens))
        if model.merge is not None and layer in model.merge.layers:
            tokens = _merge(g, model, tokens, layer, grid, max_tokens)
        tokens = tokens.with_x(_feed(g, block, tokens.x, name))
    return tokens.with_x(g.layer_norm(model.encoder.norm, tokens.x, "encoder.norm"))


def _embed(g: GraphBuilder, model: Segmenter, size: tuple[int, int], grid: tuple[int, int]) -> str:
    """Pixels to tokens with positions, (B, E+N0, C)."""
    encoder, patch = model.encoder, model.config.patch_size
    mean, std = (np.array(values, np.float32) for values in NORMALIZATIONS[model.config.normalization])
    x = g.node("Cast", ["images"], "preprocess/float", to=TensorProto.FLOAT)
    x = g.node("Sub", [x, g.constant("preprocess.mean", mean)], "preprocess/centre")
    x = g.node("Div", [x, g.constant("preprocess.std", std)], "preprocess/scale")
    x = g.from_float32(g.node("Transpose", [x], "preprocess/nchw", perm=[0, 3, 1, 2]))
    bottom, right = grid[0] * patch - size[0], grid[1] * patch - size[1]
    if bottom or right:
        pads = g.constant("preprocess.pads", np.array([0, 0, 0, 0, 0, 0, bottom, right], np.int64))
        x = g.node("Pad", [x, pads], "preprocess/pad")
    projection = encoder.patch_embed.proj
    weight = g.weight("encoder.patch_embed.proj.weight", projection.weight)
    bias = g.weight("encoder.patch_embed.proj.bias", _bias(projection))
    name = "encoder.patch_embed"
    x = g.node("Conv", [x, weight, bias], f"{name}/proj", kernel_shape=[patch, patch], strides=[patch, patch])
    flat = g.constant("encoder.patch_embed.flat", np.array([0, 0, -1], np.int64))
    x = g.node("Transpose", [g.node("Reshape", [x, flat], f"{name}/flatten")], f"{name}/tokens", perm=[0, 2, 1])
    # Rows of zeros in front, to which the extra tokens are added together with the positions: no batch size needed.
    extra = model.config.extra_tokens
    pads = g.constant("encoder.extra_pads", np.array([0, extra, 0, 0, 0, 0], np.int64))
    x = g.node("Pad", [x, pads], f"{name}/extra_rows")
    positions = encoder.positions(grid).detach().clone()
    positions[:, :extra] += encoder.extra()
    return g.node("Add", [x, g.weight("encoder.extra_and_pos_embed", positions)], f"{name}/positions")


def _attend(g: GraphBuilder, block: Block, tokens: GraphTokens, name: str, max_tokens: int) -> str:
    normed = g.layer_norm(block.norm1, tokens.x, f"{name}.norm1")
    qkv = g.linear(block.attn.qkv, normed, f"{name}.attn.qkv")
    if tokens.cu_seqlens:
        mixed = f"{name}.attn/packed_attention"
        attributes = {"heads": block.attn.heads, "max_tokens": max_tokens}
        g.algm(spec.PACKED_ATTENTION, [qkv, tokens.cu_seqlens], mixed, [mixed], **attributes)
    else:
        mixed = _dense_attention(g, block.attn, qkv, f"{name}.attn")
    return g.node("Add", [tokens.x, g.linear(block.attn.proj, mixed, f"{name}.attn.proj")], f"{name}.attn/residual")


def _dense_attention(g: GraphBuilder, attention: Attention, qkv: str, name: str) -> str:
    """`qkv` (B, N, 3C) to (B, N, C) in the form that TensorRT fuses: scale on q, no casts around the softmax."""
    depth = attention.qkv.in_features // attention.heads
    split = g.constant(f"attention.split_{attention.heads}", np.array([0, 0, 3, attention.heads, -1], np.int64))
    heads = g.node("Reshape", [qkv, split], f"{name}/heads")
    by_head = g.node("Transpose", [heads], f"{name}/by_head", perm=[2, 0, 3, 1, 4])
    parts = [f"{name}/{part}_1" for part in "qkv"]
    g.node("Split", [by_head], f"{name}/split", parts, axis=0, num_outputs=3)
    zero = g.constant("axis_0", np.array([0], np.int64))
    q, k, v = (g.node("Squeeze", [part, zero], part.removesuffix("_1")) for part in parts)
    scale = g.constant(f"attention.scale_{depth}", np.array(depth**-0.5, g.dtype))
    q = g.node("Mul", [q, scale], f"{name}/q_scaled")
    k_t = g.node("Transpose", [k], f"{name}/k_t", perm=[0, 1, 3, 2])
    weights = g.node("Softmax", [g.node("MatMul", [q, k_t], f"{name}/scores")], f"{name}/softmax", axis=-1)
    mixed = g.node("MatMul", [weights, v], f"{name}/mixed")
    by_token = g.node("Transpose", [mixed], f"{name}/by_token", perm=[0, 2, 1, 3])
    return g.node("Reshape", [by_token, g.constant("attention.join", np.array([0, 0, -1], np.int64))], f"{name}/join")


def _feed(g: GraphBuilder, block: Block, x: str, name: str) -> str:
    hidden = g.linear(block.mlp.fc1, g.layer_norm(block.norm2, x, f"{name}.norm2"), f"{name}.mlp.fc1")
    out = g.linear(block.mlp.fc2, g.node("Gelu", [hidden], f"{name}.mlp/gelu"), f"{name}.mlp.fc2")
    return g.node("Add", [x, out], f"{name}.mlp/residual")


def _merge(
    g: GraphBuilder, model: Segmenter, t: GraphTokens, layer: int, grid: tuple[int, int], max_tokens: int
) -> GraphTokens:
    assert model.merge is not None
    extra = model.config.extra_tokens
    name = f"encoder.blocks.{layer - 1}/" + ("global_merge" if t.cu_seqlens else "local_merge")
    outputs = [f"{name}/{part}" for part in ("y", "sizes", "cu_seqlens", "token_map", "count")]
    if t.cu_seqlens:
        inputs = [t.x, t.sizes, t.cu_seqlens, t.token_map]
        g.algm(spec.GLOBAL_MERGE, inputs, name, outputs, layer=layer, extra_tokens=extra, max_tokens=max_tokens)
    else:
        window = list(model.merge.window)
        g.algm(spec.LOCAL_MERGE, [t.x, "threshold"], name, outputs, grid=list(grid), window=window, extra_tokens=extra)
        g.begin_quantized()
    return GraphTokens(outputs[0], outputs[1], outputs[2], outputs[3], (*t.history, outputs[2]))


def _decoder(g: GraphBuilder, model: Segmenter, tokens: GraphTokens, grid: tuple[int, int]) -> str:
    """Class scores on the grid, float32 (B, h, w, K)."""
    if isinstance(model.decoder, LinearDecoder):
        flat = _linear_decoder(g, model, model.decoder, tokens)
    else:
        flat = _mask_decoder(g, model, model.decoder, tokens, grid)
    shape = g.constant("decoder.grid_shape", np.array([0, *grid, model.config.n_cls], np.int64))
    return g.node("Reshape", [flat, shape], "decoder/scores_hw")


def _linear_decoder(g: GraphBuilder, model: Segmenter, decoder: LinearDecoder, t: GraphTokens) -> str:
    if not t.cu_seqlens:
        t = t.with_x(_drop_extra(g, model, t.x))
    scores = g.to_float32(g.linear(decoder.head, t.x, "decoder.head", exact=True))
    if t.cu_seqlens:
        inputs, scores = [scores, t.cu_seqlens, t.token_map], "decoder/unmerge/grid"
        g.algm(spec.UNMERGE, inputs, "decoder/unmerge", [scores], appended=0, drop=0)
    return scores


def _mask_decoder(
    g: GraphBuilder, model: Segmenter, decoder: MaskTransformer, t: GraphTokens, grid: tuple[int, int]
) -> str:
    extra, classes, patches = model.config.extra_tokens, model.config.n_cls, grid[0] * grid[1]
    x = g.linear(decoder.proj_dec, t.x, "decoder.proj_dec")
    if t.cu_seqlens:
        tokens = g.weight("decoder.cls_emb", decoder.cls_emb[0])
        name = "decoder/append_tokens"
        g.algm(spec.APPEND_TOKENS, [x, t.cu_seqlens, tokens], name, [f"{name}/y", f"{name}/cu_seqlens"], drop=extra)
        t = replace(t, x=f"{name}/y", cu_seqlens=f"{name}/cu_seqlens")
    else:
        pads = g.constant("decoder.class_pads", np.array([0, 0, 0, 0, classes, 0], np.int64))
        x = g.node("Pad", [_drop_extra(g, model, x), pads], "decoder/class_rows")
        rows = torch.cat([torch.zeros(1, patches, decoder.cls_emb.shape[2]), decoder.cls_emb.detach()], dim=1)
        t = GraphTokens(g.node("Add", [x, g.weight("decoder.cls_emb_rows", rows)], "decoder/with_classes"))
    for index, block in enumerate(decoder.blocks):
        name = f"decoder.blocks.{index}"
        t = t.with_x(_attend(g, block, t, name, patches + classes))
        t = t.with_x(_feed(g, block, t.x, name))
    x = g.layer_norm(decoder.decoder_norm, t.x, "decoder.decoder_norm")
    parts = ["decoder/unmerge/grid", "decoder/unmerge/classes"]
    if t.cu_seqlens:
        g.algm(spec.UNMERGE, [x, t.cu_seqlens, t.token_map], "decoder/unmerge", parts, appended=classes, drop=extra)
    else:
        sizes = g.constant("decoder.parts", np.array([patches, classes], np.int64))
        g.node("Split", [x, sizes], "decoder/split", parts, axis=1)
    return _mask_scores(g, decoder, *parts)


def _mask_scores(g: GraphBuilder, decoder: MaskTransformer, patches: str, classes: str) -> str:
    """Cosines of patches and classes, normalised over the classes, in float32 whatever the precision."""
    units = []
    for part, value, weight in (("patch", patches, decoder.proj_patch), ("classes", classes, decoder.proj_classes)):
        projected = g.node("MatMul", [value, g.weight(f"decoder.proj_{part}", weight)], f"decoder.proj_{part}/matmul")
        projected = g.to_float32(projected)
        last = g.constant("axis_last", np.array([-1], np.int64))
        length = g.node("ReduceL2", [projected, last], f"decoder.proj_{part}/length", keepdims=1)
        units.append(g.node("Div", [projected, length], f"decoder.proj_{part}/unit"))
    classes_t = g.node("Transpose", [units[1]], "decoder.proj_classes/unit_t", perm=[0, 2, 1])
    cosines = g.node("MatMul", [units[0], classes_t], "decoder/cosines")
    norm = decoder.mask_norm
    scale = g.constant("decoder.mask_norm.weight", norm.weight.detach().numpy().astype(np.float32))
    bias = g.constant("decoder.mask_norm.bias", norm.bias.detach().numpy().astype(np.float32))
    return g.node("LayerNormalization", [cosines, scale, bias], "decoder.mask_norm", axis=-1, epsilon=norm.eps)


def _drop_extra(g: GraphBuilder, model: Segmenter, x: str) -> str:
    start = g.constant("decoder.first_patch", np.array([model.config.extra_tokens], np.int64))
    stop = g.constant("to_the_end", TO_THE_END)
    return g.node("Slice", [x, start, stop, g.constant("axis_1", np.array([1], np.int64))], "decoder/patches")


def _outputs(
    g: GraphBuilder, model: Segmenter, t: GraphTokens, scores: str, size: tuple[int, int], grid: tuple[int, int]
) -> None:
    g.node("Transpose", [scores], "decoder/logits", ["logits"], perm=[0, 3, 1, 2])
    patch = model.config.patch_size
    padded = [grid[0] * patch, grid[1] * patch]
    g.algm(spec.LABELS, [scores], "labels/argmax", ["labels/padded"], size=padded)
    pixels = "labels/padded"
    if padded != list(size):
        zeros = g.constant("axes_zero", np.zeros(2, np.int64))
        stops = g.constant("labels.size", np.array(size, np.int64))
        axes = g.constant("axes_1_2", np.array([1, 2], np.int64))
        pixels = g.node("Slice", [pixels, zeros, stops, axes], "labels/crop")
    narrow = model.config.n_cls <= MAX_UINT8_CLASSES
    if narrow:
        # TensorRT's documentation allows uint8 to come from float32 and float16 only, not from int32.
        pixels = g.node("Cast", [pixels], "labels/float", to=TensorProto.FLOAT)
    to = TensorProto.UINT8 if narrow else TensorProto.INT32
    g.node("Cast", [pixels], "labels/cast", ["labels"], to=to)
    _telemetry(g, model, t, scores, grid)


def _telemetry(g: GraphBuilder, model: Segmenter, t: GraphTokens, scores: str, grid: tuple[int, int]) -> None:
    """`token_counts` and `token_map`."""
    extra, patches = model.config.extra_tokens, grid[0] * grid[1]
    if not t.cu_seqlens:
        # Not of the pictures: TensorRT's documentation allows uint8 to be converted and nothing else.
        batch = g.node("Shape", [scores], "tokens/batch", start=0, end=1)
        for output, row in (
            ("token_counts", np.full((1, 3), extra + patches, np.int32)),
            ("token_map", np.arange(extra, extra + patches, dtype=np.int32).reshape(1, *grid)),
        ):
            tail = g.constant(f"tokens.{output}_tail", np.array(row.shape[1:], np.int64))
            shape = g.node("Concat", [batch, tail], f"tokens/{output}_shape", axis=0)
            g.node("Expand", [g.constant(f"tokens.{output}", row), shape], f"tokens/{output}", [output])
        return
    one, zero = g.constant("first", np.array([1], np.int64)), g.constant("start", np.array([0], np.int64))
    last, stop = g.constant("but_last", np.array([-1], np.int64)), g.constant("to_the_end", TO_THE_END)
    columns = []
    for title, cu in (("local", t.history[0]), ("final", t.history[-1])):
        begins = g.node("Slice", [cu, zero, last], f"tokens/{title}_begin")
        lengths = g.node("Sub", [g.node("Slice", [cu, one, stop], f"tokens/{title}_end"), begins], f"tokens/{title}")
        columns.append(g.node("Unsqueeze", [lengths, one], f"tokens/{title}_column"))
    nothing = g.node("Mul", [columns[0], g.constant("tokens.zero", np.array(0, np.int32))], "tokens/zero")
    full = g.constant("tokens.full", np.array(extra + patches, np.int32))
    columns.insert(0, g.node("Add", [nothing, full], "tokens/grid_column"))
    g.node("Concat", columns, "tokens/counts", ["token_counts"], axis=1)
    shape = g.constant("tokens.map_shape", np.array([0, *grid], np.int64))
    g.node("Reshape", [t.token_map, shape], "tokens/map", ["token_map"])


def _bias(module: nn.Conv2d) -> torch.Tensor:
    assert module.bias is not None
    return module.bias
