"""Write a network as official training writes it: weights in `checkpoint.pth`, all settings in `variant.yml`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml

from algm_trt.exporter.config import SegmenterConfig
from algm_trt.exporter.segmenter import Segmenter
from algm_trt.runtime.card import MergeSettings

# Of the official code, whatever the data set.
HEAD_CLASSES = 1000


@dataclass(frozen=True)
class Training:
    """How a network was trained, as far as `variant.yml` records it.

    Attributes:
        dataset: name of the data set.
        crop: side of the square crops in pixels.
        short_side: pixels that the short side of a picture has when it is evaluated.
        batch_size: crops per step.
        log_dir: name of the run.
        epochs: times that the data set was seen.
        amp: whether in mixed precision.
        optimizer: settings of the optimizer and of its schedule.
    """

    dataset: str
    crop: int
    short_side: int
    batch_size: int
    log_dir: str
    epochs: int = 1
    amp: bool = False
    optimizer: Mapping[str, Any] = field(default_factory=dict)


def write_checkpoint(folder: Path, model: Segmenter, merge: MergeSettings | None, training: Training) -> Path:
    """Write `checkpoint.pth` and `variant.yml`.

    Args:
        folder: to write to; it is made.
        model: weights and architecture.
        merge: what it was trained with; None without merging.
        training: how it was trained.

    Returns:
        The folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: value.detach().cpu() for name, value in model.state_dict().items()} | unused_heads(model.config)
    weights = {"model": state, "n_cls": model.config.n_cls, "epoch": training.epochs - 1}
    torch.save(weights, folder / "checkpoint.pth")
    (folder / "variant.yml").write_text(yaml.dump(variant(model.config, merge, training)), encoding="utf-8")
    return folder


def unused_heads(config: SegmenterConfig) -> dict[str, torch.Tensor]:
    """Zeros for the backbone's classification heads: the official code computes nothing with them, but wants them."""
    heads = ("head", "head_dist") if config.distilled else ("head",)
    shapes = {"weight": (HEAD_CLASSES, config.d_model), "bias": (HEAD_CLASSES,)}
    return {f"encoder.{head}.{part}": torch.zeros(shape) for head in heads for part, shape in shapes.items()}


def variant(config: SegmenterConfig, merge: MergeSettings | None, training: Training) -> dict[str, Any]:
    """The description that official training writes beside the weights."""
    crop, batch = training.crop, training.batch_size
    return {
        "algorithm_kwargs": {"batch_size": batch, "eval_freq": 1, "num_epochs": training.epochs, "start_epoch": 0},
        "amp": training.amp,
        "dataset_kwargs": {
            "batch_size": batch,
            "crop_size": crop,
            "dataset": training.dataset,
            "image_size": training.short_side,
            "merging_window_size": merge and merge.window,
            "normalization": config.normalization,
            "num_workers": 0,
            "patch_type": "algm" if merge else "pure",
            "selected_layers": merge and merge.layers,
            "split": "train",
            "threshold": merge and merge.threshold,
        },
        "inference_kwargs": {"im_size": training.short_side, "window_size": crop, "window_stride": crop - 32},
        "log_dir": training.log_dir,
        "net_kwargs": _network(config),
        "optimizer_kwargs": {"epochs": training.epochs, **training.optimizer},
        "resume": False,
        "version": "normal",
        "world_batch_size": batch,
    }


def _network(config: SegmenterConfig) -> dict[str, Any]:
    return {
        "backbone": config.backbone,
        "d_model": config.d_model,
        "decoder": {
            "drop_path_rate": 0.0,
            "dropout": 0.0,
            "n_cls": config.n_cls,
            "n_layers": config.decoder_layers,
            "name": config.decoder,
        },
        "distilled": config.distilled,
        "drop_path_rate": 0.0,
        "dropout": 0.0,
        "image_size": config.image_size,
        "n_cls": config.n_cls,
        "n_heads": config.n_heads,
        "n_layers": config.n_layers,
        "normalization": config.normalization,
        "patch_size": config.patch_size,
    }
