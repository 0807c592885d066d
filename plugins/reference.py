"""NumPy meaning of each operator of domain `algm` and of the slide mode's kernels: the oracle of other implementations.

Plain and slow on purpose. Shapes and semantics are those of `algm_trt.plugins.spec`. Activations may be float32 or
float16; similarities, thresholds, means and sums are float32, outputs have the type of the input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.generic]
Floats = NDArray[np.floating]
Ints = NDArray[np.int32]

_EPSILON = np.float32(1e-12)


@dataclass(frozen=True)
class Merged:
    """Result of a merge: y (T, C), sizes (T) int32, cu_seqlens (B+1) int32, token_map (B, N0) int32, count () int32."""

    y: Floats
    sizes: Ints
    cu_seqlens: Ints
    token_map: Ints
    count: Ints


class SlideAxis(Protocol):
    """Sparse operator from a mosaic of patches to the source along one axis, as AxisOperator of runtime/field.py."""

    @property
    def starts(self) -> Ints:
        """(tiles+1,) first position of each tile, and the length of the axis."""
        ...

    @property
    def nodes(self) -> Ints:
        """(tiles, S) mosaic positions that a tile draws on."""
        ...

    @property
    def shares(self) -> NDArray[np.float32]:
        """(positions, S) part of each of its tile's nodes in a position."""
        ...


def unit_rows(x: Floats) -> NDArray[np.float32]:
    """Rows of x (..., C) divided by max(length, 1e-12), in float32."""
    x32 = x.astype(np.float32)
    lengths = np.sqrt(np.sum(x32 * x32, axis=-1, keepdims=True, dtype=np.float32))
    return np.asarray(x32 / np.maximum(lengths, _EPSILON), np.float32)


