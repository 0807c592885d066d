"""Random weights to train from, of a scale that suits the width of the network."""

from __future__ import annotations

import torch

from algm_trt.exporter.segmenter import Segmenter


def initialise(model: Segmenter) -> None:
    """Random weights: at 64 channels the usual deviation of 0.02 would learn slowly.

    The class embeddings start far apart and the positional ones as waves, so that neither has to be told apart first.
    """
    config = model.config
    for name, parameter in model.named_parameters():
        if name == "encoder.pos_embed":
            parameter.data[0, config.extra_tokens :] = 0.3 * waves(config.grid, config.d_model)
        elif name in ("encoder.cls_token", "decoder.cls_emb"):
            torch.nn.init.trunc_normal_(parameter, std=0.5)
        elif parameter.dim() > 1:
            std = parameter[0].numel() ** -0.5
            torch.nn.init.trunc_normal_(parameter, std=std, a=-2 * std, b=2 * std)
        elif name.endswith("bias"):
            torch.nn.init.zeros_(parameter)


def waves(grid: tuple[int, int], width: int) -> torch.Tensor:
    """Sines and cosines of row and column at several wavelengths: (N0, C)."""
    rows, columns = (axis.flatten()[:, None] for axis in torch.meshgrid(*map(torch.arange, grid), indexing="ij"))
    rate = 100.0 ** -(torch.arange(width // 4) / (width // 4))
    return torch.cat([wave(axis * rate) for axis in (rows, columns) for wave in (torch.sin, torch.cos)], dim=1)
