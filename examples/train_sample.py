"""Train the sample checkpoint: a small Segmenter with ALGM on drawn scenes, on a CPU, in minutes.

    python examples/train_sample.py [-o examples/sample] [--minutes 8] [--seed 0]

Writes `checkpoint.pth` and `variant.yml` in the official format, `classes.txt`, and `metrics.json` with the accuracy on
scenes that training never saw, dense and merged. As in the paper, the network first learns without merging, then goes
on with it.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import yaml
from numpy.typing import NDArray

from algm_trt.exporter.config import SegmenterConfig
from algm_trt.exporter.segmenter import Segmenter, full_size_logits, normalise
from algm_trt.runtime.card import MergeSettings
from algm_trt.runtime.scenes import CLASSES, PALETTE, Scene, draw_scene

CROP = 128
CONFIG = SegmenterConfig(
    image_size=(CROP, CROP),
    patch_size=8,
    d_model=64,
    n_layers=6,
    n_heads=2,
    d_ff=256,
    n_cls=len(CLASSES),
    head_classes=len(CLASSES),
    decoder_layers=1,
    backbone="vit_tiny_patch8_128",
)
MERGE = MergeSettings(layers=(1, 3), window=(2, 2), threshold=0.95)
DENSE_SHARE = 0.4
BATCH = 16
SCENES = 400
SIDES = (128, 192, 256, 384, 512)
HELD_OUT = range(1_000_000, 1_000_060)
LEARNING_RATE = 3e-3
WARM_UP = 0.03


def initialise(model: Segmenter) -> None:
    """Weights as Vision Transformers start: truncated normal 0.02, biases zero, Segmenter's projections by width."""
    for name, parameter in model.named_parameters():
        if name in ("decoder.proj_patch", "decoder.proj_classes"):
            torch.nn.init.normal_(parameter, std=CONFIG.d_model**-0.5)
        elif parameter.dim() > 1:
            torch.nn.init.trunc_normal_(parameter, std=0.02)
        elif name.endswith("bias"):
            torch.nn.init.zeros_(parameter)


def training_scenes(seed: int) -> list[Scene]:
    """Scenes of several sizes; crops of one size then show things near and far."""
    return [
        draw_scene(SIDES[index % len(SIDES)], SIDES[index % len(SIDES)], seed * 100_000 + index)
        for index in range(SCENES)
    ]


