"""Operator cases as data, shared by every implementation: NumPy, PyTorch, ONNX function bodies, kernels.

Inputs are made in one of two ways. *Clear* data are random, with every decision at least `CLEAR` away from falling the
other way, so that float32 rounding decides nothing. *Exact* data are tokens of +1 and -1 with 4 or 16 channels: their
lengths and cosines are exact in float32, so they may tie, and ties have one right answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from helpers.compare import CLEAR, global_margin, local_margin
from numpy.typing import NDArray

from algm_trt.plugins import reference, spec

Array = NDArray[Any]
Size = tuple[int, int]

# Thresholds that no similarity reaches and that every one does.
NOTHING, EVERYTHING = 2.0, -1.0


@dataclass(frozen=True)
class OpCase:
    """One call of an operator.

    Attributes:
        name: what is special about it.
        op: the operator.
        make: makes the inputs, in the order of `op.inputs`.
        attributes: all but the hints.
        heavy: takes seconds or gigabytes in the slower implementations.
        magnifies: how many times the usual tolerance two roundings of the same outputs may be apart.
    """

    name: str
    op: spec.OpSpec
    make: Callable[[], tuple[Array, ...]]
    attributes: dict[str, Any] = field(default_factory=dict)
    heavy: bool = False
    magnifies: float = 1.0

    def __str__(self) -> str:
        return f"{self.op.name}-{self.name}"

    def inputs(self) -> tuple[Array, ...]:
        """Fresh inputs, the same every time."""
        return self.make()

    @property
    def output_count(self) -> int:
        """Outputs of the node: AlgmUnmerge has one where nothing was appended."""
        nothing_appended = self.op is spec.UNMERGE and self.attributes["appended"] == 0
        return 1 if nothing_appended else len(self.op.outputs)


FUNCTIONS = {
    spec.LOCAL_MERGE.name: "local_merge",
    spec.GLOBAL_MERGE.name: "global_merge",
    spec.PACKED_ATTENTION.name: "packed_attention",
    spec.APPEND_TOKENS.name: "append_tokens",
    spec.UNMERGE.name: "unmerge",
    spec.LABELS.name: "labels",
}
"""Name of each operator's function in every implementation."""


def function_of(implementation: Any, op: spec.OpSpec) -> Callable[..., Any]:
    """An operator's function in a module, such as `reference` or `ops`, or in an object."""
    function: Callable[..., Any] = getattr(implementation, FUNCTIONS[op.name])
    return function


def reference_outputs(case: OpCase, inputs: Sequence[Array]) -> tuple[Array, ...]:
    """What the NumPy reference says about a case."""
    given = {name: value for name, value in case.attributes.items() if name != "max_tokens"}
    result = function_of(reference, case.op)(*inputs, **given)
    if isinstance(result, reference.Merged):
        return result.y, result.sizes, result.cu_seqlens, result.token_map, result.count
    outputs = result if isinstance(result, tuple) else (result,)
    return outputs[: case.output_count]


# Tokens.


def mixed_tokens(random: np.random.Generator, batch: int, grid: Size, extra: int, channels: int, window: Size) -> Array:
    """Dense tokens (B, E+N0, C) float32 whose windows are anything from even to unrelated; images are unlike."""
    members = reference.window_members(grid, window)
    x = random.standard_normal((batch, extra + grid[0] * grid[1], channels))
    for image in x:
        base = random.standard_normal((len(members), 1, channels))
        noise = random.uniform(0.05, 1.5, (len(members), 1, 1)) * random.uniform(0.3, 1.2)
        image[extra + members] = base + noise * random.standard_normal((*members.shape, channels))
    return x.astype(np.float32)


def signs(random: np.random.Generator, *shape: int) -> Array:
    """Values of +1 and -1, float32."""
    return (random.integers(0, 2, shape) * 2 - 1).astype(np.float32)


