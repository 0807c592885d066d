"""Train the sample checkpoint: a small Segmenter with ALGM on drawn scenes, on a CPU, in minutes.

    python examples/train_sample.py [-o examples/sample] [--steps 2400] [--seed 0]

Writes `checkpoint.pth` and `variant.yml` in the official format, `classes.txt`, and `metrics.json` with the accuracy on
scenes that training never saw, dense and merged. As in the paper, the network first learns without merging, then goes
on with it; the threshold varies there, so that the network works at more than one.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from first_weights import initialise
from numpy.typing import NDArray
from official_format import Training, write_checkpoint

from algm_trt.exporter.config import SegmenterConfig
from algm_trt.exporter.segmenter import Segmenter, full_size_logits, normalise
from algm_trt.exporter.torch_engine import TorchEngine
from algm_trt.runtime.card import MergeSettings
from algm_trt.runtime.evaluation.metrics import Scores, confusion
from algm_trt.runtime.scenes import CLASSES, PALETTE, Scene, draw_scene
from algm_trt.runtime.segmenter import Segmenter as Runner

CROP = 192
CONFIG = SegmenterConfig(
    image_size=(CROP, CROP),
    patch_size=8,
    d_model=64,
    n_layers=6,
    n_heads=1,
    d_ff=256,
    n_cls=len(CLASSES),
    decoder_layers=1,
    backbone="vit_tiny_patch16_384",
)
MERGE = MergeSettings(layers=(1, 3), window=(2, 2), threshold=0.95)
THRESHOLDS = (0.88, 0.98)
DENSE_SHARE = 0.25
BATCH = 8
POOL = 256
SIDES = (CROP, 600)
HELD_OUT = range(1_000_000, 1_000_060)
HELD_OUT_SIZE = (256, 384)
LEARNING_RATE = 2.5e-3
WARM_UP = 50
REPORT = 100


def batches(seed: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless crops (B, CROP, CROP, 3) uint8 and their labels (B, CROP, CROP) from a pool of scenes that changes."""
    random = np.random.default_rng(seed)
    drawn = seed * 100_000
    pool: list[Scene] = []
    while True:
        for _ in range(1 if pool else POOL):
            height, width = random.integers(*SIDES, size=2, endpoint=True).tolist()
            pool.append(draw_scene(height, width, drawn))
            drawn += 1
        pool = pool[-POOL:]
        pairs = [busy_crop(pool[index], random) for index in random.integers(len(pool), size=BATCH)]
        images, labels = (np.stack(part) for part in zip(*pairs, strict=True))
        yield torch.from_numpy(images), torch.from_numpy(labels).long()


