"""The paper's experiment at small scale: train on CamVid dense and with ALGM, and compare accuracy, tokens and speed.

    python benchmarks/train_camvid.py DATA -o FOLDER [--backbone vit_small] [--weights FILE] [--json FILE]

DATA is CamVid as images/{train,test}/ID.jpg and labels/{train,test}/ID.png (for non-commercial use; neither it nor the
weights belong to the project). Two networks with the same start, the same crops and the same steps: one dense, one that
merges at layers 1 and 5 while it learns. Settings follow the official training: random scale, crop, mirror and colours,
polynomial schedule, SGD from pretrained weights (--weights: a ViT of timm or of Google's releases, or a Segmenter);
without them AdamW, and the merging network learns dense for the first quarter. What differs: every picture merges for
itself, no stochastic depth, and a crop that one class fills is not drawn again. Writes FOLDER/{dense,algm} in the
official format, evaluates both on the test frames, dense and merged, and times them on the device. Needs the extra
`export`. Minutes on a GPU, where products are computed in bfloat16 (--seconds bounds them); a CPU is for trying it out
(--steps 3 --backbone tiny --crop 128). What is done is in the JSON when the script is stopped.
"""

from __future__ import annotations

import argparse
import copy
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
from parts import camvid_evaluation
from parts.camvid_pictures import CLASSES, IGNORED, Augmentation, Pictures, frames, load_split
from parts.device_clock import synchronise
from parts.networks import BACKBONES, EXAMPLES, random_config
from parts.record import recording_parser, write_record
from parts.start_weights import load_start_weights
from parts.training_arithmetic import fast_arithmetic
from tables import train_camvid
from torch import Tensor

from algm_trt.exporter.checkpoint import load_checkpoint
from algm_trt.exporter.segmenter import Segmenter, full_size_logits, normalise, segmenter_from_checkpoint
from algm_trt.exporter.torch_engine import TorchEngine
from algm_trt.runtime.card import MergeSettings
from algm_trt.runtime.engine_options import EngineOptions
from algm_trt.runtime.timing import alternate

sys.path.append(str(EXAMPLES))
from first_weights import initialise
from official_format import Training, write_checkpoint

