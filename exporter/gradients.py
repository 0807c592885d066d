"""Gradients of the operators of domain `algm`.

A merge's gradient follows from which tokens it merged; the other operators repeat their plain function.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from algm_trt.exporter.cuda_ops import Outputs


def differentiate_by_repeating(operator: Any, function: Callable[..., Outputs]) -> Any:
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


def differentiate_merge(operator: Any, shares_of: Callable[..., tuple[Tensor, Tensor]]) -> Any:
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


def local_merge_shares(inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """Row of y and share in it of each token (B, E+N0)."""
    _, _, _, _, extra_tokens = inputs
    _, sizes, cu_seqlens, token_map, _ = output
    row = _rows(cu_seqlens, token_map, extra_tokens)
    return row, 1 / sizes[row].float()


def global_merge_shares(inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """Row of y and share in it of each token (T1); a token went where its patches went, and each has at least one."""
    _, sizes, cu_seqlens, token_map, _, extra_tokens, _ = inputs
    _, new_sizes, new_cu_seqlens, new_token_map, _ = output
    old = _rows(cu_seqlens, token_map, extra_tokens).flatten()
    new = _rows(new_cu_seqlens, new_token_map, extra_tokens).flatten()
    row = torch.zeros(len(sizes), dtype=torch.long, device=sizes.device).index_copy(0, old, new)
    return row, sizes.float() / new_sizes[row].float()


def _rows(cu_seqlens: Tensor, token_map: Tensor, extra_tokens: int) -> Tensor:
    """Row among packed tokens of each image's extra tokens and of the token of each patch: (B, E+N0)."""
    front = torch.arange(extra_tokens, device=token_map.device).expand(len(token_map), -1)
    return cu_seqlens[:-1, None].long() + torch.cat([front, token_map.long()], dim=1)
