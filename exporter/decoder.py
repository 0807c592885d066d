"""Segmenter's decoders on dense or packed tokens: encoder tokens to class scores on the patch grid.

Weights keep upstream's names. Both return logits (B, N0, K).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from algm_trt.exporter import ops
from algm_trt.exporter.config import SegmenterConfig
from algm_trt.exporter.vit import Block, Blocks, Tokens


class LinearDecoder(nn.Module):
    """One linear layer per token."""

    def __init__(self, config: SegmenterConfig) -> None:
        super().__init__()
        self.extra_tokens = config.extra_tokens
        self.head = nn.Linear(config.d_model, config.n_cls)

    def forward(self, tokens: Tokens) -> Tensor:
        """Class scores of every patch."""
        packing = tokens.packing
        if packing is None:
            dense: Tensor = self.head(tokens.x[:, self.extra_tokens :])
            return dense
        grid: Tensor = ops.unmerge(self.head(tokens.x), packing.cu_seqlens, packing.token_map, 0, 0)[0]
        return grid


class MaskTransformer(nn.Module):
    """Transformer over patches and class embeddings; a patch's scores are its cosines with the classes, normalised."""

    def __init__(self, config: SegmenterConfig) -> None:
        super().__init__()
        self.extra_tokens = config.extra_tokens
        self.n_cls = config.n_cls
        width = config.d_model
        self.blocks = Blocks(Block(width, config.decoder_heads, config.d_ff) for _ in range(config.decoder_layers))
        self.cls_emb = nn.Parameter(torch.zeros(1, config.n_cls, width))
        self.proj_dec = nn.Linear(width, width)
        self.proj_patch = nn.Parameter(torch.zeros(width, width))
        self.proj_classes = nn.Parameter(torch.zeros(width, width))
        self.decoder_norm = nn.LayerNorm(width)
        self.mask_norm = nn.LayerNorm(config.n_cls)

    def forward(self, tokens: Tokens) -> Tensor:
        """Class scores of every patch."""
        x, packing = self.proj_dec(tokens.x), tokens.packing
        if packing is None:
            x = torch.cat([x[:, self.extra_tokens :], self.cls_emb.expand(len(x), -1, -1)], dim=1)
            for block in self.blocks:
                x = block(x)
            x = self.decoder_norm(x)
            return self._scores(x[:, : -self.n_cls], x[:, -self.n_cls :])
        max_tokens = packing.token_map.shape[1] + self.n_cls
        x, cu_seqlens = ops.append_tokens(x, packing.cu_seqlens, self.cls_emb[0], self.extra_tokens)
        for block in self.blocks:
            x = block(x, cu_seqlens, max_tokens)
        x = self.decoder_norm(x)
        patches, classes = ops.unmerge(x, cu_seqlens, packing.token_map, self.n_cls, self.extra_tokens)
        return self._scores(patches, classes)

    def _scores(self, patches: Tensor, classes: Tensor) -> Tensor:
        patches = patches @ self.proj_patch
        classes = classes @ self.proj_classes
        patches = patches / patches.norm(dim=-1, keepdim=True)
        classes = classes / classes.norm(dim=-1, keepdim=True)
        scores: Tensor = self.mask_norm(patches @ classes.transpose(1, 2))
        return scores
