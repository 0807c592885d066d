"""The whole PyTorch model in FP16 on a GPU: `python benchmarks/gpu_model.py [--pictures FILE] [--json FILE]`.

ViT-S/16 and ViT-B/16, 512 x 512, 150 classes, random weights, batch 32 of unlike pictures, at the threshold that leaves
60 % of the tokens after the local merge. All variants take turns in one process on the same pictures:

- merged: packed tokens, the kernels of the plugin library;
- dense: the same weights without merging, `scaled_dot_product_attention`;
- both with labels at full size (label kernel; for dense also PyTorch's interpolation and argmax);
- merged with one picture 32 times: the one whose token count is nearest to the mean;
- with `--official CHECKOUT`, the official code's eager run of both, its way of measuring (one picture) included.

Then the share of time per operator, and the agreement with float32 on the CPU, for these networks and for trained
checkpoints. Exit code 3 when the agreement fails its gates or a part breaks; the rest goes on; speed is recorded,
whatever it is.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from parts.device_clock import seconds
from parts.gpu_agreement import compare
from parts.networks import BACKBONES, MERGE, random_config, random_segmenter
from parts.official import import_official, official_model
from parts.operator_times import operator_times
from parts.pictures import load_pictures
from parts.record import recording_parser, write_record
from parts.thresholds import threshold_leaving
from torch import Tensor

from algm_trt.exporter import cuda_ops, ops
from algm_trt.exporter.checkpoint import load_checkpoint
from algm_trt.exporter.segmenter import Segmenter, full_size_logits, normalise, segmenter_from_checkpoint
from algm_trt.plugins.errors import AlgmError

KEPT: Final = 0.6
DTYPE: Final = torch.float16


@dataclass(frozen=True)
class Plan:
    """What to measure and how long.

    Attributes:
        device: "cuda" or "cpu".
        batch: pictures of a batch.
        size: side of a picture in pixels.
        rounds: turns of each variant.
        calls: calls in a row of each turn.
        checked: pictures compared with the CPU.
    """

    device: str
    batch: int
    size: int
    rounds: int
    calls: int
    checked: int


@dataclass(frozen=True)
class Variant:
    """Something that is timed: `run` segments one batch; `tokens` are the mean counts after each merge."""

    run: Callable[[], object]
    tokens: list[float]


def local_share(model: Segmenter, pixels: Tensor, threshold: float) -> float:
    """Share of the tokens that is left after the local merge, over all pictures."""
    counts = model(pixels, threshold).token_counts.float().mean(dim=0)
    return float(counts[1] / counts[0])


def mean_tokens(model: Segmenter, pixels: Tensor, threshold: float) -> list[float]:
    """Mean tokens of an image before merging, after the local and after the last merge."""
    return [round(float(value), 1) for value in model(pixels, threshold).token_counts.float().mean(dim=0)]


def ours(merged: Segmenter, dense: Segmenter, pixels: Tensor, threshold: float) -> dict[str, Variant]:
    """Our variants on a batch of normalised pictures."""
    size = list(pixels.shape[2:])
    counts = merged(pixels, threshold).token_counts
    typical = int((counts[:, 2] - counts[:, 2].float().mean()).abs().argmin())
    repeated = pixels[typical : typical + 1].repeat(len(pixels), 1, 1, 1)
    tokens, full = mean_tokens(merged, pixels, threshold), [float(counts[0, 0])] * 3

    def labelled(run: Callable[[], Any]) -> Callable[[], Tensor]:
        return lambda: ops.labels(run().logits.permute(0, 2, 3, 1), size)

    def plain_labels() -> Tensor:
        return full_size_logits(dense(pixels).logits, 16, (size[0], size[1])).argmax(dim=1)

    return {
        "merged": Variant(lambda: merged(pixels, threshold), tokens),
        "dense": Variant(lambda: dense(pixels), full),
        "merged, one picture repeated": Variant(
            lambda: merged(repeated, threshold), mean_tokens(merged, repeated, threshold)
        ),
        "merged with labels": Variant(labelled(lambda: merged(pixels, threshold)), tokens),
        "dense with labels": Variant(labelled(lambda: dense(pixels)), full),
        "dense with labels by PyTorch": Variant(plain_labels, full),
    }


def official(
    checkout: Path, model: Segmenter, pixels: Tensor, threshold: float, tokens: Sequence[float], plan: Plan
) -> tuple[dict[str, Variant], dict[str, str]]:
    """The official code's variants in our type and in float32, and why some do not run."""
    variants: dict[str, Variant] = {}
    failed: dict[str, str] = {}
    try:
        code = import_official(checkout, plan.device)
    except ImportError as error:
        return {}, {"official": str(error)}
    one = pixels[:1].repeat(len(pixels), 1, 1, 1)
    full = [tokens[0]] * 3
    for dtype, kind in ((DTYPE, "FP16"), (torch.float32, "FP32")):
        weights = copy.deepcopy(model).to(dtype)
        for name, merge, source, known in (
            ("dense", None, pixels, full),
            ("merged, coupled batch", MERGE, pixels, []),
            ("merged, one picture repeated", MERGE, one, []),
        ):
            forward, given = official_model(code, weights, merge, threshold), source.to(dtype)
            label = f"official eager {kind} {name}"
            try:
                forward(given)
            except (RuntimeError, AssertionError) as error:
                failed[label] = str(error).splitlines()[0]
                continue
            variants[label] = Variant(lambda forward=forward, given=given: forward(given), list(known))  # type: ignore[misc]
    return variants, failed


