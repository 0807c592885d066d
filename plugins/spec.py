"""The operators of domain `algm` as data: read by the exporter, the reference, the builder, the plugins and the tests.

Dimensions: B images, E extra tokens in front (class token, distillation token), N0 = h*w grid tokens, C channels,
K classes, T/T1/T2 tokens of the whole batch. From the first merge on, the tokens of all images lie one after another
in (T, C) and `cu_seqlens` (B+1) marks where each image begins: `tokens of image b = x[cu_seqlens[b]:cu_seqlens[b+1]]`.

`token_map[b, i]` is the index, inside image b and counted with the extra tokens, of the token that patch i went to.
`count` is the number of rows of `y`: TensorRT's size tensor of the data-dependent dimension.

Attributes: `grid` and `window` are heights and widths in tokens, `extra_tokens` is E, `layer` counts from 1. No image
has more tokens than `max_tokens`, by which implementations size their work. `expected_keep` is the share of tokens left
that TensorRT tunes for. Nodes also have `plugin_namespace` and `plugin_version`, by which TensorRT finds the plugin.

Semantics, the same in every implementation (the official code with one image per batch is what they are held against):

AlgmLocalMerge. A window of m tokens merges iff its mean pairwise cosine similarity, (|sum of unit tokens|^2 - m) /
(m (m-1)) in float32, is at or above the threshold. An image's output is: extra tokens, then merged windows (mean of
their tokens, size m) by descending similarity with ties by lower window index, then the other tokens by ascending
index. Unit tokens are x / max(|x|, 1e-12). A similarity that is not a number does not merge.

AlgmGlobalMerge. A = tokens at even positions of an image, B = tokens at odd positions. Each A token that is not an
extra token takes its most similar B token (cosine, float32, ties by lower index; the second extra token is never a
destination). It merges iff that similarity is at or above mean + std / layer of the image, over those A tokens
(unbiased std). With fewer than two such A tokens, or no destination, nothing merges. The destination becomes the
size-weighted mean, summed in the order destination first, then sources ascending. Output order: extra tokens, then
unmerged A ascending, then B ascending.

AlgmPackedAttention. Softmax attention inside each image with scale (C / heads) ** -0.5; qkv holds q, k, v in
thirds of the channels, heads in order.

AlgmAppendTokens. Leaves out the first `drop` tokens of each image and appends the K rows of `tokens` to it.

AlgmUnmerge. `grid[b, i]` is the token of image b at `token_map[b, i] - drop`; `appended` are the last K tokens of
each image. With `appended` = 0 the op has one output.

AlgmLabels. Bilinear interpolation to `size` (half-pixel centres, border repeated: torch's `interpolate` with
`align_corners=False`), then argmax over classes, ties by lower class id.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

DOMAIN: Final = "algm"
VERSION: Final = 1
PLUGIN_NAMESPACE: Final = "algm"
PLUGIN_VERSION: Final = "1"


@dataclass(frozen=True)
class Tensor:
    """One input or output: name, dimensions for people, and type ("x" = the activations' type: float32 or float16)."""

    name: str
    shape: tuple[str, ...]
    dtype: str


@dataclass(frozen=True)
class Attribute:
    """One attribute of an operator.

    Attributes:
        name: in the ONNX node.
        kind: "int", "ints" or "float".
        minimum: least value that is valid.
        maximum: greatest value that is valid.
        length: how many values "ints" has.
        hint: whether it only serves tuning: results do not depend on it.
    """

    name: str
    kind: str
    minimum: float
    maximum: float
    length: int = 1
    hint: bool = False


@dataclass(frozen=True)
class OpSpec:
    """One operator.

    Attributes:
        name: the ONNX op_type, which is also the TensorRT plugin's name.
        inputs: in order.
        outputs: in order.
        attributes: in order of declaration.
        size_outputs: indices of the outputs that are TensorRT's size tensors.
    """

    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    attributes: tuple[Attribute, ...]
    size_outputs: tuple[int, ...] = ()


def _tensor(name: str, shape: str, dtype: str) -> Tensor:
    return Tensor(name, tuple(shape.split()), dtype)


MAX_TOKENS: Final = 2**20
MAX_CLASSES: Final = 2**16 - 1
FLOAT16_MAX: Final = 65504.0
"""The largest number that float16 activations and weights can hold."""

_EXTRA = Attribute("extra_tokens", "int", 1, 2)
_EXPECTED_KEEP = Attribute("expected_keep", "float", 0.0, 1.0, hint=True)
_MAX_TOKENS = Attribute("max_tokens", "int", 1, MAX_TOKENS)
_DROP = Attribute("drop", "int", 0, 2)

LOCAL_MERGE: Final = OpSpec(
    name="AlgmLocalMerge",
    inputs=(_tensor("x", "B E+N0 C", "x"), _tensor("threshold", "", "float32")),
    outputs=(
        _tensor("y", "T1 C", "x"),
        _tensor("sizes", "T1", "int32"),
        _tensor("cu_seqlens", "B+1", "int32"),
        _tensor("token_map", "B N0", "int32"),
        _tensor("count", "", "int32"),
    ),
    attributes=(
        Attribute("grid", "ints", 1, 4096, length=2),
        Attribute("window", "ints", 1, 64, length=2),
        _EXTRA,
        _EXPECTED_KEEP,
    ),
    size_outputs=(4,),
)

GLOBAL_MERGE: Final = OpSpec(
    name="AlgmGlobalMerge",
    inputs=(
        _tensor("x", "T1 C", "x"),
        _tensor("sizes", "T1", "int32"),
        _tensor("cu_seqlens", "B+1", "int32"),
        _tensor("token_map", "B N0", "int32"),
    ),
    outputs=(
        _tensor("y", "T2 C", "x"),
        _tensor("sizes", "T2", "int32"),
        _tensor("cu_seqlens", "B+1", "int32"),
        _tensor("token_map", "B N0", "int32"),
        _tensor("count", "", "int32"),
    ),
    attributes=(Attribute("layer", "int", 1, 1024), _EXTRA, _MAX_TOKENS, _EXPECTED_KEEP),
    size_outputs=(4,),
)

PACKED_ATTENTION: Final = OpSpec(
    name="AlgmPackedAttention",
    inputs=(_tensor("qkv", "T 3C", "x"), _tensor("cu_seqlens", "B+1", "int32")),
    outputs=(_tensor("y", "T C", "x"),),
    attributes=(Attribute("heads", "int", 1, 1024), _MAX_TOKENS),
)

APPEND_TOKENS: Final = OpSpec(
    name="AlgmAppendTokens",
    inputs=(_tensor("x", "T C", "x"), _tensor("cu_seqlens", "B+1", "int32"), _tensor("tokens", "K C", "x")),
    outputs=(_tensor("y", "T+B(K-drop) C", "x"), _tensor("cu_seqlens", "B+1", "int32")),
    attributes=(_DROP,),
)

UNMERGE: Final = OpSpec(
    name="AlgmUnmerge",
    inputs=(_tensor("x", "T C", "x"), _tensor("cu_seqlens", "B+1", "int32"), _tensor("token_map", "B N0", "int32")),
    outputs=(_tensor("grid", "B N0 C", "x"), _tensor("appended", "B K C", "x")),
    attributes=(Attribute("appended", "int", 0, MAX_CLASSES), _DROP),
)

LABELS: Final = OpSpec(
    name="AlgmLabels",
    inputs=(_tensor("logits", "B h w K", "x"),),
    outputs=(_tensor("labels", "B H W", "int32"),),
    attributes=(Attribute("size", "ints", 1, 65536, length=2),),
)

OPS: Final[Mapping[str, OpSpec]] = {
    op.name: op for op in (LOCAL_MERGE, GLOBAL_MERGE, PACKED_ATTENTION, APPEND_TOKENS, UNMERGE, LABELS)
}
