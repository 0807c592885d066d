"""Cases and checks of the kernels, the same for the CPU twin and for a GPU: kernel against NumPy reference.

Inputs are of two sorts. Exact ones (every token a power of two on one axis) have similarities without rounding error,
so ties and decisions must agree with the reference whatever the order of summation. Generic ones are random, but with
decisions far enough from a threshold or rival that rounding cannot turn them; then results must agree bit by bit too,
since sums over tokens have a fixed order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from helpers.cases import cumulative
from helpers.compare import global_margin
from helpers.kernels import Array, Kernels

from algm_trt.plugins import reference

DTYPES = (np.float32, np.float16)
_MARGIN = 1e-4


@dataclass(frozen=True)
class LocalCase:
    """Shape of one local merge."""

    batch: int
    grid: tuple[int, int]
    window: tuple[int, int]
    channels: int
    extra_tokens: int = 1


LOCAL_CASES = [
    LocalCase(1, (2, 2), (2, 2), 8),
    LocalCase(3, (6, 10), (2, 2), 384, extra_tokens=2),
    LocalCase(2, (4, 6), (2, 2), 1100),
    LocalCase(33, (3, 5), (3, 5), 7),
    LocalCase(2, (9, 6), (3, 2), 100, extra_tokens=2),
    LocalCase(1, (32, 34), (2, 2), 64),
    LocalCase(1, (4, 128), (4, 64), 16),
    LocalCase(2, (3, 8), (1, 4), 504),
    LocalCase(1, (8, 3), (4, 1), 768),
    LocalCase(1, (4, 2), (2, 2), 1024, extra_tokens=2),
    LocalCase(1, (32, 32), (2, 2), 8),
    LocalCase(2, (6, 8), (2, 2), 192),
    LocalCase(2, (4, 4), (2, 2), 640),
    LocalCase(2, (4, 4), (2, 2), 992),
]
LARGE_LOCAL_CASE = LocalCase(2, (160, 160), (2, 2), 8)

# Lengths of the images, extra tokens, channels, patches.
GLOBAL_CASES: list[tuple[list[int], int, int, int]] = [
    ([1], 1, 8, 4),
    ([2, 1, 3, 4, 5, 6], 2, 16, 5),
    ([1, 2, 3, 4, 5, 6, 7], 1, 13, 5),
    ([130, 7, 257, 64, 65], 1, 72, 100),
    ([131, 6, 258], 2, 200, 100),
    ([6, 9, 31] * 11, 1, 40, 9),
    ([1290], 1, 64, 300),
    ([33, 8], 1, 776, 9),
    ([2310, 5], 1, 64, 50),
]
# Matches of its even tokens do not fit into shared memory; generic tokens of so many find no margins.
LONG_GLOBAL_CASE: tuple[list[int], int, int, int] = ([4301, 6], 1, 8, 50)

# Lengths of the images, heads.
ATTENTION_CASES: list[tuple[list[int], int]] = [
    ([1], 1),
    ([63, 64, 65, 1, 2], 2),
    ([129, 127], 1),
    ([7] * 3 + [*range(1, 34)], 1),
]
HEAD_DIMENSIONS = (32, 48, 64, 80, 96, 128)

# Batch, patches, classes, size of the labels.
LABEL_CASES: list[tuple[int, tuple[int, int], int, tuple[int, int]]] = [
    (1, (1, 1), 1, (1, 1)),
    (2, (4, 4), 150, (64, 64)),
    (1, (3, 5), 19, (45, 83)),
    (1, (7, 3), 257, (30, 50)),
    (2, (5, 6), 700, (40, 30)),
    (1, (20, 20), 7, (5, 9)),
    (1, (8, 8), 60, (64, 64)),
    (1, (2, 2), 9, (3, 201)),
]


def exact_tokens(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> Array:
    """Tokens (..., C), each a power of two, positive or negative, on one of three axes."""
    x = np.zeros(shape, dtype)
    axis = rng.integers(0, min(shape[-1], 3), shape[:-1])
    value = 2.0 ** rng.integers(-2, 3, shape[:-1]) * rng.choice([-1, 1], shape[:-1], p=[0.2, 0.8])
    np.put_along_axis(x, axis[..., None], value[..., None].astype(dtype), -1)
    return x


def tokens_of_every_tile(rng: np.random.Generator, length: int, dtype: Any) -> Array:
    """Tokens (T, C) of an image: each 64 destinations lie on an axis of their own, a source on any of these."""
    axis = np.arange(length) // 128
    axes = int(axis[1::2].max()) + 1
    axis[::2] = rng.integers(0, axes, len(axis[::2]))
    x = np.zeros((length, -(-axes // 8) * 8), dtype)
    x[np.arange(length), axis] = 2.0 ** rng.integers(-2, 3, length)
    return x


def generic_grid(rng: np.random.Generator, case: LocalCase, dtype: Any) -> Array:
    """Tokens (B, E+N0, C) whose windows are more or less uniform, no two of an image alike."""
    count = case.grid[0] * case.grid[1]
    members = reference.window_members(case.grid, case.window)
    for _ in range(1000):
        x = rng.standard_normal((case.batch, case.extra_tokens + count, case.channels))
        grid = x[:, case.extra_tokens :]
        level = rng.uniform(0.3, 3, (case.batch, len(members), 1, 1))
        grid[:, members] = grid[:, members[:, :1]] + level * grid[:, members]
        similarity = np.sort(reference.window_similarity(grid.astype(dtype), case.grid, case.window), axis=1)
        if similarity.shape[1] == 1 or np.diff(similarity, axis=1).min() > _MARGIN / 10:
            return x.astype(dtype)
    raise AssertionError("no well separated windows found: too many windows for this generator")


def generic_images(
    rng: np.random.Generator, lengths: Sequence[int], channels: int, extra: int, layer: int, dtype: Any
) -> Array:
    """Packed tokens (T, C) in which about half of the even tokens resemble an odd one of their image."""
    for _ in range(1000):
        x = _pairs_of_images(rng, lengths, channels, extra).astype(dtype)
        if global_margin(x, cumulative(lengths), layer, extra) > _MARGIN:
            return x
    raise AssertionError("no well separated tokens found")


def check_local_merge(kernels: Kernels, case: LocalCase, x: Array, threshold: float) -> None:
    options = {"grid": case.grid, "window": case.window, "extra_tokens": case.extra_tokens}
    actual = kernels.local_merge(x, threshold, **options)
    _assert_same_merge(actual, reference.local_merge(x, threshold, **options))


def check_global_merge(kernels: Kernels, x: Array, inputs: tuple[Array, Array, Array], layer: int, extra: int) -> None:
    actual = kernels.global_merge(x, *inputs, layer=layer, extra_tokens=extra)
    _assert_same_merge(actual, reference.global_merge(x, *inputs, layer=layer, extra_tokens=extra))


def global_inputs(rng: np.random.Generator, lengths: Sequence[int], patches: int) -> tuple[Array, Array, Array]:
    """Sizes, cu_seqlens and token_map of packed images."""
    cu_seqlens = cumulative(lengths)
    sizes = rng.integers(1, 9, cu_seqlens[-1]).astype(np.int32)
    token_map = np.stack([rng.integers(0, length, patches) for length in lengths]).astype(np.int32)
    return sizes, cu_seqlens, token_map


def half_attention(qkv: Array, cu_seqlens: Array, heads: int) -> Array:
    """Attention with scores and weights rounded to the input's type: the same maths done plainly in that type."""
    channels = qkv.shape[1] // 3
    depth = channels // heads
    out = np.empty((len(qkv), channels), qkv.dtype)
    for start, stop in pairwise(cu_seqlens):
        q, k, v = qkv[start:stop].astype(np.float32).reshape(-1, 3, heads, depth).transpose(1, 2, 0, 3)
        scores = (q @ k.transpose(0, 2, 1) * np.float32(depth**-0.5)).astype(qkv.dtype).astype(np.float32)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights = (weights / weights.sum(axis=-1, keepdims=True)).astype(qkv.dtype).astype(np.float32)
        out[start:stop] = (weights @ v).transpose(1, 0, 2).reshape(-1, channels)
    return out