def busy_crop(scene: Scene, random: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Of two random crops the one with more classes, mirrored half of the time: empty skies teach little."""
    height, width = scene.labels.shape
    choices = []
    for _ in range(2):
        top, left = int(random.integers(height - CROP + 1)), int(random.integers(width - CROP + 1))
        window = slice(top, top + CROP), slice(left, left + CROP)
        choices.append((len(np.unique(scene.labels[window][::4, ::4])), top, left))
    _, top, left = max(choices)
    image, labels = (part[top : top + CROP, left : left + CROP] for part in (scene.image, scene.labels))
    return (image[:, ::-1], labels[:, ::-1]) if random.random() < 0.5 else (image, labels)


def train(steps: int, seed: int) -> Segmenter:
    """A trained network."""
    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    model = Segmenter(CONFIG, MERGE).train()
    initialise(model)
    weights = list(model.parameters())
    optimizer = torch.optim.AdamW(weights, lr=LEARNING_RATE, weight_decay=0.02, betas=(0.9, 0.98))
    smooth = math.log(CONFIG.n_cls)
    for step, (images, labels) in zip(range(steps), batches(seed), strict=False):
        rate = min((step + 1) / WARM_UP, 0.5 * (1 + math.cos(math.pi * step / steps)))
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * rate
        model.merge = None if step < DENSE_SHARE * steps else MERGE
        output = model(normalise(images, CONFIG.normalization), random.uniform(*THRESHOLDS))
        logits = full_size_logits(output.logits, CONFIG.patch_size, (CROP, CROP))
        loss = F.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        smooth += (loss.item() - smooth) * 0.02
        if step % REPORT == REPORT - 1:
            right = (logits.detach().argmax(1) == labels).float().mean().item()
            kept = (output.token_counts[:, 2].sum() / output.token_counts[:, 0].sum()).item()
            print(
                f"step {step + 1:5d}/{steps}  loss {smooth:.3f}  accuracy {right:.3f}  tokens kept {kept:4.0%}  "
                f"{time.process_time():.0f} s of CPU time",
                flush=True,
            )
    return model.eval()


def evaluate(checkpoint: Path, merge: bool, threshold: float) -> dict[str, float]:
    """Scores of the written checkpoint on the held-out scenes, in sliding windows as `algm-infer` works."""
    counts = np.zeros((len(CLASSES), len(CLASSES)), np.int64)
    kept = []
    with Runner(TorchEngine(checkpoint, device="cpu", merge=merge)) as runner:
        for seed in HELD_OUT:
            scene = draw_scene(*HELD_OUT_SIZE, seed)
            result = runner(scene.image, threshold=threshold if merge else None)
            counts += confusion(scene.labels.astype(np.uint16), result.labels, len(CLASSES))
            kept.append(result.tokens_kept)
    scores = Scores(counts)
    return {
        "pixel_accuracy": round(scores.pixel_accuracy, 4),
        "mean_iou": round(scores.mean_iou, 4),
        **{f"iou_{name}": round(value, 4) for name, value in zip(CLASSES, scores.iou.tolist(), strict=True)},
        "tokens_kept": round(float(np.mean(kept)), 4),
    }


def training(steps: int) -> Training:
    """How the network was trained, for its `variant.yml`."""
    return Training(
        dataset="drawn_scenes",
        crop=CROP,
        short_side=HELD_OUT_SIZE[0],
        batch_size=BATCH,
        log_dir="sample",
        optimizer={
            "clip_grad": 1.0,
            "iter_max": steps,
            "iter_warmup": float(WARM_UP),
            "lr": LEARNING_RATE,
            "opt": "adamw",
            "sched": "cosine",
            "weight_decay": 0.02,
        },
    )


def write(model: Segmenter, steps: int, folder: Path) -> None:
    """The checkpoint in the official format, and the names and colours of the classes."""
    write_checkpoint(folder, model, MERGE, training(steps))
    lines = (",".join(map(str, (name, *colour))) for name, colour in zip(CLASSES, PALETTE, strict=True))
    (folder / "classes.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    """Train, write, measure."""
    parser = argparse.ArgumentParser(description="Train the sample checkpoint.")
    parser.add_argument(
        "-o", "--output", type=Path, default=Path(__file__).parent / "sample", help="folder to write to"
    )
    parser.add_argument("--steps", type=int, default=2400, help="optimisation steps (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and pictures (default: %(default)s)")
    arguments = parser.parse_args()
    begin = time.monotonic()
    model = train(arguments.steps, arguments.seed)
    metrics = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "torch": torch.__version__,
        "steps": arguments.steps,
        "seconds": round(time.monotonic() - begin),
        "cpu_seconds": round(time.process_time()),
    }
    write(model, arguments.steps, arguments.output)
    metrics["held_out_scenes"] = len(HELD_OUT)
    metrics["dense"] = evaluate(arguments.output, merge=False, threshold=MERGE.threshold)
    metrics["merged"] = {
        f"{threshold:.2f}": evaluate(arguments.output, merge=True, threshold=threshold)
        for threshold in sorted({*THRESHOLDS, MERGE.threshold})
    }
    (arguments.output / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(metrics, indent=1))


if __name__ == "__main__":
    main()