def cumulative(lengths: Sequence[int]) -> NDArray[np.int32]:
    """Starts of images with these lengths: (B+1) int32."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)


def random_map(random: np.random.Generator, lengths: Sequence[int], patches: int, extra: int) -> NDArray[np.int32]:
    """A token behind the extra ones for every patch, and as far as they last a patch for every token: (B, patches)."""
    everyone = [np.arange(extra, length)[:patches] for length in lengths]
    others = [random.integers(extra, length, patches - len(own)) for length, own in zip(lengths, everyone, strict=True)]
    maps = [random.permutation(np.concatenate(parts)) for parts in zip(everyone, others, strict=True)]
    return np.stack(maps).astype(np.int32)


def _first_clear(make: Callable[[np.random.Generator], tuple[tuple[Array, ...], float]]) -> tuple[Array, ...]:
    """Inputs of the first seed whose margin is clear."""
    for seed in range(200):
        inputs, margin = make(np.random.default_rng(seed))
        if margin >= CLEAR:
            return inputs
    raise AssertionError("no seed gives inputs with clear decisions: take fewer tokens")


# AlgmLocalMerge.


def _widest_gap(similarity: Array, share: float) -> float:
    """A threshold that about `share` of the windows reach, in the widest gap around there."""
    ordered = np.sort(similarity.ravel())
    middle = int(len(ordered) * (1 - share))
    low, high = max(0, middle - len(ordered) // 10 - 1), min(len(ordered) - 1, middle + len(ordered) // 10 + 1)
    at = low + int(np.argmax(np.diff(ordered[low : high + 1])))
    return float(np.float32((ordered[at] + ordered[at + 1]) / 2))


def _clear_local(
    batch: int, grid: Size, window: Size, extra: int, channels: int, dtype: str, share: float
) -> tuple[Array, ...]:
    def make(random: np.random.Generator) -> tuple[tuple[Array, ...], float]:
        x = mixed_tokens(random, batch, grid, extra, channels, window).astype(dtype)
        threshold = {0.0: NOTHING, 1.0: EVERYTHING}.get(share)
        if threshold is None:
            threshold = _widest_gap(reference.window_similarity(x[:, extra:], grid, window), share)
        return (x, np.array(threshold, np.float32)), local_margin(x, threshold, grid, window, extra)

    return _first_clear(make)


def local_case(
    name: str,
    batch: int = 1,
    grid: Size = (6, 10),
    window: Size = (2, 2),
    extra: int = 1,
    channels: int = 24,
    dtype: str = "float32",
    share: float = 0.5,
) -> OpCase:
    """A local merge of clear data in which about `share` of the windows merge."""
    return OpCase(
        name,
        spec.LOCAL_MERGE,
        lambda: _clear_local(batch, grid, window, extra, channels, dtype, share),
        {"grid": grid, "window": window, "extra_tokens": extra},
    )


def exact_local_case(
    name: str,
    batch: int,
    grid: Size,
    window: Size,
    threshold: float,
    extra: int = 1,
    dtype: str = "float32",
    heavy: bool = False,
) -> OpCase:
    """A local merge of exact data: few distinct similarities, so most windows tie."""

    def make() -> tuple[Array, ...]:
        random = np.random.default_rng(5)
        x = signs(random, batch, extra + grid[0] * grid[1], 4).astype(dtype)
        return x, np.array(threshold, np.float32)

    return OpCase(name, spec.LOCAL_MERGE, make, {"grid": grid, "window": window, "extra_tokens": extra}, heavy)


def _threshold(value: float) -> Array:
    return np.array(value, np.float32)


def _equal_tokens(batch: int, count: int, value: float) -> Array:
    return np.full((batch, count, 4), value, np.float32)


def _damaged_tokens() -> tuple[Array, ...]:
    """Some tokens are zero, one is not a number, one is infinite: their windows do not merge, the others do."""
    x = np.ones((2, 1 + 24, 4), np.float32)
    x[0, 1:3] = 0
    x[0, 12] = np.nan
    x[1, 20, 2] = np.inf
    x[1, 0] = np.nan
    return x, np.array(0.5, np.float32)


_SMALL = {"grid": (2, 2), "window": (2, 2), "extra_tokens": 1}

LOCAL_CASES = (
    local_case("one image"),
    local_case("two extra tokens", extra=2),
    local_case("three images", batch=3, grid=(8, 8)),
    local_case("thirty-three images", batch=33, grid=(4, 4), channels=7),
    local_case("nothing merges", batch=3, share=0.0),
    local_case("everything merges", batch=3, grid=(4, 8), share=1.0),
    local_case("few merge", batch=2, grid=(8, 12), share=0.1),
    local_case("window 4x4", batch=3, grid=(8, 16), window=(4, 4)),
    local_case("window 2x4", batch=2, grid=(6, 12), window=(2, 4)),
    local_case("window 3x1", grid=(9, 5), window=(3, 1), extra=2),
    local_case("window is the grid", batch=2, grid=(3, 5), window=(3, 5), share=0.5),
    local_case("one channel more than eight", batch=2, channels=9),
    local_case("512 pixels", grid=(32, 32), channels=64),
    local_case("float16", batch=3, grid=(8, 8), dtype="float16"),
    local_case("float16, two extra tokens, window 4x4", grid=(8, 8), window=(4, 4), extra=2, dtype="float16"),
    exact_local_case("ties", 3, (8, 8), (2, 2), 0.1),
    exact_local_case("ties, float16", 2, (8, 12), (2, 4), 0.01, extra=2, dtype="float16"),
    exact_local_case("threshold is a similarity", 2, (8, 8), (2, 1), 0.5),
    exact_local_case("2560 pixels", 2, (160, 160), (2, 2), 0.1, heavy=True),
    OpCase("grid 2x2", spec.LOCAL_MERGE, lambda: (signs(np.random.default_rng(1), 2, 5, 4), _threshold(0.2)), _SMALL),
    OpCase("all tokens equal", spec.LOCAL_MERGE, lambda: (_equal_tokens(2, 5, 3), _threshold(0.88)), _SMALL),
    OpCase("all tokens zero", spec.LOCAL_MERGE, lambda: (_equal_tokens(2, 5, 0), _threshold(-0.1)), _SMALL),
    OpCase(
        "zeros, NaN and infinity",
        spec.LOCAL_MERGE,
        _damaged_tokens,
        {"grid": (4, 6), "window": (2, 2), "extra_tokens": 1},
    ),
)


# AlgmGlobalMerge.


def _sizes(random: np.random.Generator, lengths: Sequence[int], extra: int) -> NDArray[np.int32]:
    """1 for the extra tokens, 1 to 16 for the others."""
    sizes = random.integers(1, 17, sum(lengths)).astype(np.int32)
    for start in cumulative(lengths)[:-1]:
        sizes[start : start + extra] = 1
    return sizes


def _merge_inputs(random: np.random.Generator, x: Array, lengths: Sequence[int], extra: int) -> tuple[Array, ...]:
    patches = max(lengths)
    return x, _sizes(random, lengths, extra), cumulative(lengths), random_map(random, lengths, patches, extra)


def clear_packed(
    random: np.random.Generator, lengths: Sequence[int], channels: int, dtype: str, layer: int, extra: int
) -> Array:
    """Packed tokens (T, C) with a clear global merge; every image is drawn until its own decisions are clear."""
    images = []
    for length in lengths:
        for _ in range(500):
            centres = random.standard_normal((length // 8 + 1, channels))
            noise = random.uniform(0.1, 1.0, (length, 1)) * random.standard_normal((length, channels))
            image = (centres[random.integers(0, len(centres), length)] + noise).astype(dtype)
            if global_margin(image, np.array([0, length]), layer, extra) >= CLEAR:
                break
        else:
            raise AssertionError(f"no {length} tokens with clear decisions found: take fewer")
        images.append(image)
    return np.concatenate(images)


def global_case(
    name: str,
    lengths: Sequence[int],
    layer: int = 5,
    extra: int = 1,
    channels: int = 24,
    dtype: str = "float32",
    room: int = 0,
) -> OpCase:
    """A global merge of clear data; `max_tokens` is the longest image plus `room`."""

    def make() -> tuple[Array, ...]:
        random = np.random.default_rng(len(lengths) + lengths[-1])
        x = clear_packed(random, lengths, channels, dtype, layer, extra)
        return _merge_inputs(random, x, lengths, extra)

    attributes = {"layer": layer, "extra_tokens": extra, "max_tokens": max(lengths) + room}
    return OpCase(name, spec.GLOBAL_MERGE, make, attributes)


def exact_global_case(
    name: str,
    lengths: Sequence[int],
    extra: int = 1,
    dtype: str = "float32",
    equal: bool = False,
    heavy: bool = False,
) -> OpCase:
    """A global merge of exact data: most tokens have several equally good destinations."""

    def make() -> tuple[Array, ...]:
        random = np.random.default_rng(11)
        x = np.ones((sum(lengths), 16), np.float32) if equal else signs(random, sum(lengths), 16)
        return _merge_inputs(random, x.astype(dtype), lengths, extra)

    attributes = {"layer": 5, "extra_tokens": extra, "max_tokens": max(lengths)}
    return OpCase(name, spec.GLOBAL_MERGE, make, attributes, heavy)


GLOBAL_CASES = (
    global_case("one image", [60]),
    global_case("odd tokens", [61]),
    global_case("two extra tokens", [60], extra=2),
    global_case("two extra tokens, odd", [61, 40], extra=2),
    *(global_case(f"{n} tokens", [n]) for n in (2, 3, 4, 5, 6)),
    *(global_case(f"{n} tokens, two extra", [n], extra=2) for n in (3, 4, 5, 6)),
    global_case("few tokens in one batch", [2, 3, 4, 5]),
    global_case("few tokens beside many", [2, 300, 3, 129], room=500),
    global_case("three unlike images", [128, 2, 57]),
    global_case("thirty-three images", [3 + (7 * i) % 40 for i in range(33)], channels=9),
    global_case("padding boundary", [127, 128, 129]),
    global_case("nothing merges: layer 1, two candidates", [5, 6], layer=1),
    global_case("layer 12", [100, 33], layer=12),
    global_case("many tokens", [1025], channels=64),
    global_case("float16", [100, 31, 64], dtype="float16"),
    global_case("float16, two extra tokens", [50, 77], extra=2, dtype="float16"),
    exact_global_case("ties", [64, 37, 100]),
    exact_global_case("ties, two extra tokens, float16", [65, 38], extra=2, dtype="float16"),
    exact_global_case("all tokens equal", [64, 9, 7], equal=True),
    exact_global_case("all tokens equal, two extra tokens", [64, 9, 8], extra=2, equal=True),
    exact_global_case("4097 tokens", [4097, 2], heavy=True),
)


# AlgmPackedAttention.


def attention_case(
    name: str,
    lengths: Sequence[int],
    heads: int = 2,
    depth: int = 16,
    dtype: str = "float32",
    scale: float = 1.0,
    room: int = 0,
    magnifies: float = 1.0,
) -> OpCase:
    """Attention inside images of these lengths; `scale` makes the softmax sharper."""

    def make() -> tuple[Array, ...]:
        random = np.random.default_rng(sum(lengths))
        qkv = random.standard_normal((sum(lengths), 3 * heads * depth))
        qkv[:, : heads * depth] *= scale
        return qkv.astype(dtype), cumulative(lengths)

    attributes = {"heads": heads, "max_tokens": max(lengths) + room}
    return OpCase(name, spec.PACKED_ATTENTION, make, attributes, magnifies=magnifies)


ATTENTION_CASES = (
    attention_case("one image", [60]),
    attention_case("one token", [1]),
    attention_case("few tokens", [2, 1, 3, 5, 4]),
    attention_case("three unlike images", [128, 2, 57], heads=3),
    attention_case("thirty-three images", [1 + (7 * i) % 40 for i in range(33)]),
    attention_case("padding boundary", [63, 64, 65], room=1000),
    attention_case("one head of depth 64", [100, 31], heads=1, depth=64),
    attention_case("odd depth", [33, 34], heads=3, depth=7),
    # Scores reach 137: float32 rounds them by up to 8e-6, and their weights by as large a share.
    attention_case("sharp softmax", [50, 70], scale=30.0, magnifies=5.0),
    attention_case("many tokens", [1025, 300], depth=32),
    attention_case("float16", [100, 31, 64], depth=32, dtype="float16"),
    attention_case("float16, sharp softmax", [50, 3], dtype="float16", scale=10.0),
)


# AlgmAppendTokens.


def append_case(name: str, lengths: Sequence[int], tokens: int, drop: int, dtype: str = "float32") -> OpCase:
    """Append `tokens` rows to each image."""

    def make() -> tuple[Array, ...]:
        random = np.random.default_rng(tokens)
        x = random.standard_normal((sum(lengths), 11)).astype(dtype)
        return x, cumulative(lengths), random.standard_normal((tokens, 11)).astype(dtype)

    return OpCase(name, spec.APPEND_TOKENS, make, {"drop": drop})


APPEND_CASES = (
    append_case("one image", [60], 19, 1),
    append_case("three unlike images", [128, 2, 57], 150, 1),
    append_case("two dropped", [9, 3, 40], 12, 2),
    append_case("nothing dropped", [9, 3, 40], 12, 0),
    append_case("one class", [5, 2], 1, 1),
    append_case("image of dropped tokens only", [1, 7, 1], 3, 1),
    append_case("more dropped than appended", [5, 2, 9], 1, 2),
    append_case("thirty-three images", [2 + (7 * i) % 40 for i in range(33)], 5, 1),
    append_case("float16", [31, 64], 21, 1, dtype="float16"),
)


# AlgmUnmerge.


def unmerge_case(
    name: str, lengths: Sequence[int], patches: int, appended: int, drop: int, extra: int = 1, dtype: str = "float32"
) -> OpCase:
    """Lengths are those of x: without the `drop` tokens that its map still counts, with the `appended` ones."""

    def make() -> tuple[Array, ...]:
        random = np.random.default_rng(patches)
        x = random.standard_normal((sum(lengths), 11)).astype(dtype)
        counted = [length + drop - appended for length in lengths]
        return x, cumulative(lengths), random_map(random, counted, patches, extra)

    return OpCase(name, spec.UNMERGE, make, {"appended": appended, "drop": drop})


UNMERGE_CASES = (
    unmerge_case("one image", [60], 64, 19, 1),
    unmerge_case("three unlike images", [200, 154, 151], 100, 150, 1),
    unmerge_case("nothing appended", [30, 2, 9], 64, 0, 0),
    unmerge_case("nothing appended, two extra tokens", [30, 3, 9], 64, 0, 0, extra=2),
    unmerge_case("two dropped", [30, 14, 15], 64, 12, 2, extra=2),
    unmerge_case("one class, one patch", [2, 2], 1, 1, 1),
    unmerge_case("thirty-three images", [6 + (7 * i) % 40 for i in range(33)], 77, 5, 1),
    unmerge_case("float16", [64, 31], 64, 12, 1, dtype="float16"),
)


# AlgmLabels.


def labels_case(
    name: str, batch: int, grid: Size, classes: int, size: Size, dtype: str = "float32", levels: int = 0
) -> OpCase:
    """Random logits, or with `levels` whole numbers of so many values, which tie."""

    def make() -> tuple[Array, ...]:
        random = np.random.default_rng(classes)
        if levels:
            return (random.integers(0, levels, (batch, *grid, classes)).astype(dtype),)
        return (random.standard_normal((batch, *grid, classes)).astype(dtype),)

    return OpCase(name, spec.LABELS, make, {"size": size})


LABELS_CASES = (
    labels_case("one image", 1, (6, 10), 12, (96, 160)),
    labels_case("three images, 150 classes", 3, (8, 8), 150, (128, 128)),
    labels_case("thirty-three images", 33, (2, 3), 5, (32, 48)),
    labels_case("one class", 2, (3, 4), 1, (48, 64)),
    labels_case("300 classes", 1, (4, 5), 300, (64, 80)),
    labels_case("grid 1x1", 2, (1, 1), 7, (16, 16)),
    labels_case("grid 1x5", 1, (1, 5), 7, (16, 80)),
    labels_case("patch 32", 1, (3, 4), 19, (96, 128)),
    labels_case("odd size", 2, (5, 7), 9, (67, 101)),
    labels_case("same size", 2, (5, 7), 9, (5, 7)),
    labels_case("smaller", 1, (9, 8), 6, (5, 3)),
    labels_case("float16", 2, (6, 6), 21, (96, 96), dtype="float16"),
    labels_case("ties", 2, (6, 6), 21, (96, 96), levels=2),
    labels_case("all equal", 1, (4, 4), 5, (64, 64), levels=1),
)

CASES = (*LOCAL_CASES, *GLOBAL_CASES, *ATTENTION_CASES, *APPEND_CASES, *UNMERGE_CASES, *LABELS_CASES)
