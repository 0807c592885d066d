"""Weights to start training from: a ViT of timm (.pth), of Google's releases (.npz), or a Segmenter (.pth)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from algm_trt.exporter.segmenter import Segmenter

State = dict[str, Tensor]
# What a ViT trained for classes of pictures has no weights for.
REPLACED = "decoder."


def load_start_weights(model: Segmenter, path: Path) -> list[str]:
    """Copy what fits into a network; positional embeddings are resized to its grid.

    Returns:
        Names of the parameters that keep the values they have.

    Raises:
        SystemExit: a part of the encoder is missing or of another shape.
    """
    given = _from_npz(path) if path.suffix == ".npz" else _from_pth(path)
    if "encoder.pos_embed" in given:
        given["encoder.pos_embed"] = _resized(given["encoder.pos_embed"], model)
    wanted = model.state_dict()
    fitting = {name: value for name, value in given.items() if name in wanted and value.shape == wanted[name].shape}
    kept = sorted(wanted.keys() - fitting.keys())
    missing = [name for name in kept if not name.startswith(REPLACED)]
    if missing:
        raise SystemExit(f"{path} does not fit {model.config.describe()}: {missing[0]} and {len(missing) - 1} more")
    model.load_state_dict(fitting, strict=False)
    return kept


def _from_pth(path: Path) -> State:
    """A state dictionary of timm or of a Segmenter, under a Segmenter's names."""
    data: Any = torch.load(path, map_location="cpu", weights_only=True)
    state: Mapping[str, Tensor] = data.get("model", data)
    whole = any(name.startswith("encoder.") for name in state)
    return {name if whole else f"encoder.{name}": value.float() for name, value in state.items()}


def _from_npz(path: Path) -> State:
    """The arrays of Google's Vision Transformer releases, under a Segmenter's names."""
    with np.load(path) as file:
        arrays = {name: torch.from_numpy(np.asarray(file[name], np.float32)) for name in file.files}
    state: State = {
        "encoder.cls_token": arrays["cls"],
        "encoder.pos_embed": arrays["Transformer/posembed_input/pos_embedding"],
        "encoder.patch_embed.proj.weight": arrays["embedding/kernel"].permute(3, 2, 0, 1),
        "encoder.patch_embed.proj.bias": arrays["embedding/bias"],
        "encoder.norm.weight": arrays["Transformer/encoder_norm/scale"],
        "encoder.norm.bias": arrays["Transformer/encoder_norm/bias"],
    }
    depth = sum(name.endswith("LayerNorm_0/scale") for name in arrays)
    for layer in range(depth):
        state |= _block(arrays, f"Transformer/encoderblock_{layer}", f"encoder.blocks.{layer}")
    return state


def _block(arrays: State, source: str, target: str) -> State:
    attention = f"{source}/MultiHeadDotProductAttention_1"
    parts = [arrays[f"{attention}/{part}/kernel"] for part in ("query", "key", "value")]
    biases = [arrays[f"{attention}/{part}/bias"] for part in ("query", "key", "value")]
    state = {
        f"{target}.attn.qkv.weight": torch.cat([part.flatten(1).T for part in parts]),
        f"{target}.attn.qkv.bias": torch.cat([bias.flatten() for bias in biases]),
        f"{target}.attn.proj.weight": arrays[f"{attention}/out/kernel"].flatten(0, 1).T,
        f"{target}.attn.proj.bias": arrays[f"{attention}/out/bias"],
    }
    for ours, theirs in (("norm1", "LayerNorm_0"), ("norm2", "LayerNorm_2")):
        state[f"{target}.{ours}.weight"] = arrays[f"{source}/{theirs}/scale"]
        state[f"{target}.{ours}.bias"] = arrays[f"{source}/{theirs}/bias"]
    for ours, theirs in (("fc1", "Dense_0"), ("fc2", "Dense_1")):
        state[f"{target}.mlp.{ours}.weight"] = arrays[f"{source}/MlpBlock_3/{theirs}/kernel"].T
        state[f"{target}.mlp.{ours}.bias"] = arrays[f"{source}/MlpBlock_3/{theirs}/bias"]
    return state


def _resized(positions: Tensor, model: Segmenter) -> Tensor:
    """Positional embeddings (1, E+n, C) for the grid of a network, bilinearly as the official code does."""
    extra, grid = model.config.extra_tokens, model.config.grid
    side = math.isqrt(positions.shape[1] - extra)
    if (side, side) == grid or side * side != positions.shape[1] - extra:
        return positions
    square = positions[:, extra:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    resized = F.interpolate(square, size=grid, mode="bilinear").flatten(2).transpose(1, 2)
    return torch.cat([positions[:, :extra], resized], dim=1)
