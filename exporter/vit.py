"""The Vision Transformer encoder with token merging; weights keep upstream's names.

Up to the first merge layer the tokens are dense, (B, N, C); from there on they are packed, (T, C), see
`algm_trt.plugins.spec`. Merging happens between attention and MLP of a layer and looks at the residual stream.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from algm_trt.exporter import ops
from algm_trt.exporter.config import SegmenterConfig
from algm_trt.runtime.card import MergeSettings


@dataclass(frozen=True)
class Packing:
    """How the tokens of several images lie one after another.

    Attributes:
        sizes: (T) int32 patches per token.
        cu_seqlens: (B+1) int32 start of each image.
        token_map: (B, N0) int32 token of each patch.
        lengths: tokens per image after each merge so far, each (B) int32.
    """

    sizes: Tensor
    cu_seqlens: Tensor
    token_map: Tensor
    lengths: tuple[Tensor, ...]


@dataclass(frozen=True)
class Tokens:
    """Tokens on their way through the network.

    Attributes:
        x: dense (B, N, C), or packed (T, C) once merged.
        packing: None while dense.
    """

    x: Tensor
    packing: Packing | None = None

    def with_x(self, x: Tensor) -> Tokens:
        """The same tokens with other features."""
        return replace(self, x=x)


class Attention(nn.Module):
    """Multi-head self-attention over dense (B, N, C) or packed (T, C) tokens."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, cu_seqlens: Tensor | None = None, max_tokens: int = 0) -> Tensor:
        """Attend inside each image; shape and type of x, which is packed if there are `cu_seqlens`."""
        qkv = self.qkv(x)
        if cu_seqlens is not None:
            mixed: Tensor = ops.packed_attention(qkv, cu_seqlens, self.heads, max_tokens)
        else:
            q, k, v = qkv.reshape(*qkv.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4)
            mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        out: Tensor = self.proj(mixed)
        return out


class FeedForward(nn.Module):
    """Two linear layers with exact GELU between."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Shape of x."""
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class Block(nn.Module):
    """Pre-norm transformer block in two halves, so that merging fits between them."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.attn = Attention(width, heads)
        self.mlp = FeedForward(width, hidden)

    def attend(self, x: Tensor, cu_seqlens: Tensor | None = None, max_tokens: int = 0) -> Tensor:
        """First half: x plus attention."""
        out: Tensor = x + self.attn(self.norm1(x), cu_seqlens, max_tokens)
        return out

    def feed(self, x: Tensor) -> Tensor:
        """Second half: x plus MLP."""
        out: Tensor = x + self.mlp(self.norm2(x))
        return out

    def forward(self, x: Tensor, cu_seqlens: Tensor | None = None, max_tokens: int = 0) -> Tensor:
        """Both halves."""
        return self.feed(self.attend(x, cu_seqlens, max_tokens))


class Blocks(nn.ModuleList):
    """A list of blocks; what `nn.ModuleList` is, with its type."""

    def __iter__(self) -> Iterator[Block]:
        return cast("Iterator[Block]", super().__iter__())


class PatchEmbedding(nn.Module):
    """Pixels to tokens: (B, 3, H, W) -> (B, N0, C)."""

    def __init__(self, patch_size: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, kernel_size=patch_size, stride=patch_size)

    def forward(self, images: Tensor) -> Tensor:
        """H and W are multiples of the patch size."""
        out: Tensor = self.proj(images).flatten(2).transpose(1, 2)
        return out


class VisionTransformer(nn.Module):
    """Encoder: images to tokens, merging at the given layers."""

    def __init__(self, config: SegmenterConfig) -> None:
        super().__init__()
        self.config = config
        width = config.d_model
        tokens = config.extra_tokens + config.grid[0] * config.grid[1]
        self.patch_embed = PatchEmbedding(config.patch_size, width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, tokens, width))
        if config.distilled:
            self.dist_token = nn.Parameter(torch.zeros(1, 1, width))
        self.blocks = Blocks(Block(width, config.n_heads, config.d_ff) for _ in range(config.n_layers))
        self.norm = nn.LayerNorm(width)

    def extra(self) -> Tensor:
        """Class token, and distillation token if there is one: (1, E, C)."""
        return torch.cat([self.cls_token, self.dist_token], 1) if self.config.distilled else self.cls_token

    def positions(self, grid: tuple[int, int]) -> Tensor:
        """Positional embeddings (1, E+N0, C) for a grid; resized bilinearly to any but its own.

        As upstream, save for a grid of another shape with as many patches: there upstream takes them in their old
        order, and a patch has the embedding of some other place.
        """
        if grid == self.config.grid:
            return self.pos_embed
        extra, old = self.pos_embed[:, : self.config.extra_tokens], self.pos_embed[:, self.config.extra_tokens :]
        old = old.reshape(1, *self.config.grid, -1).permute(0, 3, 1, 2)
        new = F.interpolate(old, size=grid, mode="bilinear").flatten(2).transpose(1, 2)
        return torch.cat([extra, new], dim=1)

    def embed(self, images: Tensor, grid: tuple[int, int]) -> Tensor:
        """Extra tokens and patches of images (B, 3, H, W) with their positions: (B, E+N0, C)."""
        x = self.patch_embed(images)
        return torch.cat([self.extra().expand(len(x), -1, -1), x], dim=1) + self.positions(grid)

    def forward(self, images: Tensor, merge: MergeSettings | None, threshold: Tensor) -> Tokens:
        """Encode.

        Args:
            images: (B, 3, H, W) normalised, sides multiples of the patch size.
            merge: where to merge, or None for the dense encoder.
            threshold: () float32 similarity of the local merge.
        """
        grid = images.shape[2] // self.config.patch_size, images.shape[3] // self.config.patch_size
        tokens = Tokens(self.embed(images, grid))
        max_tokens = tokens.x.shape[1]
        for layer, block in enumerate(self.blocks, start=1):
            cu_seqlens = tokens.packing.cu_seqlens if tokens.packing else None
            tokens = tokens.with_x(block.attend(tokens.x, cu_seqlens, max_tokens))
            if merge is not None and layer in merge.layers:
                tokens = self._merge(tokens, merge, layer, grid, threshold, max_tokens)
            tokens = tokens.with_x(block.feed(tokens.x))
        return tokens.with_x(self.norm(tokens.x))

    def _merge(
        self, t: Tokens, merge: MergeSettings, layer: int, grid: tuple[int, int], threshold: Tensor, max_tokens: int
    ) -> Tokens:
        extra = self.config.extra_tokens
        before = t.packing
        if before is None:
            x, sizes, cu_seqlens, token_map, _ = ops.local_merge(t.x, threshold, grid, merge.window, extra)
        else:
            x, sizes, cu_seqlens, token_map, _ = ops.global_merge(
                t.x, before.sizes, before.cu_seqlens, before.token_map, layer, extra, max_tokens
            )
        lengths = (*(before.lengths if before else ()), cu_seqlens.diff())
        return Tokens(x, Packing(sizes, cu_seqlens, token_map, lengths))