def window_members(grid: tuple[int, int], window: tuple[int, int]) -> NDArray[np.int64]:
    """Grid tokens of each merging window, (W, m), windows and members in row-major order.

    Raises:
        ValueError: the window does not divide the grid.
    """
    (height, width), (window_height, window_width) = grid, window
    if height % window_height or width % window_width:
        raise ValueError(f"the window {window} does not divide the grid {grid}")
    tokens = np.arange(height * width).reshape(height // window_height, window_height, width // window_width, -1)
    return tokens.transpose(0, 2, 1, 3).reshape(-1, window_height * window_width)


def window_similarity(x: Floats, grid: tuple[int, int], window: tuple[int, int]) -> NDArray[np.float32]:
    """Mean pairwise cosine similarity inside each window: x (B, N0, C) grid tokens -> (B, W) float32."""
    members = window_members(grid, window)
    count = np.float32(members.shape[1])
    total = unit_rows(x)[:, members].sum(axis=2, dtype=np.float32)
    return np.asarray((np.sum(total * total, axis=-1, dtype=np.float32) - count) / (count * (count - 1)), np.float32)


def local_merge(
    x: Floats,
    threshold: float,
    *,
    grid: tuple[int, int],
    window: tuple[int, int],
    extra_tokens: int = 1,
) -> Merged:
    """AlgmLocalMerge: x (B, E+N0, C) -> packed tokens of all images."""
    members = window_members(grid, window)
    similarity = window_similarity(x[:, extra_tokens:], grid, window)
    rows, sizes, maps, lengths = [], [], [], [0]
    for image, sims in zip(x, similarity, strict=True):
        merging = np.flatnonzero(sims >= np.float32(threshold))
        merging = merging[np.argsort(-sims[merging], kind="stable")]
        tokens = image[extra_tokens:]
        single = np.ones(len(tokens), bool)
        single[members[merging].ravel()] = False
        means = tokens[members[merging]].astype(np.float32).mean(axis=1, dtype=np.float32).astype(x.dtype)
        rows += [image[:extra_tokens], means, tokens[single]]
        sizes += [np.ones(extra_tokens), np.full(len(merging), members.shape[1]), np.ones(single.sum())]
        token_map = np.empty(len(tokens), np.int32)
        token_map[single] = extra_tokens + len(merging) + np.arange(single.sum())
        token_map[members[merging]] = extra_tokens + np.arange(len(merging))[:, None]
        maps.append(token_map)
        lengths.append(extra_tokens + len(merging) + int(single.sum()))
    return _merged(rows, sizes, lengths, maps)


def global_merge(
    x: Floats,
    sizes: Ints,
    cu_seqlens: Ints,
    token_map: Ints,
    *,
    layer: int,
    extra_tokens: int = 1,
) -> Merged:
    """AlgmGlobalMerge: packed tokens (T1, C) -> fewer packed tokens; `layer` is the 1-based encoder layer."""
    rows, new_sizes, maps, lengths = [], [], [], [0]
    for image, (start, stop) in enumerate(pairwise(cu_seqlens)):
        tokens = x[start:stop]
        source, destination = global_pairs(tokens, layer, extra_tokens)
        weights = sizes[start:stop].astype(np.float32)
        total = tokens.astype(np.float32) * weights[:, None]
        for s, d in zip(source, destination, strict=True):
            total[d] += total[s]
            weights[d] += weights[s]
        order = _global_order(len(tokens), source, extra_tokens)
        position = np.empty(len(tokens), np.int32)
        position[order] = np.arange(len(order), dtype=np.int32)
        position[source] = position[destination]
        merged = tokens.copy()
        touched = np.unique(destination)
        merged[touched] = (total[touched] / weights[touched, None]).astype(x.dtype)
        rows.append(merged[order])
        new_sizes.append(weights[order])
        maps.append(position[token_map[image]])
        lengths.append(len(order))
    return _merged(rows, new_sizes, lengths, maps)


def global_pairs(tokens: Floats, layer: int, extra_tokens: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which tokens of one image (n, C) merge into which: indices of sources (ascending) and of their destinations."""
    nothing = np.empty(0, np.int64)
    units = unit_rows(tokens)
    first_source = 1
    first_destination = extra_tokens - 1
    a, b = units[0::2][first_source:], units[1::2][first_destination:]
    if len(a) < 2 or len(b) < 1:
        return nothing, nothing
    similarity = a @ b.T
    best = similarity.max(axis=1)
    mean = best.mean(dtype=np.float32)
    deviation = np.sqrt(np.sum((best - mean) ** 2, dtype=np.float32) / np.float32(len(best) - 1))
    merging = np.flatnonzero(best >= mean + deviation / np.float32(layer))
    source = 2 * (merging + first_source)
    destination = 2 * (similarity[merging].argmax(axis=1) + first_destination) + 1
    return source, destination


def _global_order(count: int, source: NDArray[np.int64], extra_tokens: int) -> NDArray[np.int64]:
    """Tokens that stay, in output order: extra tokens, unmerged A ascending, B ascending."""
    stays = np.ones(count, bool)
    stays[source] = False
    stays[:extra_tokens] = False
    positions = np.arange(count)
    extra = positions[: min(extra_tokens, count)]
    return np.concatenate([extra, positions[stays & (positions % 2 == 0)], positions[stays & (positions % 2 == 1)]])


def packed_attention(qkv: Floats, cu_seqlens: Ints, *, heads: int) -> Floats:
    """AlgmPackedAttention: qkv (T, 3C) -> (T, C), softmax attention inside each image, computed in float32."""
    channels = qkv.shape[1] // 3
    depth = channels // heads
    out = np.empty((len(qkv), channels), qkv.dtype)
    for start, stop in pairwise(cu_seqlens):
        q, k, v = qkv[start:stop].astype(np.float32).reshape(-1, 3, heads, depth).transpose(1, 2, 0, 3)
        scores = q @ k.transpose(0, 2, 1) * np.float32(depth**-0.5)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        out[start:stop] = (weights @ v).transpose(1, 0, 2).reshape(-1, channels)
    return out


def append_tokens(x: Floats, cu_seqlens: Ints, tokens: Floats, *, drop: int) -> tuple[Floats, Ints]:
    """AlgmAppendTokens: leave out the first `drop` tokens of each image, append tokens (K, C); y and its cu_seqlens."""
    parts = []
    for start, stop in pairwise(cu_seqlens):
        parts += [x[start + drop : stop], tokens]
    step = len(tokens) - drop
    return np.concatenate(parts), (cu_seqlens + step * np.arange(len(cu_seqlens))).astype(np.int32)


def unmerge(x: Floats, cu_seqlens: Ints, token_map: Ints, *, appended: int = 0, drop: int = 0) -> tuple[Floats, Floats]:
    """AlgmUnmerge: packed tokens back to the grid (B, N0, C), and the last `appended` tokens (B, appended, C)."""
    grid = x[cu_seqlens[:-1, None] + token_map - drop]
    tail = x[cu_seqlens[1:, None] - appended + np.arange(appended)]
    return grid, tail


def labels(logits: Floats, size: tuple[int, int]) -> Ints:
    """AlgmLabels: logits (B, h, w, K) -> (B, H, W) int32, bilinear to `size` in float32, then argmax."""
    rows = bilinear_matrix(logits.shape[1], size[0])
    columns = bilinear_matrix(logits.shape[2], size[1])
    full = np.einsum("yi,bijk->byjk", rows, logits.astype(np.float32))
    return np.asarray(np.einsum("xj,byjk->byxk", columns, full).argmax(axis=-1), np.int32)


def cut_windows(canvas: NDArray[np.uint8], anchors: Ints, window: tuple[int, int]) -> NDArray[np.uint8]:
    """Windows (n, h, w, 3) of a canvas (H, W, 3) at anchors (n, 2), clamped so that each lies inside."""
    limits = np.subtract(canvas.shape[:2], window)
    corners = np.clip(anchors, 0, limits).tolist()
    return np.stack([canvas[top : top + window[0], left : left + window[1]] for top, left in corners])


def slide_values(logits: Floats, windows_down: int, rows: SlideAxis, columns: SlideAxis) -> NDArray[np.float32]:
    """Logits (H0, W0, K) at the source from those of all windows (n, K, gh, gw), row by row, in float32.

    `algm_slide_labels` answers their argmax over the classes, ties by lower class id.
    """
    count, classes, height, width = logits.shape
    windows = logits.astype(np.float32).reshape(windows_down, count // windows_down, classes, height, width)
    mosaic = windows.transpose(0, 3, 1, 4, 2).reshape(windows_down * height, -1, classes)
    tall = np.tensordot(_dense_axis(rows, mosaic.shape[0]), mosaic, axes=1)
    return np.asarray(np.einsum("xb,ybk->yxk", _dense_axis(columns, mosaic.shape[1]), tall), np.float32)


def _dense_axis(axis: SlideAxis, nodes: int) -> NDArray[np.float32]:
    """The operator as a matrix (positions, nodes)."""
    positions = np.arange(len(axis.shares))
    tile = np.searchsorted(axis.starts, positions, side="right") - 1
    dense = np.zeros((len(positions), nodes), np.float32)
    np.add.at(dense, (positions[:, None], axis.nodes[tile]), axis.shares)
    return dense


def bilinear_matrix(source: int, target: int) -> NDArray[np.float32]:
    """(target, source) weights of bilinear interpolation with half-pixel centres and repeated border."""
    position = (np.arange(target, dtype=np.float64) + 0.5) * (source / target) - 0.5
    position = position.clip(0, source - 1)
    distance = np.abs(position[:, None] - np.arange(source))
    return np.asarray(np.maximum(0, 1 - distance), np.float32)


def _merged(rows: Sequence[Floats], sizes: Sequence[Array], lengths: Sequence[int], maps: Sequence[Ints]) -> Merged:
    y = np.concatenate(rows)
    return Merged(
        y=y,
        sizes=np.concatenate(sizes).astype(np.int32),
        cu_seqlens=np.cumsum(lengths).astype(np.int32),
        token_map=np.stack(maps).astype(np.int32),
        count=np.asarray(len(y), np.int32),
    )
