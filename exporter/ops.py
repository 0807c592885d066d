"""The operators of domain `algm` as torch custom operators.

Each is a plain, vectorised PyTorch function, registered with `torch.library` together with its shape rule and its
gradient, so that models train, export and run with the same calls; CUDA tensors go to the kernels of the plugin library
(`algm_trt.exporter.cuda_ops`). Semantics are those of `algm_trt.plugins.spec`; the tests compare every operator with
`algm_trt.plugins.reference`.

A merge's gradient follows from which tokens it merged; the other operators repeat their plain function.
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
from algm_trt.plugins import spec

Outputs = Tensor | tuple[Tensor, ...]


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


def _differentiate_by_repeating(operator: Any, function: Callable[..., Outputs]) -> Any:
    """Give an operator that decides nothing the gradient of its plain function."""

    def remember(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*(value for value in inputs if torch.is_tensor(value)))
        ctx.others = [None if torch.is_tensor(value) else value for value in inputs]

    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        saved = iter(ctx.saved_tensors)
        inputs = [next(saved).detach() if value is None else value for value in ctx.others]
        wanted = [index for index, needed in enumerate(ctx.needs_input_grad) if needed]
        for index in wanted:
            inputs[index].requires_grad_()
        with torch.enable_grad():
            outputs = function(*inputs)
        if torch.is_tensor(outputs):
            outputs = (outputs,)
        pairs = [(out, g) for out, g in zip(outputs, gradients, strict=True) if g is not None and out.requires_grad]
        found = torch.autograd.grad(
            [out for out, _ in pairs], [inputs[index] for index in wanted], [g for _, g in pairs], allow_unused=True
        )
        result: list[Tensor | None] = [None] * len(inputs)
        for index, gradient in zip(wanted, found, strict=True):
            result[index] = gradient
        return tuple(result)

    operator.register_autograd(backward, setup_context=remember)
    return operator


def _differentiate_merge(operator: Any, shares_of: Callable[..., tuple[Tensor, Tensor]]) -> Any:
    """Give a merge the gradient of the means that it took.

    Which tokens merged is read from the outputs and not decided again: kernels, TF32 and autocast round in their own
    ways, and a decision near its threshold would fall otherwise.

    Args:
        operator: whose first input is x and whose first output y.
        shares_of: from inputs and outputs to the row of y that each token of x went to, and its share in it; both of
            the shape of x without channels.
    """

    def remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        row, share = shares_of(inputs, output)
        ctx.save_for_backward(row, share)
        ctx.inputs = len(inputs)
        ctx.mark_non_differentiable(*output[1:])

    def backward(ctx: Any, gradient: Tensor, *_: Tensor | None) -> tuple[Tensor | None, ...]:
        row, share = ctx.saved_tensors
        return (gradient[row] * share[..., None].to(gradient.dtype), *[None] * (ctx.inputs - 1))

    operator.register_autograd(backward, setup_context=remember)
    return operator


def _local_shares(inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """Row of y and share in it of each token (B, E+N0)."""
    extra_tokens = inputs[4]
    _, sizes, cu_seqlens, token_map, _ = output
    starts = cu_seqlens[:-1, None].long()
    front = torch.arange(extra_tokens, device=sizes.device).expand(len(token_map), -1)
    row = starts + torch.cat([front, token_map.long()], dim=1)
    return row, 1 / sizes[row].float()


def _global_shares(inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """Row of y and share in it of each token (T1); a token went where its patches went, and each has at least one."""
    _, sizes, cu_seqlens, token_map, _, extra_tokens, _ = inputs
    _, new_sizes, new_cu_seqlens, new_token_map, _ = output
    front = torch.arange(extra_tokens, device=sizes.device).expand(len(token_map), -1)
    old, new = (
        (starts[:-1, None].long() + torch.cat([front, tokens.long()], dim=1)).flatten()
        for starts, tokens in ((cu_seqlens, token_map), (new_cu_seqlens, new_token_map))
    )
    row = torch.zeros(len(sizes), dtype=torch.long, device=sizes.device).index_copy(0, old, new)
    return row, sizes.float() / new_sizes[row].float()


local_merge = _differentiate_merge(_register("local_merge", _local_merge, _fake_local_merge), _local_shares)
global_merge = _differentiate_merge(_register("global_merge", _global_merge, _fake_global_merge), _global_shares)
packed_attention = _differentiate_by_repeating(
    _register("packed_attention", _packed_attention, _fake_packed_attention), _packed_attention
)
append_tokens = _differentiate_by_repeating(
    _register("append_tokens", _append_tokens, _fake_append_tokens), _append_tokens
)
unmerge = _differentiate_by_repeating(_register("unmerge", _unmerge, _fake_unmerge), _unmerge)
labels = _register("labels", _labels, _fake_labels)
