"""The operators of domain `algm` as torch custom operators.

Each is a plain, vectorised PyTorch function, registered with `torch.library` together with its shape rule and its
gradient (`algm_trt.exporter.gradients`), so that models train, export and run with the same calls; CUDA tensors go to
the kernels of the plugin library (`algm_trt.exporter.cuda_ops`). Semantics are those of `algm_trt.plugins.spec`; the
tests compare every operator with `algm_trt.plugins.reference`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from algm_trt.exporter import cuda_ops
from algm_trt.exporter.cuda_ops import Outputs
from algm_trt.exporter.gradients import (
    differentiate_by_repeating,
    differentiate_merge,
    global_merge_shares,
    local_merge_shares,
)
from algm_trt.plugins import spec


def _local_merge(
    x: Tensor, threshold: Tensor, grid: Sequence[int], window: Sequence[int], extra_tokens: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """`x` (B, E+N0, C), `threshold` () -> y (T1, C), sizes (T1), cu_seqlens (B+1), token_map (B, N0), count ()."""
    batch, _, channels = x.shape
    (height, width), (window_height, window_width) = grid, window
    rows, columns, members = height // window_height, width // window_width, window_height * window_width
    extra, tokens = x[:, :extra_tokens], x[:, extra_tokens:]
    windows = tokens.float().reshape(batch, rows, window_height, columns, window_width, channels)

    total = F.normalize(windows, dim=-1, eps=1e-12).sum(dim=(2, 4))
    similarity = ((total.square().sum(-1) - members) / (members * (members - 1))).flatten(1)
    merges = similarity >= threshold
    rank = torch.where(merges, -similarity, torch.inf).argsort(dim=1, stable=True).argsort(dim=1)
    merged_count = merges.sum(dim=1, keepdim=True)

    code = torch.where(merges, rank, -1).reshape(batch, rows, 1, columns, 1)
    code = code.expand(batch, rows, window_height, columns, window_width).reshape(batch, -1)
    single = code < 0
    token_map = extra_tokens + torch.where(single, merged_count + single.cumsum(1) - 1, code)

    lengths = extra_tokens + merged_count + single.sum(dim=1, keepdim=True)
    cu_seqlens = F.pad(lengths.flatten().cumsum(0), (1, 0))
    starts = cu_seqlens[:-1, None]
    means = (windows.sum(dim=(2, 4)) / members).flatten(1, 2).to(x.dtype)
    place = torch.cat(
        [
            (starts + torch.arange(extra_tokens, device=x.device)).flatten(),
            (starts + extra_tokens + rank)[merges],
            (starts + token_map)[single],
        ]
    )
    y = x.new_zeros(len(place), channels).index_copy(
        0, place, torch.cat([extra.flatten(0, 1), means[merges], tokens[single]])
    )
    sizes = torch.ones(len(place), dtype=torch.int32, device=x.device)
    sizes[(starts + extra_tokens + rank)[merges]] = members
    return y, sizes, cu_seqlens.int(), token_map.int(), cu_seqlens[-1].int()


def _global_merge(
    x: Tensor,
    sizes: Tensor,
    cu_seqlens: Tensor,
    token_map: Tensor,
    layer: int,
    extra_tokens: int,
    max_tokens: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Packed tokens -> fewer packed tokens: y (T2, C), sizes, cu_seqlens, token_map (composed), count ()."""
    images = [
        _merge_image(x[start:stop], sizes[start:stop], layer, extra_tokens) for start, stop in pairwise(cu_seqlens)
    ]
    y = torch.cat([tokens for tokens, _, _ in images])
    lengths = torch.tensor([0, *(len(tokens) for tokens, _, _ in images)], device=x.device)
    composed = torch.stack([position[old.long()] for (_, _, position), old in zip(images, token_map, strict=True)])
    new_sizes = torch.cat([weights for _, weights, _ in images])
    return (
        y,
        new_sizes,
        lengths.cumsum(0).int(),
        composed.int(),
        torch.tensor(len(y), dtype=torch.int32, device=x.device),
    )


