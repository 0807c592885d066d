"""What algm-eval is asked for, and what it answers: the job, its runs, and their JSON."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from algm_trt.plugins.errors import AlgmError, UsageError
from algm_trt.runtime.card import ModelCard
from algm_trt.runtime.engine_options import EngineOptions
from algm_trt.runtime.evaluation.bootstrap import Interval
from algm_trt.runtime.evaluation.drift import Drift
from algm_trt.runtime.evaluation.evaluate import EvaluationOptions
from algm_trt.runtime.evaluation.figures import Evaluation, distinct_names, json_number
from algm_trt.runtime.evaluation.notes import notes_on_means, notes_on_names
from algm_trt.runtime.evaluation.sets import EvaluationSet, Places
from algm_trt.runtime.model_argument import ModelArgument, is_checkpoint, model_title

FORMAT_VERSION: Final = 1


@dataclass(frozen=True)
class EvaluationJob:
    """What to evaluate.

    Attributes:
        models: `[BACKEND[-DEVICE][-PRECISION]:]MODEL`, see `runtime.model_argument`; a checkpoint (.pth) may end in
            ":dense" for its network without merging, or in ":coupled" for the official merging of its batches.
        root: folder of the data set.
        dataset: one of `evaluation.sets.DATASETS`.
        places: what differs from the data set's official layout.
        options: how pictures go through the models; the protocol's short side is replaced by `short_side`.
            `window_batch_coupled` is for all models, which must be checkpoints then.
        short_side: pixels; None is the data set's official value, 0 takes pictures as they are.
        thresholds: similarities to run every merging model at; empty: the model's own.
        limit: evaluate only this many pictures, at equal distances in the set.
        engine: what runs models without a prefix, and where.
        usual_batches: every model takes the batch size that suits it best, or the official one where its batches are
            coupled, not that of the pipeline.
    """

    models: tuple[str, ...]
    root: Path
    dataset: str
    places: Places
    options: EvaluationOptions
    short_side: int | None = None
    thresholds: tuple[float, ...] = ()
    limit: int | None = None
    engine: EngineOptions = field(default_factory=EngineOptions)
    usual_batches: bool = False

    def __post_init__(self) -> None:
        if not self.models:
            raise UsageError("no model given")
        if len(set(self.thresholds)) < len(self.thresholds):
            raise UsageError("a threshold is given twice")
        if not all(map(math.isfinite, self.thresholds)):
            raise UsageError(f"thresholds must be finite numbers, got {self.thresholds}")
        if self.options.window_batch_coupled and not all(is_checkpoint(model) for model in self.models):
            raise UsageError(
                "--window-batch-coupled is for checkpoints (.pth): exported models decide per image. To compare both, "
                "leave it out and name the checkpoint as checkpoint.pth:coupled"
            )


@dataclass(frozen=True, eq=False)
class Variant:
    """One model at one threshold, before it runs.

    Attributes:
        argument: the model as it was given.
        name: short name that no other model of the job has.
        card: of the model.
        threshold: similarity it merges at; None for a dense model.
        stride: step of its windows in pixels; None where it takes pictures whole.
        window_batch_coupled: windows of a batch merge equally many tokens, as in the official code.
    """

    argument: ModelArgument
    name: str
    card: ModelCard
    threshold: float | None
    stride: int | None
    window_batch_coupled: bool

    @property
    def title(self) -> str:
        """Name of the model, and the threshold."""
        return model_title(self.name, self.threshold)


@dataclass(frozen=True, eq=False)
class Run:
    """What one model at one threshold reached.

    Attributes:
        variant: which.
        backend: that ran it, and where.
        streams: windows that ran side by side.
        batch_size: windows it got at a time.
        sha256: of the model's file; None where that could not be read any more.
        evaluation: what it reached.
        drift: from the first run; None for the first run itself.
        interval: of the change of the mean IoU from the first run; None where there is none.
    """

    variant: Variant
    backend: str
    streams: int
    batch_size: int
    sha256: str | None
    evaluation: Evaluation
    drift: Drift | None
    interval: Interval | None

    @property
    def name(self) -> str:
        """Name of the model."""
        return self.variant.name

    @property
    def threshold(self) -> float | None:
        """Similarity it merged at; None for a dense model."""
        return self.variant.threshold

    @property
    def title(self) -> str:
        """Name of the model, and the threshold."""
        return self.variant.title


@dataclass(frozen=True)
class FailedRun:
    """A model, or one of its thresholds, that came to no figures.

    Attributes:
        title: of the run, or name of the model where that could not be opened.
        error: what is wrong.
    """

    title: str
    error: str


@dataclass(frozen=True, eq=False)
class Report:
    """What a job has found so far.

    Attributes:
        job: what was asked for.
        data: what is evaluated on: the pictures that are left by the limit.
        total: pictures of the whole set.
        options: how, with the short side that is taken.
        planned: what was to run, in the order of the models and thresholds.
        runs: those that are complete.
        failed: those that failed.
        stopped_by: what ended the job before its last run; None if nothing did.
    """

    job: EvaluationJob
    data: EvaluationSet
    total: int
    options: EvaluationOptions
    planned: tuple[Variant, ...]
    runs: tuple[Run, ...] = ()
    failed: tuple[FailedRun, ...] = ()
    stopped_by: KeyboardInterrupt | None = None

    @property
    def card(self) -> ModelCard:
        """Of the first model."""
        return self.planned[0].card

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes: the data set's, or else the first model's."""
        return self.data.class_names or self.card.classes

    @property
    def notes(self) -> list[str]:
        """What a reader of the figures should know, a line each."""
        cards = {variant.name: variant.card for variant in self.planned}
        where = self.data.dataset if self.data.dataset != "folder" else self.planned[0].name
        iou = [run.evaluation.scores.iou for run in self.runs]
        notes = [*notes_on_names(cards, self.class_names, where), *notes_on_means(iou, self.class_names)]
        failed = {failure.name for run in self.runs for failure in run.evaluation.failures}
        if failed:
            notes.insert(0, f"{len(failed)} of {len(self.data.samples)} pictures are not in the figures")
        if len(self.runs) > 1 and any(picture.areas is None for picture in self.runs[0].evaluation.scored):
            notes.append(
                "the change of the mean IoU has no interval: "
                f"{len(self.class_names)} classes of {len(self.data.samples)} pictures are too many to keep"
            )
        return notes

    def checked(self) -> Report:
        """Itself, if everything that was planned is complete.

        Raises:
            KeyboardInterrupt: what ended the job before its last run.
            AlgmError: a run failed; the first that did.
        """
        if self.stopped_by is not None:
            raise self.stopped_by
        if self.failed:
            raise AlgmError(f"{self.failed[0].title}: {self.failed[0].error}")
        return self

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        protocol, job = self.options.protocol, self.job
        return {
            "format_version": FORMAT_VERSION,
            "complete": len(self.runs) == len(self.planned),
            "interrupted": self.stopped_by is not None,
            "failed": [{"run": failed.title, "error": failed.error} for failed in self.failed],
            "dataset": self.data.dataset,
            "split": self.data.split,
            "pictures": len(self.data.samples),
            "pictures_of_set": self.total,
            "limit": job.limit,
            "data_root": str(job.root.absolute()),
            "places": _places_dict(job.places),
            "protocol": {
                "mode": self.options.pipeline.mode,
                "short_side": protocol.short_side,
                "max_ratio": protocol.max_ratio,
                "scales": list(protocol.scales),
                "flip": protocol.flip,
                "window_batch_coupled": self.options.window_batch_coupled,
            },
            "max_pixels": self.options.max_pixels,
            "workers": self.options.pipeline.threads,
            "planned": [variant.title for variant in self.planned],
            "runs": [self._run_dict(run) for run in self.runs],
            "notes": self.notes,
        }

    def _run_dict(self, run: Run) -> dict[str, Any]:
        variant = run.variant
        known = {
            "model": variant.argument.text,
            "backend": run.backend,
            "threshold": variant.threshold,
            "stride": variant.stride,
            "batch_size": run.batch_size,
            "window_batch_coupled": variant.window_batch_coupled,
            "threads": variant.argument.options.threads,
            "streams": run.streams,
            "sha256": run.sha256,
            "checkpoint_sha256": variant.card.checkpoint_sha256 or None,
            "architecture": variant.card.architecture,
            "precision": variant.card.precision,
            "size": list(variant.card.size),
        }
        scores = run.evaluation.to_dict(self.class_names)
        return known | scores | ({"drift": self.drift_dict(run, run.drift)} if run.drift else {})

    def drift_dict(self, run: Run, drift: Drift) -> dict[str, Any]:
        """How far a run is from the first one, for JSON."""
        first = self.runs[0].evaluation.scores
        change = run.evaluation.scores.iou - first.iou
        return {
            "from": self.runs[0].title,
            "pictures": drift.pictures,
            "labels_equal": json_number(drift.share_equal),
            "mean_iou_change": json_number(run.evaluation.scores.mean_iou - first.mean_iou),
            "mean_iou_change_interval": run.interval and run.interval.to_dict(),
            "iou_change": dict(zip(distinct_names(self.class_names), map(json_number, change), strict=True)),
            "worst": [
                {"name": self.data.samples[index].name, "labels_unequal": share} for index, share in drift.worst()
            ],
        }


def _places_dict(places: Places) -> dict[str, Any]:
    """What was said about where files lie and what they mean, for JSON; null is what the layout says."""
    return {
        "images": places.images and str(places.images.absolute()),
        "labels": places.labels and str(places.labels.absolute()),
        "image_suffix": places.image_suffix or None,
        "label_suffix": places.label_suffix or None,
        "ignore": places.ignore,
        "label_map": places.label_map and str(places.label_map.absolute()),
    }
