"""The official ALGM code as a rival in `gpu_model.py`: its checkout is an argument, nothing of it is in this tree."""

from __future__ import annotations

import contextlib
import importlib
import io
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from algm_trt.exporter.segmenter import Segmenter
from algm_trt.runtime.card import MergeSettings


class _NoDropPath(nn.Module):
    """What timm's DropPath is in evaluation mode."""

    def __init__(self, probability: float = 0.0) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return x


def import_official(checkout: Path, device: str) -> types.SimpleNamespace:
    """Import the model code of a checkout without timm; on a CPU, `.cuda()` stays where it is."""
    stubs: dict[str, dict[str, Any]] = {
        "timm": {},
        "timm.models": {},
        # Weights are loaded: those of before cost seconds.
        "timm.models.layers": {"DropPath": _NoDropPath, "trunc_normal_": lambda tensor, **_: tensor},
        "timm.models.vision_transformer": {"_load_weights": None},
    }
    for name, members in stubs.items():
        module = types.ModuleType(name)
        vars(module).update(members)
        sys.modules[name] = module
    if device == "cpu":
        torch.Tensor.cuda = lambda tensor, *_, **__: tensor  # type: ignore[method-assign]
    sys.path[:0] = [str(checkout), str(checkout / "algm")]
    return types.SimpleNamespace(
        vit=importlib.import_module("segm.model.vit"),
        decoder=importlib.import_module("segm.model.decoder"),
        segmenter=importlib.import_module("segm.model.segmenter"),
        patch=importlib.import_module("algm.patch.algm_segmenter_patch"),
    )


def official_model(
    official: types.SimpleNamespace, ours: Segmenter, merge: MergeSettings | None, threshold: float
) -> Callable[[Tensor], Tensor]:
    """The official network with our weights, dense or merging, on the device and in the type of our model."""
    config = ours.config
    encoder = official.vit.VisionTransformer(
        config.image_size, config.patch_size, config.n_layers, config.d_model, config.d_ff, config.n_heads, 1000
    )
    decoder = official.decoder.MaskTransformer(
        *(config.n_cls, config.patch_size, config.d_model, config.decoder_layers, config.decoder_heads),
        *(config.d_model, config.d_ff, 0.0, 0.0),
    )
    model = official.segmenter.Segmenter(encoder, decoder, config.n_cls)
    head = {name: value for name, value in model.state_dict().items() if name.startswith("encoder.head.")}
    model.load_state_dict(ours.state_dict() | head, strict=True)  # ours has no classification head, it is not used
    weight = next(ours.parameters())
    model = model.eval().to(weight.device, weight.dtype)
    if merge is not None:
        with contextlib.redirect_stdout(io.StringIO()):
            official.patch.apply_patch(model, list(merge.layers), trace_source=True, prop_attn=False)
        model.encoder.window_size, model.encoder.threshold = merge.window, threshold
    forward: Callable[[Tensor], Tensor] = model
    return forward
