"""The encoder as a plain NumPy chain, image by image: the model's weights, the reference's attention and merges."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from algm_trt.exporter.config import NORMALIZATIONS
from algm_trt.exporter.segmenter import Segmenter
from algm_trt.plugins import reference

Array = NDArray[Any]

_erf = np.frompyfunc(math.erf, 1, 1)


def encoder_token_map(model: Segmenter, images: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Token of each patch after the last merge, (B, N0), for images (B, H, W, 3) with sides of whole patches.

    Checks on the way that no merge touches the extra tokens.
    """
    assert model.merge is not None
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    config, extra = model.config, model.config.extra_tokens
    tokens = _embedded(model, images)
    grid = -(-images.shape[1] // config.patch_size), -(-images.shape[2] // config.patch_size)
    maps = []
    for x in tokens:
        sizes: Array = np.ones(len(x), np.int32)
        token_map: Array = np.arange(extra, len(x), dtype=np.int32)[None]
        for layer in range(1, model.merge.layers[-1] + 1):
            block = f"encoder.blocks.{layer - 1}"
            qkv = _linear(_norm(x, state, f"{block}.norm1"), state, f"{block}.attn.qkv")
            whole = np.array([0, len(x)], np.int32)
            mixed = reference.packed_attention(qkv, whole, heads=config.n_heads)
            x = x + _linear(mixed, state, f"{block}.attn.proj")
            if layer == model.merge.layers[0]:
                merged = reference.local_merge(
                    x[None], model.merge.threshold, grid=grid, window=model.merge.window, extra_tokens=extra
                )
            elif layer in model.merge.layers:
                merged = reference.global_merge(x, sizes, whole, token_map, layer=layer, extra_tokens=extra)
            if layer in model.merge.layers:
                np.testing.assert_array_equal(merged.y[:extra], x[:extra])
                x, sizes, token_map = merged.y, merged.sizes, merged.token_map
            hidden = _linear(_norm(x, state, f"{block}.norm2"), state, f"{block}.mlp.fc1")
            x = x + _linear(_gelu(hidden), state, f"{block}.mlp.fc2")
        maps.append(token_map[0])
    return np.stack(maps)


def _embedded(model: Segmenter, images: NDArray[np.uint8]) -> Array:
    """Patches times the embedding's weights, extra tokens in front, positions added: (B, E+N0, C) float32."""
    config, encoder = model.config, model.encoder
    mean, std = (np.array(values, np.float32) for values in NORMALIZATIONS[config.normalization])
    x = (images.astype(np.float32) - mean) / std
    patch = config.patch_size
    rows, columns = images.shape[1] // patch, images.shape[2] // patch
    x = (
        x.reshape(len(x), rows, patch, columns, patch, 3)
        .transpose(0, 1, 3, 5, 2, 4)
        .reshape(len(x), rows * columns, -1)
    )
    weight = encoder.patch_embed.proj.weight.detach().numpy().reshape(config.d_model, -1)
    bias = encoder.patch_embed.proj.bias
    assert bias is not None
    x = x @ weight.T + bias.detach().numpy()
    extra = np.broadcast_to(encoder.extra().detach().numpy(), (len(x), config.extra_tokens, config.d_model))
    return np.concatenate([extra, x], axis=1) + encoder.positions((rows, columns)).detach().numpy()


def _linear(x: Array, state: dict[str, Array], name: str) -> Array:
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def _norm(x: Array, state: dict[str, Array], name: str) -> Array:
    centred = x - x.mean(axis=-1, keepdims=True)
    scale = np.sqrt(np.square(centred).mean(axis=-1, keepdims=True) + 1e-5)
    return centred / scale * state[f"{name}.weight"] + state[f"{name}.bias"]


def _gelu(x: Array) -> Array:
    return np.asarray(0.5 * x * (1 + _erf(x / np.sqrt(2))), np.float32)
