"""One network on one number of threads for `cpu_table.py`: every way of running it, timed in turns, and compared.

The weights are random and written as an official checkpoint, from which the official network, our PyTorch network and
the exported models are made. Every variant gets the same pictures, one at a time, and ends where its users take over:
ours with labels of every pixel, the official network with class scores of every pixel (labels would come on top).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from parts.backends import BACKENDS, KINDS, exported
from parts.networks import MERGE, SIZE, random_checkpoint, random_config
from parts.official_cpu import WAYS, OfficialCode, OfficialVariant, compile_all, compiled_graphs
from parts.pictures import load_pictures
from parts.thresholds import engine_threshold, local_tokens, windows_merged

from algm_trt.exporter.checkpoint import load_checkpoint
from algm_trt.exporter.segmenter import full_size_logits, normalise, segmenter_from_checkpoint
from algm_trt.plugins.errors import AlgmError
from algm_trt.runtime.engine import Engine, open_engine
from algm_trt.runtime.timing import Samples, Spread, alternate

# Merged over its own dense, merged over the official eager network, bf16 over the fastest official variant.
TARGETS: Final = {"own dense": 1.6, "official eager": 1.4, "fastest official": 2.0}


@dataclass(frozen=True)
class Plan:
    """What to measure in a process.

    Attributes:
        backbone: a key of `networks.BACKBONES`.
        threads: of every library.
        rounds: turns of each variant.
        pictures: folder of pictures, or None for drawn scenes.
        count: pictures of a turn.
        official: checkout of the official code, or None to leave it out.
    """

    backbone: str
    threads: int
    rounds: int
    pictures: Path | None
    count: int
    official: Path | None


@dataclass(frozen=True)
class Answer:
    """What a variant says about one picture: labels (H, W), and the tokens left at the end, if it reports them."""

    labels: NDArray[np.integer[Any]]
    tokens: int | None


@dataclass(frozen=True)
class Variant:
    """A way of running the network: `run` is timed, `answer` is the same with its outcome; both take an index."""

    run: Callable[[int], object]
    answer: Callable[[int], Answer]


Key = tuple[str, str]
"""Name of a way of running, and one of KINDS."""


def measure(plan: Plan) -> dict[str, Any]:
    """Everything about one network on one number of threads."""
    torch.set_num_threads(plan.threads)
    images, what = load_pictures(plan.pictures, plan.count, SIZE)
    with TemporaryDirectory() as folder:
        lab = Laboratory(plan, images, Path(folder))
        variants = dict(lab.variants())
        print(f"{plan.backbone}, {plan.threads} threads: {len(variants)} variants, threshold {lab.threshold:.4f}")
        answers = {key: [variant.answer(i) for i in range(plan.count)] for key, variant in variants.items()}
        graphs = compiled_graphs()
        turns = {key: [partial(variant.run, i) for i in range(plan.count)] for key, variant in variants.items()}
        # The answers above were the warm-up.
        named = {f"{name}, {kind}": turn for (name, kind), turn in turns.items()}
        samples = alternate(named, plan.rounds, warmup=0)
        compiled = {"graphs": graphs, "made_while_timing": compiled_graphs() - graphs}
    times = {key: samples[f"{key[0]}, {key[1]}"] for key in variants}
    return {
        "backbone": plan.backbone,
        "threads": plan.threads,
        "model": lab.config.describe(),
        "pictures": f"{plan.count} {what}",
        "rounds": plan.rounds,
        "threshold": lab.threshold,
        "windows_merged": lab.windows_merged(),
        "backends": lab.described,
        "compiled": compiled,
        "variants": [_row(key, times[key], answers) for key in variants],
        "ratios": ratios(times, gated=plan.backbone == "vit_small"),
        "not_run": lab.not_run,
    }


class Laboratory:
    """The network in all its forms.

    Attributes:
        config: its architecture.
        threshold: at which half of the windows of the pictures merge.
        described: backend and version by name of the way of running.
        not_run: why a way of running is left out.
    """

    def __init__(self, plan: Plan, images: NDArray[np.uint8], folder: Path) -> None:
        self.config = random_config(plan.backbone, SIZE)
        self.described: dict[str, str] = {}
        self.not_run: dict[str, str] = {}
        self._plan = plan
        self._images = images
        self._folder = folder
        self._checkpoint = load_checkpoint(random_checkpoint(self.config, folder))
        self._models = exported(self._checkpoint, folder)
        self._counter = self._open("ONNX Runtime FP32", "merged")
        self.threshold = engine_threshold(self._counter, self._images, self.config)

    def variants(self) -> Iterator[tuple[Key, Variant]]:
        """Every way of running the network that works here."""
        if self._plan.official:
            yield from self._official(OfficialCode(self._plan.official))
        yield from self._pytorch()
        for name in BACKENDS:
            for kind in KINDS:
                try:
                    engine = self._open(name, kind)
                except (AlgmError, ImportError) as error:
                    self.not_run[f"{name}, {kind}"] = str(error)
                    continue
                self.described[name] = engine.description
                threshold = self.threshold if kind == "merged" else None
                yield (name, kind), engine_variant(engine, self._images, threshold)

    def windows_merged(self) -> list[float]:
        """Share of the windows of each picture that merge."""
        return windows_merged(local_tokens(self._counter, self._images, self.threshold), self.config)

    def _open(self, name: str, kind: str) -> Engine:
        backend = BACKENDS[name]
        return open_engine(self._models[kind, backend.export], backend.options(self._plan.threads))

    def _pytorch(self) -> Iterator[tuple[Key, Variant]]:
        pixels = torch.from_numpy(self._images)
        for kind in KINDS:
            network = segmenter_from_checkpoint(self._checkpoint, MERGE if kind == "merged" else None)

            def run(index: int, network: Any = network) -> Any:
                with torch.inference_mode():
                    given = normalise(pixels[index : index + 1], network.config.normalization)
                    output = network(given, self.threshold)
                    return full_size_logits(output.logits, 16, (SIZE, SIZE)).argmax(dim=1), output.token_counts

            def answer(index: int, run: Callable[[int], Any] = run) -> Answer:
                labels, counts = run(index)
                return Answer(labels[0].numpy(), int(counts[0, 2]))

            yield ("our PyTorch FP32", kind), Variant(run, answer)
        self.described["our PyTorch FP32"] = f"PyTorch {torch.__version__}, eager"

    def _official(self, code: OfficialCode) -> Iterator[tuple[Key, Variant]]:
        weights = segmenter_from_checkpoint(self._checkpoint, None)
        pixels = normalise(torch.from_numpy(self._images), self.config.normalization)
        pictures = [picture[None].contiguous() for picture in pixels]
        for way in WAYS:
            for kind in KINDS:
                merge = MERGE if kind == "merged" else None
                variant = code.variant(way, weights, merge, self.threshold)
                print(f"  preparing official {way}, {kind}", flush=True)
                compile_all([variant], pictures)
                yield (f"official {way}", kind), official_variant(variant, pictures)


def engine_variant(engine: Engine, images: NDArray[np.uint8], threshold: float | None) -> Variant:
    """An opened model."""

    def answer(index: int) -> Answer:
        output = engine.run(images[index : index + 1], threshold)
        return Answer(output.labels[0], int(output.token_counts[0, 2]))

    return Variant(lambda index: engine.run(images[index : index + 1], threshold).labels, answer)


def official_variant(variant: OfficialVariant, pictures: list[torch.Tensor]) -> Variant:
    """The official network on pictures that were normalised beforehand."""

    def answer(index: int) -> Answer:
        scores = variant.forward(pictures[index])
        return Answer(scores.argmax(dim=1)[0].numpy(), variant.tokens())

    return Variant(lambda index: variant.forward(pictures[index]), answer)


def ratios(times: dict[Key, Samples], gated: bool) -> dict[str, dict[str, Any]]:
    """How many times as fast merged models are, and whether that is what was promised.

    Args:
        times: of all variants.
        gated: whether the promises are about this network.
    """
    pairs: list[tuple[Key, Key, float]] = []
    for name in sorted({name for name, _ in times}):
        least = TARGETS["own dense"] if name == "ONNX Runtime FP32" else 0.0
        pairs.append(((name, "merged"), (name, "dense"), least))
    official = [key for key in times if key[0].startswith("official")]
    if official:
        fastest = min(official, key=lambda key: times[key].seconds.median)
        eager = ("official eager FP32", "merged")
        pairs.append((("ONNX Runtime FP32", "merged"), eager, TARGETS["official eager"]))
        pairs.append((("OpenVINO bf16", "merged"), fastest, TARGETS["fastest official"]))
        pairs += [((name, "merged"), fastest, 0.0) for name in ("ONNX Runtime FP32", "ONNX Runtime int8")]
    found = {}
    for one, other, least in pairs:
        if one in times and other in times:
            spread = times[other].over(times[one])
            found[f"{', '.join(one)} over {', '.join(other)}"] = _ratio(spread, least if gated else 0.0)
    return found


def _ratio(spread: Spread, least: float) -> dict[str, Any]:
    row: dict[str, Any] = {"times_as_fast": spread.to_dict()}
    return row | ({"least": least, "holds": spread.median >= least} if least else {})


def _row(key: Key, samples: Samples, answers: dict[Key, list[Answer]]) -> dict[str, Any]:
    """A variant's times, tokens, and labels against our PyTorch network in float32."""
    reference = answers["our PyTorch FP32", key[1]]
    pairs = zip(answers[key], reference, strict=True)
    return {
        "name": key[0],
        "kind": key[1],
        "ms": {which: round(1e3 * value, 2) for which, value in samples.seconds.to_dict().items()},
        "ms_of_calls": [[round(1e3 * value, 2) for value in turn] for turn in samples.rounds],
        "tokens_at_the_end": [answer.tokens for answer in answers[key]],
        "labels_equal_to_fp32": float(np.mean([np.mean(one.labels == other.labels) for one, other in pairs])),
    }
