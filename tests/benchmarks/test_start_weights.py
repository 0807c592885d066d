"""Weights to start training from: those of timm and of Google's releases become the encoder, others are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from parts.networks import random_config
from parts.start_weights import load_start_weights

from algm_trt.exporter.segmenter import Segmenter


def network() -> Segmenter:
    torch.manual_seed(0)
    model = Segmenter(random_config("tiny", 64))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    return model


def test_weights_of_timm_are_the_encoder(tmp_path: Path) -> None:
    source, target = network(), Segmenter(random_config("tiny", 96))
    file = tmp_path / "timm.pth"
    weights = {name.removeprefix("encoder."): value for name, value in source.state_dict().items() if "encoder" in name}
    torch.save(weights | {"head.weight": torch.zeros(1000, 64), "head.bias": torch.zeros(1000)}, file)
    kept = load_start_weights(target, file)
    assert all(name.startswith("decoder.") for name in kept)
    loaded, given = target.state_dict(), source.state_dict()
    assert torch.equal(loaded["encoder.blocks.5.attn.qkv.weight"], given["encoder.blocks.5.attn.qkv.weight"])
    # Positions for 6x6 patches are those for 4x4, resized; the class token's stays.
    assert torch.equal(loaded["encoder.pos_embed"][:, 0], given["encoder.pos_embed"][:, 0])
    assert loaded["encoder.pos_embed"].shape == (1, 37, 64)


def test_weights_of_google_are_the_encoder(tmp_path: Path) -> None:
    source, target = network(), Segmenter(random_config("tiny", 64))
    np.savez(tmp_path / "vit.npz", **google_arrays(source))
    load_start_weights(target, tmp_path / "vit.npz")
    loaded = target.state_dict()
    for name, value in source.encoder.state_dict().items():
        torch.testing.assert_close(loaded[f"encoder.{name}"], value, rtol=0, atol=0)


def google_arrays(model: Segmenter) -> dict[str, np.ndarray]:
    """The encoder as the JAX releases store it: kernels are (in, out), heads have an axis of their own."""
    state = {name: value.numpy() for name, value in model.encoder.state_dict().items()}
    arrays = {
        "cls": state["cls_token"],
        "Transformer/posembed_input/pos_embedding": state["pos_embed"],
        "embedding/kernel": state["patch_embed.proj.weight"].transpose(2, 3, 1, 0),
        "embedding/bias": state["patch_embed.proj.bias"],
        "Transformer/encoder_norm/scale": state["norm.weight"],
        "Transformer/encoder_norm/bias": state["norm.bias"],
    }
    width, heads = model.config.d_model, model.config.n_heads
    for layer in range(model.config.n_layers):
        ours, theirs = f"blocks.{layer}", f"Transformer/encoderblock_{layer}"
        attention = f"{theirs}/MultiHeadDotProductAttention_1"
        for index, part in enumerate(("query", "key", "value")):
            rows = slice(index * width, (index + 1) * width)
            kernel = state[f"{ours}.attn.qkv.weight"][rows].T
            arrays[f"{attention}/{part}/kernel"] = kernel.reshape(width, heads, -1)
            arrays[f"{attention}/{part}/bias"] = state[f"{ours}.attn.qkv.bias"][rows].reshape(heads, -1)
        arrays[f"{attention}/out/kernel"] = state[f"{ours}.attn.proj.weight"].T.reshape(heads, -1, width)
        arrays[f"{attention}/out/bias"] = state[f"{ours}.attn.proj.bias"]
        for norm, name in (("norm1", "LayerNorm_0"), ("norm2", "LayerNorm_2")):
            arrays[f"{theirs}/{name}/scale"] = state[f"{ours}.{norm}.weight"]
            arrays[f"{theirs}/{name}/bias"] = state[f"{ours}.{norm}.bias"]
        for linear, name in (("fc1", "Dense_0"), ("fc2", "Dense_1")):
            arrays[f"{theirs}/MlpBlock_3/{name}/kernel"] = state[f"{ours}.mlp.{linear}.weight"].T
            arrays[f"{theirs}/MlpBlock_3/{name}/bias"] = state[f"{ours}.mlp.{linear}.bias"]
    return arrays


def test_weights_of_another_width_are_refused(tmp_path: Path) -> None:
    torch.save(network().state_dict(), tmp_path / "other.pth")
    with pytest.raises(SystemExit, match="does not fit"):
        load_start_weights(Segmenter(random_config("vit_tiny", 64)), tmp_path / "other.pth")