def random_batch(scenes: list[Scene], random: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Crops (B, CROP, CROP, 3) uint8 and their labels (B, CROP, CROP), mirrored half of the time."""
    images, labels = [], []
    for index in random.integers(len(scenes), size=BATCH):
        image, label = random_crop(scenes[index], random)
        if random.random() < 0.5:
            image, label = image[:, ::-1], label[:, ::-1]
        images.append(image)
        labels.append(label)
    return torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(labels)).long()


def random_crop(scene: Scene, random: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A window of CROP x CROP pixels."""
    height, width = scene.labels.shape
    top, left = random.integers(height - CROP + 1), random.integers(width - CROP + 1)
    rows, columns = slice(top, top + CROP), slice(left, left + CROP)
    return scene.image[rows, columns], scene.labels[rows, columns]


def train(minutes: float, seed: int) -> tuple[Segmenter, int]:
    """A trained network and the number of its steps; the time decides how many there are."""
    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    model = Segmenter(CONFIG, MERGE)
    initialise(model)
    model.train()
    scenes = training_scenes(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    begin, step, share, smooth = time.monotonic(), 0, 0.0, 0.0
    while share < 1:
        share = min((time.monotonic() - begin) / (60 * minutes), 1)
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(share / WARM_UP, 0.5 * (1 + math.cos(math.pi * share)))
        model.merge = None if share < DENSE_SHARE else MERGE
        images, labels = random_batch(scenes, random)
        output = model(normalise(images, CONFIG.normalization))
        logits = full_size_logits(output.logits, CONFIG.patch_size, (CROP, CROP))
        loss = F.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        smooth = loss.item() if step == 0 else 0.95 * smooth + 0.05 * loss.item()
        if step % 50 == 0:
            right = (logits.argmax(1) == labels).float().mean().item()
            tokens = output.token_counts[:, -1].float().mean().item()
            print(
                f"step {step:5d}  {share:4.0%}  loss {smooth:.3f}  accuracy {right:.3f}  tokens {tokens:.0f}",
                flush=True,
            )
        step += 1
    return model.eval(), step


@torch.no_grad()
def evaluate(model: Segmenter, merge: MergeSettings | None) -> dict[str, float]:
    """Pixel accuracy, mIoU and share of tokens left on held-out scenes of the crop's size."""
    model.merge = merge
    confusion = np.zeros((len(CLASSES), len(CLASSES)), np.int64)
    kept = []
    for seed in HELD_OUT:
        scene = draw_scene(256, 256, seed)
        for top in (0, CROP):
            for left in (0, CROP):
                image = torch.from_numpy(scene.image[None, top : top + CROP, left : left + CROP].copy())
                output = model(normalise(image, CONFIG.normalization))
                found = full_size_logits(output.logits, CONFIG.patch_size, (CROP, CROP)).argmax(1)[0].numpy()
                truth = scene.labels[top : top + CROP, left : left + CROP].astype(np.int64)
                pairs = np.bincount((truth * len(CLASSES) + found).ravel(), minlength=len(CLASSES) ** 2)
                confusion += pairs.reshape(confusion.shape)
                kept.append(float(output.token_counts[0, -1]) / float(output.token_counts[0, 0]))
    union = confusion.sum(0) + confusion.sum(1) - np.diag(confusion)
    return {
        "pixel_accuracy": round(float(np.diag(confusion).sum() / confusion.sum()), 4),
        "mean_iou": round(float(np.mean(np.diag(confusion)[union > 0] / union[union > 0])), 4),
        "tokens_kept": round(float(np.mean(kept)), 4),
    }


def variant() -> dict[str, object]:
    """The description that official training writes beside the weights."""
    return {
        "dataset_kwargs": {
            "batch_size": BATCH,
            "crop_size": CROP,
            "dataset": "drawn_scenes",
            "image_size": CROP,
            "merging_window_size": MERGE.window,
            "normalization": CONFIG.normalization,
            "patch_type": "algm",
            "selected_layers": MERGE.layers,
            "split": "train",
            "threshold": MERGE.threshold,
        },
        "inference_kwargs": {"im_size": CROP, "window_size": CROP, "window_stride": CROP - 32},
        "net_kwargs": {
            "backbone": CONFIG.backbone,
            "d_model": CONFIG.d_model,
            "decoder": {
                "name": CONFIG.decoder,
                "n_layers": CONFIG.decoder_layers,
                "drop_path_rate": 0.0,
                "dropout": 0.0,
            },
            "distilled": False,
            "drop_path_rate": 0.0,
            "dropout": 0.0,
            "image_size": CONFIG.image_size,
            "n_cls": CONFIG.n_cls,
            "n_heads": CONFIG.n_heads,
            "n_layers": CONFIG.n_layers,
            "normalization": CONFIG.normalization,
            "patch_size": CONFIG.patch_size,
        },
        "resume": False,
        "version": "normal",
        "world_batch_size": BATCH,
    }


def main() -> None:
    """Train, measure, write."""
    parser = argparse.ArgumentParser(description="Train the sample checkpoint.")
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent / "sample")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    begin = time.monotonic()
    model, steps = train(arguments.minutes, arguments.seed)
    seconds = time.monotonic() - begin
    metrics = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "torch": torch.__version__,
        "steps": steps,
        "seconds": round(seconds),
        "threshold": MERGE.threshold,
        "held_out_scenes": len(HELD_OUT),
        "dense": evaluate(model, None),
        "merged": evaluate(model, MERGE),
    }
    arguments.output.mkdir(parents=True, exist_ok=True)
    torch.save({"model": model.state_dict(), "n_cls": CONFIG.n_cls}, arguments.output / "checkpoint.pth")
    (arguments.output / "variant.yml").write_text(yaml.dump(variant()))
    lines = (",".join(map(str, (name, *colour))) for name, colour in zip(CLASSES, PALETTE, strict=True))
    (arguments.output / "classes.txt").write_text("\n".join(lines) + "\n")
    (arguments.output / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")
    print(json.dumps(metrics, indent=1))


if __name__ == "__main__":
    main()
