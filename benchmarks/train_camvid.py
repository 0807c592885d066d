"""The paper's experiment at small scale: train on CamVid dense and with ALGM, and compare accuracy, tokens and speed.

    python benchmarks/train_camvid.py DATA -o FOLDER [--backbone vit_small] [--weights FILE] [--json FILE]

DATA is CamVid as images/{train,test}/ID.jpg and labels/{train,test}/ID.png (for non-commercial use; neither it nor the
weights belong to the project). Two networks with the same start, the same crops and the same steps: one dense, one that
merges at layers 1 and 5 while it learns. Settings follow the official training: random scale, crop, mirror and colours,
polynomial schedule, SGD from pretrained weights (--weights: a ViT of timm or of Google's releases, or a Segmenter);
without them AdamW, and the merging network learns dense for the first quarter. What differs: every picture merges for
itself, no stochastic depth, and a crop that one class fills is not drawn again. Writes FOLDER/{dense,algm} in the
official format, evaluates both on the test frames, dense and merged, and times them on the device. Needs the extra
`export`. Minutes on a GPU; a CPU is for trying it out (--steps 3 --backbone tiny --crop 128).
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from camvid_pictures import CLASSES, IGNORED, Augmentation, Pictures, frames, load_split
from networks import BACKBONES, random_config
from record import write_record
from start_weights import load_start_weights
from tables import train_camvid
from torch import Tensor

from algm_trt.exporter.checkpoint import load_checkpoint
from algm_trt.exporter.segmenter import Segmenter, full_size_logits, normalise, segmenter_from_checkpoint
from algm_trt.exporter.torch_engine import TorchEngine
from algm_trt.runtime.card import MergeSettings
from algm_trt.runtime.engine_options import EngineOptions
from algm_trt.runtime.evaluation.evaluate import EvaluationOptions
from algm_trt.runtime.evaluation.job import EvaluationJob, run_evaluation
from algm_trt.runtime.evaluation.sets import Places
from algm_trt.runtime.timing import alternate

sys.path.append(str(Path(__file__).parents[1] / "examples"))
from first_weights import initialise
from official_format import Training, write_checkpoint

# The official rate for pretrained weights; random ones need another optimizer and a higher rate.
SGD_RATE, ADAM_RATE, LEAST_RATE, POWER = 1e-3, 5e-4, 1e-5, 0.9
WARM_UP: Final = 0.05
DENSE_SHARE: Final = 0.25
TIMED_BATCH: Final = 32
REPORT: Final = 50


@dataclass(frozen=True)
class Settings:
    """One training.

    Attributes:
        backbone: a key of `networks.BACKBONES`.
        crop: side of the crops in pixels.
        steps: optimisation steps.
        batch: crops per step.
        merge: where and at which similarity tokens merge.
        weights: file to start from, or None for random weights.
        device: "cuda" or "cpu".
        seed: of weights and crops.
    """

    backbone: str
    crop: int
    steps: int
    batch: int
    merge: MergeSettings
    weights: Path | None
    device: str
    seed: int

    def training(self, pictures: int) -> Training:
        """For `variant.yml`."""
        optimizer = {"opt": "sgd" if self.weights else "adamw", "sched": "polynomial", "lr": self.rate, "momentum": 0.9}
        return Training(
            dataset="camvid",
            crop=self.crop,
            batch_size=self.batch,
            log_dir=self.backbone,
            epochs=max(1, round(self.steps * self.batch / pictures)),
            optimizer=optimizer | {"poly_power": POWER, "min_lr": LEAST_RATE, "iter_max": self.steps},
        )

    @property
    def rate(self) -> float:
        """Highest learning rate."""
        return SGD_RATE if self.weights else ADAM_RATE


def first_network(settings: Settings) -> Segmenter:
    """The network before training: the same for the same settings."""
    torch.manual_seed(settings.seed)
    config = replace(random_config(settings.backbone, settings.crop), n_cls=CLASSES)
    model = Segmenter(config, settings.merge)
    initialise(model)
    if settings.weights:
        kept = load_start_weights(model, settings.weights)
        print(f"{settings.weights.name}: all weights but {len(kept)} of the decoder and the head")
    return model.to(settings.device)


def train(settings: Settings, pictures: Pictures, merging: bool) -> tuple[Segmenter, dict[str, Any]]:
    """A trained network in evaluation mode, and how the training went; in float32, with TF32 products on a GPU."""
    torch.set_float32_matmul_precision("high")
    model = first_network(settings).train()
    crops = Augmentation(pictures, settings.crop, model.config.normalization, settings.seed)
    learning = [weight for name, weight in model.named_parameters() if not name.startswith("encoder.head.")]
    optimizer = _optimizer(settings, learning)
    begin, smooth, course = time.monotonic(), math.log(CLASSES), []
    dense_until = 0 if settings.weights else DENSE_SHARE * settings.steps
    for step in range(settings.steps):
        for group in optimizer.param_groups:
            group["lr"] = _rate(settings, step)
        model.merge = settings.merge if merging and step >= dense_until else None
        loss, kept = _step(model, optimizer, learning, crops.batch(settings.batch))
        smooth += (loss - smooth) * max(0.02, 1 / (step + 1))
        if step % REPORT == REPORT - 1 or step + 1 == settings.steps:
            seconds = time.monotonic() - begin
            course.append({"step": step + 1, "loss": smooth, "tokens_kept": kept, "seconds": seconds})
            print(
                f"step {step + 1}/{settings.steps}  loss {smooth:.3f}  tokens kept {kept:4.0%}  {seconds:.0f} s",
                flush=True,
            )
    torch.set_float32_matmul_precision("highest")
    return model.eval(), {"seconds": time.monotonic() - begin, "course": course}


def _optimizer(settings: Settings, weights: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    if settings.weights:
        return torch.optim.SGD(weights, lr=settings.rate, momentum=0.9)
    return torch.optim.AdamW(weights, lr=settings.rate, weight_decay=0.02, betas=(0.9, 0.98))


def _rate(settings: Settings, step: int) -> float:
    """Polynomial decay; random weights warm up first."""
    decayed = (settings.rate - LEAST_RATE) * (1 - step / settings.steps) ** POWER + LEAST_RATE
    warm = 1.0 if settings.weights else min(1.0, (step + 1) / (WARM_UP * settings.steps))
    return float(decayed * warm)


def _step(
    model: Segmenter,
    optimizer: torch.optim.Optimizer,
    weights: list[torch.nn.Parameter],
    batch: tuple[Tensor, Tensor],
) -> tuple[float, float]:
    """One step: its loss, and the share of the tokens that were left."""
    images, labels = batch
    output = model(images)
    logits = full_size_logits(output.logits, model.config.patch_size, model.config.image_size)
    loss = F.cross_entropy(logits, labels, ignore_index=IGNORED)
    if not torch.isfinite(loss):
        raise SystemExit("the loss is not finite: take a lower learning rate or other weights")
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(weights, 1.0)
    optimizer.step()
    before, _, last = output.token_counts.sum(dim=0).tolist()
    return float(loss.detach()), float(last / before)


def evaluate(model: Segmenter, settings: Settings, data: Path, limit: int | None) -> list[dict[str, Any]]:
    """Accuracy on the test frames, dense and merged, whichever way the network was trained."""
    kept = ("threshold", "mean_iou", "pixel_accuracy", "mean_accuracy", "boundary_f_score", "tokens_kept", "pictures")
    with TemporaryDirectory() as text:
        folder = write_checkpoint(Path(text), model, settings.merge, settings.training(1))
        weights = str(folder / "checkpoint.pth")
        job = EvaluationJob(
            models=(f"{weights}:dense", weights),
            root=data,
            dataset="camvid",
            places=Places(),
            options=EvaluationOptions(),
            limit=limit,
            engine=EngineOptions(device=settings.device),
        )
        runs = run_evaluation(job).to_dict()["runs"]
    for run in runs:
        if run["failures"]:
            raise SystemExit(f"{run['failures'][0]} and {len(run['failures']) - 1} more test frames failed")
    return [
        {"run": name} | {key: run[key] for key in kept} for name, run in zip(("dense", "merged"), runs, strict=True)
    ]


def speed(folders: dict[str, Path], settings: Settings, data: Path, rounds: int) -> dict[str, Any]:
    """Images per second of the PyTorch networks in turns on a batch of unlike windows of test frames.

    Float16 on a GPU. Dense is the network that was trained dense, merged the one that was trained with ALGM.
    """
    kind = torch.float16 if settings.device == "cuda" else torch.float32
    card = TorchEngine(folders["algm"], device="cpu").card
    windows = np.concatenate(frames(data, card, TIMED_BATCH))
    pixels = torch.from_numpy(windows[np.linspace(0, len(windows) - 1, TIMED_BATCH).astype(int)]).to(settings.device)
    calls: dict[str, Callable[[], object]] = {}
    for name, merge in (("dense", None), ("algm", settings.merge)):
        model = segmenter_from_checkpoint(load_checkpoint(folders[name]), merge).to(settings.device, kind)
        given = normalise(pixels, model.config.normalization).to(kind)
        calls[name] = partial(_waited, partial(model, given), settings.device)
    with torch.inference_mode():
        times = alternate(calls, rounds, warmup=3)
    rates = {name: len(pixels) / samples.seconds.median for name, samples in times.items()}
    return {
        "what": f"PyTorch {kind}, batch of {len(pixels)}, {settings.crop}x{settings.crop}, logits on the patch grid",
        "images_per_second": {"dense": rates["dense"], "merged": rates["algm"]},
        "merged_times_as_fast": times["dense"].over(times["algm"]).to_dict(),
    }


def _waited(run: Callable[[], object], device: str) -> None:
    run()
    if device == "cuda":
        torch.cuda.synchronize()


def both(settings: Settings, data: Path, output: Path, limit: int | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Train, write and evaluate the dense network, then the merging one."""
    pictures = load_split(data, "train").to(torch.device(settings.device))
    for name, merging in (("dense", False), ("algm", True)):
        print(f"training {name}: {settings.backbone}, crop {settings.crop}, {len(pictures.images)} pictures")
        model, course = train(settings, pictures, merging)
        merge = settings.merge if merging else None
        write_checkpoint(output / name, model, merge, settings.training(len(pictures.images)))
        yield name, course | {"test": evaluate(model, settings, data, limit)}


