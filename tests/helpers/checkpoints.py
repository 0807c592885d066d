"""Write checkpoints as the official code does."""

from __future__ import annotations

from pathlib import Path

import torch
import yaml

from algm_trt.exporter.config import SegmenterConfig
from algm_trt.exporter.segmenter import Segmenter
from algm_trt.runtime.card import MergeSettings


def unused_heads(config: SegmenterConfig, classes: int = 1000) -> dict[str, torch.Tensor]:
    """Weights of the backbone's classification heads, which are no part of a Segmenter's result."""
    heads = ("head", "head_dist") if config.distilled else ("head",)
    weights = {f"encoder.{head}.weight": torch.ones(classes, config.d_model) for head in heads}
    return weights | {f"encoder.{head}.bias": torch.ones(classes) for head in heads}


def write_checkpoint(folder: Path, model: Segmenter, merge: MergeSettings | None = None, dataset: str = "") -> Path:
    """Write `checkpoint.pth`, with the classification heads of the backbone, and `variant.yml`; returns the folder."""
    config = model.config
    decoder: dict[str, object] = {"name": config.decoder}
    if config.decoder_layers:
        decoder["n_layers"] = config.decoder_layers
    net = {
        "image_size": list(config.image_size),
        "patch_size": config.patch_size,
        "d_model": config.d_model,
        "n_layers": config.n_layers,
        "n_heads": config.n_heads,
        "n_cls": config.n_cls,
        "distilled": config.distilled,
        "decoder": decoder,
    }
    data: dict[str, object] = {"crop_size": config.image_size[0], "normalization": config.normalization}
    if dataset:
        data["dataset"] = dataset
    if merge:
        data |= {
            "patch_type": "algm",
            "selected_layers": list(merge.layers),
            "merging_window_size": list(merge.window),
            "threshold": merge.threshold,
        }
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"model": model.state_dict() | unused_heads(config)}, folder / "checkpoint.pth")
    (folder / "variant.yml").write_text(yaml.safe_dump({"net_kwargs": net, "dataset_kwargs": data}))
    return folder
