"""What algm-bench is asked for, and what it answers: options, results and their JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from algm_trt.plugins.errors import UsageError
from algm_trt.runtime.bench.figures import JobFigures, ModelFigures, TokenFigures, ratio
from algm_trt.runtime.bench.operations import Operations
from algm_trt.runtime.bench.pictures import Pictures
from algm_trt.runtime.bench.scoring import ScoredSet
from algm_trt.runtime.bench.turns import Variant
from algm_trt.runtime.bench.windows import Origin
from algm_trt.runtime.card import ModelCard
from algm_trt.runtime.engine_options import EngineOptions
from algm_trt.runtime.evaluation.figures import Evaluation
from algm_trt.runtime.evaluation.sets import EvaluationSet, Places
from algm_trt.runtime.job import JobOptions
from algm_trt.runtime.paths import printable
from algm_trt.runtime.pipeline_options import PipelineOptions
from algm_trt.runtime.timing import Spread

FORMAT_VERSION: Final = 1
USUAL_PICTURES: Final = 16
"""Pictures of a whole job, unless a batch has more."""


@dataclass(frozen=True)
class BenchOptions:
    """What to measure.

    Attributes:
        models: `[BACKEND[-DEVICE][-PRECISION]:]MODEL`, see `runtime.model_argument`.
        data: folder of pictures, or root of `dataset`; None draws scenes.
        dataset: one of `evaluation.sets.DATASETS` where `data` has ground truth, for the mean IoU; else None.
        places: what differs from the data set's official layout.
        limit: mean IoU over only this many pictures, from all over the set; those that are timed do not depend on it.
        pictures: of a whole job; None takes USUAL_PICTURES, or the largest batch.
        batches: windows that a model gets at a time.
        thresholds: similarities to measure merging models at; empty: each model's own.
        short_side: pixels that the short side of every picture is resized to, for speed and mean IoU; None takes what
            the official evaluation of `dataset` does, or else the model card's; 0 takes pictures as they are.
        repeat_one: one picture stands for all, as the official code measures.
        rounds: turns of each variant.
        warmup: turns of each before, which are not timed.
        seed: of the order within the rounds.
        whole_job: also measure from files to files.
        job: how the whole job runs; batch size, threshold, engine and short side come from elsewhere.
        engine: what runs models without a prefix.
        quiet: no progress bar.
    """

    models: tuple[str, ...]
    data: Path | None = None
    dataset: str | None = None
    places: Places = field(default_factory=Places)
    limit: int | None = None
    pictures: int | None = None
    batches: tuple[int, ...] = (1,)
    thresholds: tuple[float, ...] = ()
    short_side: int | None = None
    repeat_one: bool = False
    rounds: int = 5
    warmup: int = 1
    seed: int = 0
    whole_job: bool = True
    job: JobOptions = field(default_factory=JobOptions)
    engine: EngineOptions = field(default_factory=EngineOptions)
    quiet: bool = False

    def __post_init__(self) -> None:
        if not self.models:
            raise UsageError("no model given")
        for what, values in (("threshold", self.thresholds), ("batch size", self.batches)):
            if len(set(values)) < len(values):
                raise UsageError(f"a {what} is given twice")
        if not self.batches or min(self.batches) < 1:
            raise UsageError(f"batch sizes must be at least 1, got {self.batches}")
        if not all(map(math.isfinite, self.thresholds)):
            raise UsageError(f"thresholds must be finite numbers, got {self.thresholds}")
        for what, count in (("rounds", self.rounds), ("warm-up turns", self.warmup), ("pictures", self.pictures or 1)):
            if count < 1:
                raise UsageError(f"{what} must be at least 1, got {count}")
        if self.short_side is not None and self.short_side < 0:
            raise UsageError(f"the short side must not be negative, got {self.short_side}")
        if self.short_side and self.job.pipeline.mode == "whole":
            raise UsageError("mode whole resizes every picture to the model's input: leave out --short-side")
        if self.dataset is not None and self.data is None:
            raise UsageError(f"the data set {self.dataset} needs --data: the folder that it lies in")

    @property
    def picture_count(self) -> int:
        """Pictures of a whole job."""
        return self.pictures or max(USUAL_PICTURES, *self.batches)

    def pipeline_for(self, card: ModelCard, data: EvaluationSet | None) -> PipelineOptions:
        """How pictures go through a model: its short side is said, 0 where they are taken as they are.

        Args:
            card: of the model.
            data: pictures with ground truth, which are timed at the size that they are scored at; None: there are none.
        """
        pipeline = self.job.pipeline
        if data is not None and pipeline.mode == "slide":
            side, ratio = data.shown_at(self.short_side)
            return replace(pipeline, short_side=side or 0, max_ratio=ratio)
        drawn = self.data is None  # at the size of the model's input
        asked = 0 if drawn and self.short_side is None else self.short_side
        return replace(pipeline, short_side=replace(pipeline, short_side=asked).shown_side(card) or 0)


@dataclass(frozen=True, eq=False)
class BenchResult:
    """What was measured of one variant.

    Attributes:
        variant: which.
        origin: where the windows that `model` ran on come from.
        tokens: of these windows.
        operations: of these windows; None where the model does not say what it consists of.
        model: the model alone.
        job: the whole job; None where it was not asked for, or not reached.
        quality: labels against ground truth; None without a data set.
    """

    variant: Variant
    origin: Origin
    tokens: TokenFigures
    operations: Operations | None
    model: ModelFigures
    job: JobFigures | None
    quality: Evaluation | None

    @property
    def mean_iou(self) -> float | None:
        """Mean IoU, 0..1; None without ground truth."""
        return None if self.quality is None else mean_iou(self.quality)


@dataclass(frozen=True, eq=False)
class BenchReport:
    """What a run measured.

    Attributes:
        options: what was asked for.
        contenders: facts about the models, for JSON.
        pictures: what was measured on.
        shown: how pictures go through each model, by its name.
        scored: what the mean IoU is over; None without a data set.
        scores: of all models and thresholds (None: dense) that were scored to the end, also if they were not timed.
        results: of the variants that were measured, in the order of models, thresholds and batches.
        baseline: title of the variant that others are compared with, at the same batch size.
        left_out: variants that could not be measured, and why.
        notes: what the reader should know about what was asked for, and about what can be compared.
        stopped_by: what ended the run before its last round; None if nothing did.
        environment: date, machine, versions and load, for JSON.
    """

    options: BenchOptions
    contenders: tuple[dict[str, Any], ...]
    pictures: Pictures
    shown: Mapping[str, PipelineOptions]
    scored: ScoredSet | None
    scores: Mapping[tuple[str, float | None], Evaluation]
    results: tuple[BenchResult, ...]
    baseline: str
    left_out: tuple[str, ...]
    notes: tuple[str, ...]
    stopped_by: KeyboardInterrupt | None
    environment: dict[str, Any]

    @property
    def problems(self) -> list[str]:
        """Variants and pictures that are missing in the figures, and why."""
        failures = {failure.name: failure.error for quality in self.scores.values() for failure in quality.failures}
        return [
            *(f"not measured: {reason}" for reason in self.left_out),
            *(f"left out: {reason}" for reason in self.pictures.unreadable),
            *(f"not in the mean IoU: {printable(name)}: {error}" for name, error in failures.items()),
        ]

    @property
    def rounds_measured(self) -> int:
        """Rounds that every variant of `results` had its turn in: fewer than were asked for if the run was stopped."""
        return min((len(result.model.samples.rounds) for result in self.results), default=0)

    def base_of(self, result: BenchResult) -> BenchResult | None:
        """The baseline at the batch size of a result."""
        same = (other for other in self.results if other.variant.batch == result.variant.batch)
        return next((other for other in same if other.variant.title == self.baseline), None)

    def model_ratio(self, result: BenchResult) -> Spread | None:
        """How many times as fast as the baseline the model alone is; None without one, or if it has another size."""
        base = self.base_of(result)
        if base is None or base.origin.size != result.origin.size:
            return None
        return ratio(result.model.rates, base.model.rates)

    def job_ratio(self, result: BenchResult) -> Spread | None:
        """How many times as fast as the baseline the whole job is; None where one of them has none."""
        base = self.base_of(result)
        if base is None or base.job is None or result.job is None:
            return None
        return ratio(result.job.rates, base.job.rates)

    def to_dict(self) -> dict[str, Any]:
        """For JSON: every figure, and the raw times that it comes from."""
        return {
            "format_version": FORMAT_VERSION,
            **self.environment,
            "interrupted": self.stopped_by is not None,
            "how": self._how(),
            "models": list(self.contenders),
            "baseline": self.baseline,
            "scores": [
                {"model": model, "threshold": threshold, **_score_dict(quality)}
                for (model, threshold), quality in self.scores.items()
            ],
            "results": [self._result_dict(result) for result in self.results],
            "problems": self.problems,
            "notes": list(self.notes),
        }

    def _how(self) -> dict[str, Any]:
        options, pipeline = self.options, self.options.job.pipeline
        slides = pipeline.mode == "slide"
        strides = {model["name"]: model["stride"] for model in self.contenders}
        return {
            "pictures": self.pictures.described,
            "pictures_are": self.pictures.kind,
            "files": [printable(path) for path in self.pictures.paths],
            "dataset": options.dataset,
            "scored": None if self.scored is None else self.scored.to_dict(),
            "limit": options.limit,
            "rounds": options.rounds,
            "rounds_measured": self.rounds_measured,
            "warmup": options.warmup,
            "seed": options.seed,
            "mode": pipeline.mode,
            "short_side": {name: shown.short_side or None for name, shown in self.shown.items()},
            "max_ratio": {name: shown.max_ratio for name, shown in self.shown.items()},
            "stride": {name: (pipeline.stride or stride) if slides else None for name, stride in strides.items()},
            "saved": list(options.job.kinds),
            "workers": pipeline.threads,
        }

    def _result_dict(self, result: BenchResult) -> dict[str, Any]:
        variant = result.variant
        model = result.model.to_dict()
        job = result.job.to_dict() if result.job else None
        for entry, faster in ((model, self.model_ratio(result)), (job, self.job_ratio(result))):
            if entry is not None and faster is not None:
                entry["times_as_fast"] = faster.to_dict()
        return {
            "model": variant.model,
            "threshold": variant.threshold,
            "batch": variant.batch,
            "pictures_are": self.pictures.kind,
            "windows": result.origin.to_dict(),
            "tokens": result.tokens.to_dict(variant.batch),
            "gflops": None if result.operations is None else result.operations.to_dict(),
            **_score_dict(result.quality),
            "model_alone": model,
            "whole_job": job,
        }


def mean_iou(quality: Evaluation) -> float | None:
    """Mean IoU, 0..1; None where no class occurs."""
    found = float(quality.scores.mean_iou)
    return None if math.isnan(found) else found


def _score_dict(quality: Evaluation | None) -> dict[str, Any]:
    return {
        "mean_iou": None if quality is None else mean_iou(quality),
        "pictures_scored": None if quality is None else quality.pictures,
        "tokens_kept_scored": None if quality is None else quality.tokens_kept,
    }
