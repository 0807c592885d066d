"""Faster arithmetic while one trains: TF32, and on a GPU PyTorch's variable-length attention."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from algm_trt.exporter import ops


@contextlib.contextmanager
def fast_arithmetic(device: str) -> Iterator[None]:
    """TF32 meanwhile, and on a GPU packed attention by `torch.nn.attention.varlen`, where that computes right.

    The kernels of the plugin library have neither bfloat16 nor a backward pass; the plain operator, which takes their
    place where one trains, goes through the images one by one.
    """
    original = ops.packed_attention
    torch.set_float32_matmul_precision("high")
    if device == "cuda":
        try:
            _check_varlen(original)
        except (ImportError, RuntimeError, TypeError, ValueError) as error:
            print(f"attention image by image, which is slow: {str(error).splitlines()[0]}", flush=True)
        else:
            ops.packed_attention = packed_attention
    try:
        yield
    finally:
        ops.packed_attention = original
        torch.set_float32_matmul_precision("highest")


def packed_attention(qkv: Tensor, cu_seqlens: Tensor, heads: int, max_tokens: int) -> Tensor:
    """See `ops.packed_attention`; float16 or bfloat16."""
    from torch.nn.attention.varlen import varlen_attn

    q, k, v = qkv.reshape(len(qkv), 3, heads, -1).unbind(1)
    attended = varlen_attn(q, k, v, cu_seqlens, cu_seqlens, max_tokens, max_tokens)
    return attended.flatten(1)  # type: ignore[union-attr]


def _check_varlen(plain: Callable[..., Tensor]) -> None:
    """Values and gradients on three images, within what bfloat16 rounds."""
    cu_seqlens = torch.tensor([0, 5, 70, 300], dtype=torch.int32, device="cuda")
    found = []
    for attention in (plain, packed_attention):
        torch.manual_seed(0)
        qkv = torch.randn(300, 3 * 128, device="cuda", dtype=torch.bfloat16, requires_grad=True)
        out = attention(qkv, cu_seqlens, 2, 400)
        out.backward(torch.randn_like(out))  # type: ignore[no-untyped-call]
        found.append((out.detach().float(), qkv.grad.float()))  # type: ignore[union-attr]
    for one, other in zip(*found, strict=True):
        if not torch.linalg.norm(one - other) < 0.05 * torch.linalg.norm(one):
            raise ValueError("variable-length attention gives another result")