def time_all(variants: dict[str, Variant], plan: Plan) -> dict[str, dict[str, Any]]:
    """Images per second of each variant, in turns."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(2):
        for variant in variants.values():
            variant.run()
    for _ in range(plan.rounds):
        for name, variant in variants.items():
            times[name].append(seconds(variant.run, plan.device, plan.calls))
    rows = {}
    for name, values in times.items():
        median = statistics.median(values)
        rows[name] = {
            "images_per_second": round(plan.batch / median, 1),
            "ms_per_batch": round(1e3 * median, 3),
            "spread_ms": [round(1e3 * min(values), 3), round(1e3 * max(values), 3)],
            "tokens": variants[name].tokens,
        }
        print(f"  {name:45} {plan.batch / median:9.1f} images/s {1e3 * median:9.3f} ms per batch")
    return rows


def ratios(rows: dict[str, dict[str, Any]]) -> dict[str, float]:
    """The figures that were promised."""
    rate = {name: row["images_per_second"] for name, row in rows.items()}
    pairs = {
        "merged over dense": ("merged", "dense"),
        "merged over dense, with labels": ("merged with labels", "dense with labels"),
        "unlike pictures over one repeated": ("merged", "merged, one picture repeated"),
    }
    pairs |= {f"merged over {name}": ("merged", name) for name in rate if name.startswith("official")}
    pairs |= {
        f"merged with labels over {name}": ("merged with labels", name) for name in rate if name.startswith("official")
    }
    return {what: round(rate[one] / rate[other], 3) for what, (one, other) in pairs.items()}


@torch.inference_mode()
def measure(backbone: str, images: Tensor, checkout: Path | None, plan: Plan) -> Iterator[dict[str, Any]]:
    """Everything about one backbone, part after part, so that each can be kept before the next begins."""
    config = random_config(backbone, plan.size)
    reference = random_segmenter(config, MERGE)
    merged = copy.deepcopy(reference).to(plan.device, DTYPE)
    dense = copy.deepcopy(merged)
    dense.merge = None
    pixels = normalise(images.to(plan.device), config.normalization).to(DTYPE)
    threshold = threshold_leaving(KEPT, lambda at: local_share(merged, pixels, at), steps=14)
    print(f"{backbone}: {config.describe()}, threshold {threshold:.4f}")
    variants = ours(merged, dense, pixels, threshold)
    rivals: dict[str, Variant] = {}
    failed: dict[str, str] = {}
    if checkout is not None:
        rivals, failed = official(checkout, merged, pixels, threshold, variants["merged"].tokens, plan)
    rows = time_all(variants | rivals, plan)
    counts = merged(pixels, threshold).token_counts
    yield {
        "model": config.describe(),
        "threshold": threshold,
        "tokens_by_picture": counts[:, 1:].tolist(),
        "speed": rows,
        "ratios": ratios(rows),
        "not_run": failed,
    }
    yield {"agreement": compare(backbone, reference, images[: plan.checked], threshold, plan.device, gated=False)}
    # Last, because it is the part that a machine may not allow.
    named = ("merged with labels", "dense with labels")
    yield {"time_by_operator": {name: operator_times(variants[name].run, plan.device, plan.calls) for name in named}}


def check_checkpoint(folder: Path, pictures: Path | None, plan: Plan) -> list[dict[str, Any]]:
    """Agreement of a trained checkpoint at its own size and threshold."""
    checkpoint = load_checkpoint(folder)
    model = segmenter_from_checkpoint(checkpoint, checkpoint.merge)
    images, what = load_pictures(pictures, plan.batch, checkpoint.crop[0])
    rows = compare(folder.name, model, torch.from_numpy(images), None, plan.device, gated=True)
    return [row | {"pictures_are": what} for row in rows]


def kernels_on_the_cpu() -> None:
    """Send CPU tensors through the library too: for trying this script out with the library compiled for the CPU."""
    kernels = cuda_ops.Kernels()

    def direct(name: str) -> Callable[..., Any]:
        plain, kernel = getattr(ops, name), getattr(kernels, name)
        return lambda *given: (kernel if given[0].dtype == torch.float16 else plain)(*given)

    for name in ("local_merge", "global_merge", "packed_attention", "append_tokens", "unmerge", "labels"):
        setattr(ops, name, direct(name))


def parse() -> argparse.Namespace:
    """Arguments of the command."""
    parser = recording_parser(__doc__)
    parser.add_argument("--backbones", nargs="+", choices=BACKBONES, default=["vit_small", "vit_base"])
    parser.add_argument("--pictures", type=Path, help="folder, or file of carry.py (default: drawn scenes)")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--calls", type=int, default=5, help="calls in a row of each round")
    parser.add_argument("--checked", type=int, default=8, help="pictures compared with the CPU")
    parser.add_argument("--official", type=Path, help="checkout of the official code, to time it too")
    parser.add_argument("--checkpoint", type=Path, action="append", default=[], help="trained checkpoint to compare")
    parser.add_argument("--cpu", action="store_true", help="try the script out on a CPU; figures mean nothing")
    return parser.parse_args()


def main() -> int:
    """Measure, print, write JSON."""
    options = parse()
    if not (options.cpu or torch.cuda.is_available()):
        print("no CUDA device: nothing measured")
        return 4
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    plan = Plan(
        "cpu" if options.cpu else "cuda", options.batch, options.size, options.rounds, options.calls, options.checked
    )
    if options.cpu:
        kernels_on_the_cpu()
    else:
        cuda_ops.register_kernels()
    pictures, what = load_pictures(options.pictures, plan.batch, plan.size)
    results: dict[str, Any] = {
        "device": "CPU: figures mean nothing" if options.cpu else torch.cuda.get_device_name(),
        "what": f"PyTorch FP16, batch {plan.batch}, {plan.size}x{plan.size}, {KEPT:.0%} of the tokens kept locally",
        "pictures": what,
        "networks": {},
        "checkpoints": [],
    }
    keep = partial(write_record, options.json, results)  # what is done is kept when the time is up
    broken = []
    for folder in options.checkpoint:  # first: they are few, and what must hold
        try:
            results["checkpoints"] += check_checkpoint(folder, options.pictures, plan)
        except (RuntimeError, AlgmError) as error:
            broken.append(f"{folder}: {str(error).splitlines()[0]}")
            traceback.print_exc()
        keep()
    for backbone in options.backbones:
        network: dict[str, Any] = {}
        results["networks"][backbone] = network
        try:
            for part in measure(backbone, torch.from_numpy(pictures), options.official, plan):
                network |= part
                keep()
        except (RuntimeError, AlgmError) as error:
            broken.append(f"{backbone}: {str(error).splitlines()[0]}")
            network["broken"] = str(error)
            traceback.print_exc()
    for backbone, network in results["networks"].items():
        for name, ratio in network.get("ratios", {}).items():
            print(f"{backbone}: {name}: {ratio:.2f}")
    keep()
    compared = [row for network in results["networks"].values() for row in network.get("agreement", [])]
    wrong = [f"{row['model']} {row['run']}" for row in compared + results["checkpoints"] if row["passed"] is False]
    if wrong:
        print(f"agreement with float32 on the CPU fails for {', '.join(wrong)}")
    for line in broken:
        print(f"not measured to the end: {line}")
    return 3 if wrong or broken else 0


if __name__ == "__main__":
    raise SystemExit(main())