def parse() -> argparse.Namespace:
    """Arguments of the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for the two checkpoints")
    parser.add_argument("--backbone", choices=BACKBONES, default="vit_small")
    parser.add_argument("--weights", type=Path, help="pretrained weights to start from: .npz or .pth")
    parser.add_argument("--crop", type=int, default=384)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--layers", type=int, nargs="+", default=[1, 5], help="layers at which tokens merge")
    parser.add_argument("--threshold", type=float, default=0.88, help="similarity at which windows merge")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, help="evaluate on the first N test frames only")
    parser.add_argument("--rounds", type=int, default=20, help="of the timing")
    parser.add_argument("--json", type=Path, help="file for the results")
    return parser.parse_args()


def main() -> None:
    """Train both, evaluate both, time both, print, record."""
    given = parse()
    merge = MergeSettings(tuple(given.layers), (2, 2), given.threshold)
    settings = Settings(
        given.backbone, given.crop, given.steps, given.batch, merge, given.weights, given.device, given.seed
    )
    torch.backends.cudnn.deterministic = True
    results: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if given.device == "cuda" else "CPU",
        "network": f"{given.backbone}, {given.crop}x{given.crop}",
        "start": given.weights.name if given.weights else "random",
        "steps": given.steps,
        "batch": given.batch,
        "layers": list(merge.layers),
        "threshold": merge.threshold,
        "seed": given.seed,
        "trained": {},
    }
    for name, found in both(settings, given.data, given.output, given.limit):
        results["trained"][name] = found
        if given.json:
            write_record(given.json, results)  # what is done is kept when the time is up
    folders = {name: given.output / name for name in ("dense", "algm")}
    results["speed"] = speed(folders, settings, given.data, given.rounds)
    print(train_camvid(results))
    if given.json:
        write_record(given.json, results)


if __name__ == "__main__":
    main()