def check_attention(kernels: Kernels, qkv: Array, cu_seqlens: Array, heads: int, plain: Array | None = None) -> None:
    """Error at most twice that of `plain` (the same maths in the same type; NumPy unless given)."""
    actual = kernels.packed_attention(qkv, cu_seqlens, heads=heads)
    truth = _attention_truth(qkv, cu_seqlens, heads)
    if plain is None:
        plain = half_attention(qkv, cu_seqlens, heads)
    allowed = 2 * np.abs(plain - truth).max() + 4 * float(np.finfo(np.float32).eps) * np.abs(truth).max()
    error = np.abs(actual - truth).max()
    assert error <= allowed, f"error {error}, allowed {allowed}"


def check_append_and_unmerge(
    kernels: Kernels,
    rng: np.random.Generator,
    lengths: Sequence[int],
    channels: int,
    appended: int,
    drop: int,
    dtype: Any,
) -> None:
    x = rng.standard_normal((sum(lengths), channels)).astype(dtype)
    tokens = rng.standard_normal((appended, channels)).astype(dtype)
    cu_seqlens = cumulative(lengths)
    expected = reference.append_tokens(x, cu_seqlens, tokens, drop=drop)
    for ours, theirs in zip(kernels.append_tokens(x, cu_seqlens, tokens, drop=drop), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)

    token_map = np.stack([rng.integers(drop, length, 11) for length in lengths]).astype(np.int32)
    for count in (appended, 0):
        options = {"appended": count, "drop": drop}
        grids = reference.unmerge(*expected, token_map, **options)
        for ours, theirs in zip(kernels.unmerge(*expected, token_map, **options), grids, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def check_labels(kernels: Kernels, logits: Array, size: tuple[int, int]) -> None:
    """Labels are the reference's, or a class whose exact logit is within rounding of the best."""
    labels = kernels.labels(logits, size)
    assert labels.min() >= 0
    assert labels.max() < logits.shape[-1]
    rows = reference.bilinear_matrix(logits.shape[1], size[0]).astype(np.float64)
    columns = reference.bilinear_matrix(logits.shape[2], size[1]).astype(np.float64)
    full = np.einsum("xj,byjk->byxk", columns, np.einsum("yi,bijk->byjk", rows, logits.astype(np.float64)))
    gap = full.max(axis=-1) - np.take_along_axis(full, labels[..., None].astype(np.int64), -1)[..., 0]
    assert gap.max() <= 8 * np.finfo(np.float32).eps * np.abs(logits).max()


def label_logits(
    rng: np.random.Generator, case: tuple[int, tuple[int, int], int, tuple[int, int]], dtype: Any
) -> Array:
    """Logits (B, h, w, K); one class leads in the upper half, so that some cells have one winner and some do not."""
    batch, patches, classes, _ = case
    logits = rng.standard_normal((batch, *patches, classes))
    logits[:, : patches[0] // 2, :, classes // 3] += 4
    return logits.astype(dtype)


def _pairs_of_images(rng: np.random.Generator, lengths: Sequence[int], channels: int, extra: int) -> Array:
    images = []
    for length in lengths:
        x = rng.standard_normal((length, channels))
        destinations = range(2 * extra - 1, length, 2)
        for source in range(2, length, 2):
            if len(destinations) and rng.random() < 0.5:
                scale, noise = rng.uniform(0.5, 2), rng.uniform(0.05, 0.3)
                x[source] = x[rng.choice(destinations)] * scale + rng.standard_normal(channels) * noise
        images.append(x)
    return np.concatenate(images)


def _attention_truth(qkv: Array, cu_seqlens: Array, heads: int) -> Array:
    """Attention in float64."""
    channels = qkv.shape[1] // 3
    depth = channels // heads
    out = np.empty((len(qkv), channels))
    for start, stop in pairwise(cu_seqlens):
        q, k, v = qkv[start:stop].astype(np.float64).reshape(-1, 3, heads, depth).transpose(1, 2, 0, 3)
        scores = q @ k.transpose(0, 2, 1) * depth**-0.5
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        out[start:stop] = (weights / weights.sum(axis=-1, keepdims=True) @ v).transpose(1, 0, 2).reshape(-1, channels)
    return out


def _assert_same_merge(actual: Any, expected: Any) -> None:
    for field in ("count", "cu_seqlens", "sizes", "token_map", "y"):
        np.testing.assert_array_equal(getattr(actual, field), getattr(expected, field), field)
