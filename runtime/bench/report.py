"""What algm-bench is asked for, and what it answers: options, results and their JSON."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from algm_trt.plugins.errors import UsageError
from algm_trt.runtime.bench.figures import JobFigures, ModelFigures, TokenFigures, ratio
from algm_trt.runtime.bench.pictures import Pictures
from algm_trt.runtime.bench.turns import Variant
from algm_trt.runtime.engine_options import EngineOptions
from algm_trt.runtime.evaluation.evaluate import Evaluation
from algm_trt.runtime.evaluation.sets import Places
from algm_trt.runtime.job import JobOptions
from algm_trt.runtime.paths import printable

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
        limit: mean IoU over only this many pictures, the first ones.
        pictures: of a whole job; None takes USUAL_PICTURES, or the largest batch.
        batches: windows that a model gets at a time.
        thresholds: similarities to measure merging models at; empty: each model's own.
        repeat_one: one picture stands for all, as the official code measures.
        rounds: turns of each variant.
        warmup: turns of each before, which are not timed.
        seed: of the order within the rounds.
        whole_job: also measure from files to files.
        job: how the whole job runs; batch size, threshold and engine come from the variant.
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
        if self.dataset is not None and self.data is None:
            raise UsageError(f"the data set {self.dataset} needs --data: the folder that it lies in")

    @property
    def picture_count(self) -> int:
        """Pictures of a whole job."""
        return self.pictures or max(USUAL_PICTURES, *self.batches)


@dataclass(frozen=True, eq=False)
class BenchResult:
    """What was measured of one variant.

    Attributes:
        variant: which.
        tokens: of the windows of `model`.
        model: the model alone.
        job: the whole job; None where it was not asked for, or not reached.
        quality: labels against ground truth; None without a data set.
    """

    variant: Variant
    tokens: TokenFigures
    model: ModelFigures
    job: JobFigures | None
    quality: Evaluation | None

    @property
    def mean_iou(self) -> float | None:
        """Mean IoU, 0..1; None without ground truth."""
        found = math.nan if self.quality is None else float(self.quality.scores.mean_iou)
        return None if math.isnan(found) else found


@dataclass(frozen=True, eq=False)
class BenchReport:
    """What a run measured.

    Attributes:
        options: what was asked for.
        contenders: facts about the models, for JSON.
        pictures: what was measured on.
        results: of the variants that were measured, in the order of models, thresholds and batches.
        baseline: title of the variant that others are compared with, at the same batch size.
        left_out: variants that could not be measured, and why.
        notes: what the reader should know about what was asked for.
        stopped_by: what ended the run before its last round; None if nothing did.
        environment: date, machine, versions and load, for JSON.
    """

    options: BenchOptions
    contenders: tuple[dict[str, Any], ...]
    pictures: Pictures
    results: tuple[BenchResult, ...]
    baseline: str
    left_out: tuple[str, ...]
    notes: tuple[str, ...]
    stopped_by: KeyboardInterrupt | None
    environment: dict[str, Any]

    @property
    def problems(self) -> list[str]:
        """Variants and pictures that are missing in the figures, and why."""
        failures = {
            failure.name: failure.error
            for result in self.results
            if result.quality is not None
            for failure in result.quality.failures
        }
        return [
            *(f"not measured: {reason}" for reason in self.left_out),
            *(f"left out: {reason}" for reason in self.pictures.unreadable),
            *(f"not in the mean IoU: {printable(name)}: {error}" for name, error in failures.items()),
        ]

    def base_of(self, result: BenchResult) -> BenchResult | None:
        """The baseline at the batch size of a result."""
        same = (other for other in self.results if other.variant.batch == result.variant.batch)
        return next((other for other in same if other.variant.title == self.baseline), None)

    def to_dict(self) -> dict[str, Any]:
        """For JSON: every figure, and the raw times that it comes from."""
        options, pipeline = self.options, self.options.job.pipeline
        return {
            "format_version": FORMAT_VERSION,
            **self.environment,
            "interrupted": self.stopped_by is not None,
            "how": {
                "pictures": self.pictures.described,
                "pictures_are": self.pictures.kind,
                "dataset": options.dataset,
                "rounds": options.rounds,
                "warmup": options.warmup,
                "seed": options.seed,
                "mode": pipeline.mode,
                "stride": pipeline.stride,
                "saved": list(options.job.kinds),
                "workers": pipeline.threads,
            },
            "models": list(self.contenders),
            "baseline": self.baseline,
            "results": [self._result_dict(result) for result in self.results],
            "problems": self.problems,
            "notes": list(self.notes),
        }

    def _result_dict(self, result: BenchResult) -> dict[str, Any]:
        variant, base = result.variant, self.base_of(result)
        model = result.model.to_dict()
        job = result.job.to_dict() if result.job else None
        if base is not None:
            model["times_as_fast"] = ratio(result.model.rates, base.model.rates).to_dict()
        if base is not None and job is not None and result.job and base.job:
            job["times_as_fast"] = ratio(result.job.rates, base.job.rates).to_dict()
        return {
            "model": variant.model,
            "threshold": variant.threshold,
            "batch": variant.batch,
            "pictures_are": self.pictures.kind,
            "tokens": result.tokens.to_dict(variant.batch),
            "mean_iou": result.mean_iou,
            "pictures_scored": None if result.quality is None else result.quality.pictures,
            "model_alone": model,
            "whole_job": job,
        }