def _merge_image(tokens: Tensor, sizes: Tensor, layer: int, extra_tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    """One image (n, C): the merged tokens, their sizes, and the new position of each old token (n)."""
    source, destination = _pairs(tokens.detach(), layer, extra_tokens)
    stays = torch.ones(len(tokens), dtype=torch.bool, device=tokens.device)
    stays[source] = False
    stays[:extra_tokens] = False
    everyone = torch.arange(len(tokens), device=tokens.device)
    even = everyone % 2 == 0
    order = torch.cat([everyone[:extra_tokens], everyone[stays & even], everyone[stays & ~even]])
    position = torch.empty_like(everyone)
    position[order] = torch.arange(len(order), device=tokens.device)
    position[source] = position[destination]

    weights = sizes.float().index_add(0, destination, sizes[source].float())
    weighted = tokens.float() * sizes[:, None]
    mean = weighted.index_add(0, destination, weighted[source]) / weights[:, None]
    touched = (weights > sizes)[:, None]
    merged = torch.where(touched, mean.to(tokens.dtype), tokens)
    return merged[order], weights[order].int(), position


def _pairs(tokens: Tensor, layer: int, extra_tokens: int) -> tuple[Tensor, Tensor]:
    """Sources (ascending) and their destinations among the tokens (n, C) of one image."""
    units = F.normalize(tokens.float(), dim=-1, eps=1e-12)
    a, b = units[2::2], units[1::2][extra_tokens - 1 :]
    if len(a) < 2 or len(b) < 1:
        nothing = torch.empty(0, dtype=torch.long, device=tokens.device)
        return nothing, nothing
    best, choice = (a @ b.T).max(dim=1)
    source = (best >= best.mean() + best.std() / layer).nonzero().flatten()
    return 2 * source + 2, 2 * (choice[source] + extra_tokens - 1) + 1


def _packed_attention(qkv: Tensor, cu_seqlens: Tensor, heads: int, max_tokens: int) -> Tensor:
    """`qkv` (T, 3C) -> (T, C): softmax attention inside each image."""
    q, k, v = qkv.reshape(len(qkv), 3, heads, -1).permute(1, 2, 0, 3)
    images = [
        F.scaled_dot_product_attention(q[None, :, start:stop], k[None, :, start:stop], v[None, :, start:stop])[0]
        for start, stop in pairwise(cu_seqlens.tolist())
    ]
    return torch.cat(images, dim=1).transpose(0, 1).flatten(1)


def _append_tokens(x: Tensor, cu_seqlens: Tensor, tokens: Tensor, drop: int) -> tuple[Tensor, Tensor]:
    """Leave out `drop` leading tokens of each image, append tokens (K, C): y and its cu_seqlens."""
    parts = [part for start, stop in pairwise(cu_seqlens.tolist()) for part in (x[start + drop : stop], tokens)]
    steps = torch.arange(len(cu_seqlens), dtype=torch.int32, device=x.device) * (len(tokens) - drop)
    return torch.cat(parts), cu_seqlens + steps


def _unmerge(x: Tensor, cu_seqlens: Tensor, token_map: Tensor, appended: int, drop: int) -> tuple[Tensor, Tensor]:
    """Packed tokens (T, C) -> grid (B, N0, C) and the last `appended` tokens of each image (B, K, C)."""
    grid = x[cu_seqlens[:-1, None] + token_map - drop]
    tail = x[cu_seqlens[1:, None] - appended + torch.arange(appended, device=x.device)]
    return grid, tail


def _labels(logits: Tensor, size: Sequence[int]) -> Tensor:
    """Logits (B, h, w, K) -> labels (B, H, W) int32: bilinear, then argmax."""
    full = F.interpolate(logits.float().permute(0, 3, 1, 2), size=tuple(size), mode="bilinear")
    return full.argmax(dim=1).int()


def _fake_merge(x: Tensor, token_map: Tensor, images: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Outputs of a merge without values: the first dimension depends on the data."""
    count = torch.library.get_ctx().new_dynamic_size()
    integers = torch.empty(images + 1, dtype=torch.int32, device=x.device)
    return (
        x.new_empty(count, x.shape[-1]),
        integers.new_empty(count),
        integers,
        integers.new_empty(token_map.shape),
        integers.new_empty(()),
    )


def _fake_local_merge(
    x: Tensor, threshold: Tensor, grid: Sequence[int], window: Sequence[int], extra_tokens: int
) -> tuple[Tensor, ...]:
    return _fake_merge(x, x[:, extra_tokens:, 0], len(x))


def _fake_global_merge(
    x: Tensor, sizes: Tensor, cu_seqlens: Tensor, token_map: Tensor, layer: int, extra_tokens: int, max_tokens: int
) -> tuple[Tensor, ...]:
    return _fake_merge(x, token_map, len(token_map))


def _fake_packed_attention(qkv: Tensor, cu_seqlens: Tensor, heads: int, max_tokens: int) -> Tensor:
    return qkv.new_empty(len(qkv), qkv.shape[1] // 3)


def _fake_append_tokens(x: Tensor, cu_seqlens: Tensor, tokens: Tensor, drop: int) -> tuple[Tensor, Tensor]:
    rows = len(x) + (len(cu_seqlens) - 1) * (len(tokens) - drop)
    return x.new_empty(rows, x.shape[1]), torch.empty_like(cu_seqlens)


def _fake_unmerge(x: Tensor, cu_seqlens: Tensor, token_map: Tensor, appended: int, drop: int) -> tuple[Tensor, Tensor]:
    return x.new_empty(*token_map.shape, x.shape[1]), x.new_empty(len(token_map), appended, x.shape[1])


def _fake_labels(logits: Tensor, size: Sequence[int]) -> Tensor:
    return logits.new_empty(len(logits), *size, dtype=torch.int32)


def _without_autocast(function: Callable[..., Outputs]) -> Callable[..., Outputs]:
    """The function in the types of its inputs, also under torch.autocast."""

    @functools.wraps(function)
    def exact(x: Tensor, *others: Any) -> Outputs:
        with torch.autocast(x.device.type, enabled=False):
            return function(x, *others)

    return exact


def _register(name: str, function: Callable[..., Outputs], fake: Callable[..., Outputs]) -> Any:
    """Make a custom operator `algm::name` of a plain function, without a gradient."""
    function = _without_autocast(function)
    operator = torch.library.custom_op(f"{spec.DOMAIN}::{name}", function, mutates_args=())
    operator.register_fake(fake)
    operator.register_kernel("cuda")(cuda_ops.dispatcher(name, function))
    return operator


local_merge = differentiate_merge(_register("local_merge", _local_merge, _fake_local_merge), local_merge_shares)
global_merge = differentiate_merge(_register("global_merge", _global_merge, _fake_global_merge), global_merge_shares)
packed_attention = differentiate_by_repeating(
    _register("packed_attention", _packed_attention, _fake_packed_attention), _packed_attention
)
append_tokens = differentiate_by_repeating(
    _register("append_tokens", _append_tokens, _fake_append_tokens), _append_tokens
)
unmerge = differentiate_by_repeating(_register("unmerge", _unmerge, _fake_unmerge), _unmerge)
labels = _register("labels", _labels, _fake_labels)