# The official rate for pretrained weights; random ones need another optimizer and a higher rate.
SGD_RATE, ADAM_RATE, LEAST_RATE, POWER = 1e-3, 5e-4, 1e-5, 0.9
WARM_UP: Final = 0.05
SHORT_SIDE: Final = 360  # of CamVid's frames as SegNet prepared them, for variant.yml
DENSE_SHARE: Final = 0.25
TIMED_BATCH: Final = 32
REPORT: Final = 50
# Steps that are not timed, and timed, to see how many fit; and how much longer than predicted a training may take.
PROBED: Final = (5, 15)
OVERTIME: Final = 1.25


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
        seconds: that the training of a network may take, about; None sets no limit.
    """

    backbone: str
    crop: int
    steps: int
    batch: int
    merge: MergeSettings
    weights: Path | None
    device: str
    seed: int
    seconds: float | None = None

    def training(self, pictures: int) -> Training:
        """For `variant.yml`."""
        optimizer = {"opt": "sgd" if self.weights else "adamw", "sched": "polynomial", "lr": self.rate, "momentum": 0.9}
        return Training(
            dataset="camvid",
            crop=self.crop,
            short_side=SHORT_SIDE,
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
        print(f"{settings.weights.name}: all weights but {len(kept)} of the decoder")
    return model.to(settings.device)


class Learner:
    """A network that learns: on a GPU its products are computed in bfloat16, its weights and sums in float32."""

    def __init__(self, settings: Settings, pictures: Pictures) -> None:
        self.model = first_network(settings).train()
        self._settings = settings
        self._crops = Augmentation(pictures, settings.crop, self.model.config.normalization, settings.seed)
        self._weights = list(self.model.parameters())
        self._optimizer = _optimizer(settings, self._weights)

    def step(self, rate: float, merge: MergeSettings | None) -> tuple[Tensor, Tensor]:
        """One step: its loss, and the share of the tokens that were left; both on the device, not waited for."""
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self.model.merge = merge
        images, labels = self._crops.batch(self._settings.batch)
        device, config = self._settings.device, self.model.config
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            output = self.model(images)
        logits = full_size_logits(output.logits.float(), config.patch_size, config.image_size)
        loss = F.cross_entropy(logits, labels, ignore_index=IGNORED)
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._weights, 1.0)
        self._optimizer.step()
        before, _, last = output.token_counts.sum(dim=0)
        return loss.detach(), last / before


def train(settings: Settings, pictures: Pictures, merging: bool) -> tuple[Segmenter, dict[str, Any]]:
    """A trained network in evaluation mode, its weights rounded to float16, and how the training went."""
    learner = Learner(settings, pictures)
    begin, course = time.monotonic(), []
    smooth = torch.tensor(math.log(CLASSES), device=settings.device)
    dense_until = 0 if settings.weights else DENSE_SHARE
    step, done = 0, 0.0
    while done < 1:
        loss, kept = learner.step(_rate(settings, done), settings.merge if merging and done >= dense_until else None)
        smooth += (loss - smooth) * max(0.02, 1 / (step + 1))
        step += 1
        done = _done(settings, step, time.monotonic() - begin)
        if step % REPORT == 0 or done >= 1:
            if not torch.isfinite(smooth):
                raise SystemExit("the loss is not finite: take a lower learning rate or other weights")
            row = {"step": step, "loss": float(smooth), "tokens_kept": float(kept)}
            course.append(row | {"seconds": time.monotonic() - begin})
            print(
                "step {step}/{steps}  loss {loss:.3f}  tokens kept {tokens_kept:4.0%}  {seconds:.0f} s".format(
                    **course[-1], steps=settings.steps
                ),
                flush=True,
            )
    model = learner.model.eval()
    model.load_state_dict({name: value.half().float() for name, value in model.state_dict().items()})
    return model, {"steps": step, "seconds": time.monotonic() - begin, "course": course}


def steps_that_fit(settings: Settings, pictures: Pictures) -> int:
    """Steps for both networks: as many as the slower of the two ways to train does in the time, if those are fewer."""
    if settings.seconds is None:
        return settings.steps
    times = {}
    for name, merge in (("dense", None), ("merging", settings.merge)):
        learner = Learner(settings, pictures)
        for number in range(sum(PROBED)):
            if number == PROBED[0]:
                synchronise(settings.device)
                begin = time.monotonic()
            learner.step(0.0, merge)
        synchronise(settings.device)
        times[name] = (time.monotonic() - begin) / PROBED[1]
    print(", ".join(f"a {name} step takes {1e3 * value:.1f} ms" for name, value in times.items()), flush=True)
    return max(1, min(settings.steps, int(settings.seconds / max(times.values()))))


def _optimizer(settings: Settings, weights: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    fused = settings.device == "cuda"
    if settings.weights:
        return torch.optim.SGD(weights, lr=settings.rate, momentum=0.9, fused=fused)
    return torch.optim.AdamW(weights, lr=settings.rate, weight_decay=0.02, betas=(0.9, 0.98), fused=fused)


def _done(settings: Settings, step: int, seconds: float) -> float:
    """Share of the training that is done: by steps, or by time where steps turn out to be slower than predicted."""
    by_time = seconds / (OVERTIME * settings.seconds) if settings.seconds else 0.0
    return max(step / settings.steps, by_time)


def _rate(settings: Settings, done: float) -> float:
    """Polynomial decay; random weights warm up first."""
    decayed = (settings.rate - LEAST_RATE) * (1 - done) ** POWER + LEAST_RATE
    warm = 1.0 if settings.weights else min(1.0, (done + 1 / settings.steps) / WARM_UP)
    return float(decayed * warm)


def evaluate(model: Segmenter, settings: Settings, data: Path, limit: int | None) -> list[dict[str, Any]]:
    """Accuracy on the test frames, dense and merged, whichever way the network was trained."""
    kept = ("threshold", "mean_iou", "pixel_accuracy", "mean_accuracy", "boundary_f_score", "tokens_kept", "pictures")
    with TemporaryDirectory() as text:
        folder = write_checkpoint(Path(text), model, settings.merge, settings.training(1))
        weights = str(folder / "checkpoint.pth")
        runs = camvid_evaluation.evaluate(
            (f"{weights}:dense", weights), data, limit, EngineOptions(device=settings.device)
        )
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
    synchronise(device)


def both(settings: Settings, data: Path, output: Path, limit: int | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """The dense network, then the merging one: what is known of it once it is trained, and once it is evaluated."""
    pictures = load_split(data, "train").to(torch.device(settings.device))
    with fast_arithmetic(settings.device):
        settings = replace(settings, steps=steps_that_fit(settings, pictures))
    for name, merging in (("dense", False), ("algm", True)):
        print(f"training {name}: {settings.backbone}, crop {settings.crop}, {len(pictures.images)} pictures")
        with fast_arithmetic(settings.device):
            model, course = train(settings, pictures, merging)
        merge = settings.merge if merging else None
        stored = copy.deepcopy(model).half()
        write_checkpoint(output / name, stored, merge, settings.training(len(pictures.images)))
        yield name, course
        yield name, course | {"test": evaluate(model, settings, data, limit)}


def parse() -> argparse.Namespace:
    """Arguments of the command."""
    parser = recording_parser(__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for the two checkpoints")
    parser.add_argument("--backbone", choices=BACKBONES, default="vit_small")
    parser.add_argument("--weights", type=Path, help="pretrained weights to start from: .npz or .pth")
    parser.add_argument("--crop", type=int, default=384)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seconds", type=float, help="for the training of each network: fewer steps where those last")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--layers", type=int, nargs="+", default=[1, 5], help="layers at which tokens merge")
    parser.add_argument("--threshold", type=float, default=0.88, help="similarity at which windows merge")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, help="evaluate on N test frames only, at equal distances in the set")
    parser.add_argument("--rounds", type=int, default=20, help="of the timing")
    return parser.parse_args()


def main() -> None:
    """Train both, evaluate both, time both, print, record."""
    given = parse()
    merge = MergeSettings(tuple(given.layers), (2, 2), given.threshold)
    settings = Settings(
        *(given.backbone, given.crop, given.steps, given.batch, merge, given.weights, given.device, given.seed),
        seconds=given.seconds,
    )
    torch.backends.cudnn.deterministic = True
    results: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if given.device == "cuda" else "CPU",
        "network": f"{given.backbone}, {given.crop}x{given.crop}",
        "start": given.weights.name if given.weights else "random",
        "steps": 0,
        "batch": given.batch,
        "layers": list(merge.layers),
        "threshold": merge.threshold,
        "seed": given.seed,
        "trained": {},
    }
    for name, found in both(settings, given.data, given.output, given.limit):
        results["trained"][name] = found
        results["steps"] = found["steps"]
        write_record(given.json, results)  # what is done is kept when the time is up
    folders = {name: given.output / name for name in ("dense", "algm")}
    results["speed"] = speed(folders, settings, given.data, given.rounds)
    print(train_camvid(results))
    write_record(given.json, results)


if __name__ == "__main__":
    main()
