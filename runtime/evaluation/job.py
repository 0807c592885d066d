"""One run of algm-eval: several models and thresholds on the same pictures, and what changes between them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from PIL import Image

from algm_trt.plugins.errors import UsageError
from algm_trt.runtime.card import ModelCard
from algm_trt.runtime.checkpoint_adapter import is_checkpoint, open_model
from algm_trt.runtime.decode import decode_image
from algm_trt.runtime.engine import Engine
from algm_trt.runtime.engine_options import EngineOptions
from algm_trt.runtime.evaluation.drift import Drift, Labels, LabelStore, side_by_side
from algm_trt.runtime.evaluation.evaluate import (
    Evaluation,
    EvaluationOptions,
    distinct_names,
    evaluate,
    json_number,
)
from algm_trt.runtime.evaluation.sets import EvaluationSet, Places, open_set
from algm_trt.runtime.files import check_writable, renamed_together
from algm_trt.runtime.titles import model_title
from algm_trt.runtime.window_runner import usual_batch


@dataclass(frozen=True)
class EvaluationJob:
    """What to evaluate.

    Attributes:
        models: files of models; a checkpoint (.pth) may end in ":dense" for its network without merging.
        root: folder of the data set.
        dataset: one of `evaluation.sets.DATASETS`.
        places: what differs from the data set's official layout.
        options: how pictures go through the models; the protocol's short side is replaced by `short_side`.
        short_side: pixels; None is the data set's official value, 0 takes pictures as they are.
        thresholds: similarities to run every merging model at; empty: the model's own.
        limit: evaluate only this many pictures, the first ones.
        engine: what runs the models, and where.
        usual_batches: every model takes the batch size that suits it best, not that of the pipeline.
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
            raise UsageError("--window-batch-coupled is for checkpoints (.pth): exported models decide per image")


@dataclass(frozen=True, eq=False)
class Run:
    """One model at one threshold.

    Attributes:
        model: as it was given.
        name: short name that no other model of the job has.
        backend: that ran it, and where.
        threshold: similarity it merged at; None for a dense model.
        stride: step of its windows in pixels; None where it took pictures whole.
        batch_size: windows it got at a time.
        evaluation: what it reached.
        drift: from the first run; None for the first run itself.
    """

    model: str
    name: str
    backend: str
    threshold: float | None
    stride: int | None
    batch_size: int
    evaluation: Evaluation
    drift: Drift | None

    @property
    def title(self) -> str:
        """Name of the model, and the threshold."""
        return model_title(self.name, self.threshold)


@dataclass(frozen=True, eq=False)
class Report:
    """What a job found.

    Attributes:
        data: what was evaluated on.
        options: how, with the short side that was taken.
        card: of the first model.
        runs: in the order of the models and thresholds.
    """

    data: EvaluationSet
    options: EvaluationOptions
    card: ModelCard
    runs: tuple[Run, ...]

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes: the data set's, or else the first model's."""
        return self.data.class_names or self.card.classes

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        protocol = self.options.protocol
        return {
            "dataset": self.data.dataset,
            "split": self.data.split,
            "pictures": len(self.data.samples),
            "protocol": {
                "mode": self.options.pipeline.mode,
                "short_side": protocol.short_side,
                "max_ratio": protocol.max_ratio,
                "scales": list(protocol.scales),
                "flip": protocol.flip,
                "window_batch_coupled": self.options.window_batch_coupled,
            },
            "runs": [self._run_dict(run) for run in self.runs],
        }

    def _run_dict(self, run: Run) -> dict[str, Any]:
        known = {
            "model": run.model,
            "backend": run.backend,
            "threshold": run.threshold,
            "stride": run.stride,
            "batch_size": run.batch_size,
        }
        scores = run.evaluation.to_dict(self.class_names)
        return known | scores | ({"drift": self._drift_dict(run, run.drift)} if run.drift else {})

    def _drift_dict(self, run: Run, drift: Drift) -> dict[str, Any]:
        first = self.runs[0].evaluation.scores
        change = run.evaluation.scores.iou - first.iou
        return {
            "from": self.runs[0].title,
            "pictures": drift.pictures,
            "labels_equal": json_number(drift.share_equal),
            "mean_iou_change": json_number(run.evaluation.scores.mean_iou - first.mean_iou),
            "iou_change": dict(zip(distinct_names(self.class_names), map(json_number, change), strict=True)),
            "worst": [
                {"name": self.data.samples[index].name, "labels_unequal": share} for index, share in drift.worst()
            ],
        }


def run_evaluation(job: EvaluationJob, drift_folder: Path | None = None) -> Report:
    """Evaluate every model at every threshold, one run after the other.

    Args:
        job: what to evaluate.
        drift_folder: where the pictures that drifted most are drawn; None draws none.

    Raises:
        AlgmError: a model or the data set cannot be opened, or none of the pictures could be scored.
    """
    cards = _checked_cards(job)
    data = open_set(job.dataset, job.root, cards[0], job.places)
    data = replace(data, samples=data.samples[: job.limit])
    options = _official(job, data)
    several = sum(len(_thresholds(job, card)) for card in cards) > 1
    if drift_folder is not None:
        if not several:
            raise UsageError("--drift compares runs with the first one: give a second model or threshold")
        check_writable(drift_folder / "drift.json")
    runs: list[Run] = []
    with TemporaryDirectory(prefix="algm-eval-") as folder:
        store = LabelStore(Path(folder)) if several else None
        for model, name in zip(job.models, _short_names(job.models), strict=True):
            with closing(_open(job, model)) as engine:
                batch_size = usual_batch(engine) if job.usual_batches else options.pipeline.batch_size
                for threshold in _thresholds(job, engine.card):
                    pipeline = replace(options.pipeline, threshold=threshold, batch_size=batch_size)
                    drift = Drift(store) if store and runs else None
                    on_labels = drift.compare if drift else store.put if store else None
                    runs.append(_run(model, name, engine, data, replace(options, pipeline=pipeline), on_labels, drift))
        report = Report(data, options, cards[0], tuple(runs))
        if drift_folder is not None:
            _draw_drift(report, drift_folder)
    return report


def _checked_cards(job: EvaluationJob) -> list[ModelCard]:
    """Cards of all models, so that a wrong one is met before the others have run for hours."""
    cards = []
    for model in job.models:
        with closing(_open(job, model)) as engine:
            job.options.pipeline.check_against(engine.card)
            cards.append(engine.card)
    counts = {len(card.classes) for card in cards}
    if len(counts) > 1:
        raise UsageError(f"the models have different numbers of classes: {sorted(counts)}")
    return cards


def _open(job: EvaluationJob, model: str) -> Engine:
    coupled = job.options.window_batch_coupled
    return open_model(model, job.engine, window_batch_coupled=coupled)


def _draw_drift(report: Report, folder: Path) -> None:
    """Draw the pictures that drifted most, a subfolder per run, and write drift.json."""
    changes = []
    for number, (run, entry) in enumerate(zip(report.runs, report.to_dict()["runs"], strict=True)):
        if run.drift is None:
            continue
        changes.append(entry["drift"] | {key: entry[key] for key in ("model", "threshold")})
        at = "dense" if run.threshold is None else f"{run.threshold:g}"
        for place, (index, _) in enumerate(run.drift.worst(), start=1):
            name = report.data.samples[index].name.replace("/", "_")
            path = folder / f"{number:02d}_{Path(run.name).stem}_{at}" / f"{place:02d}_{name}.png"
            _write_sheet(_sheet(report, run, run.drift, index), path)
    with renamed_together() as temporary:
        temporary(folder / "drift.json").write_text(json.dumps(changes, indent=1) + "\n", encoding="utf-8")


def _sheet(report: Report, run: Run, drift: Drift, index: int) -> Image.Image:
    sample = report.data.samples[index]
    picture = decode_image(sample.image, max_pixels=report.options.max_pixels)
    truth = report.data.truth(sample, (picture.shape[0], picture.shape[1]))
    before, after = drift.worst_labels(index)
    columns = [("ground truth", truth), (report.runs[0].title, before), (run.title, after)]
    return side_by_side(picture, columns, report.card.palette)


def _write_sheet(sheet: Image.Image, path: Path) -> None:
    with renamed_together() as temporary:
        sheet.save(temporary(path))


def _official(job: EvaluationJob, data: EvaluationSet) -> EvaluationOptions:
    """The options with the short side that is asked for, or else the data set's."""
    if job.options.pipeline.mode == "whole":
        if job.short_side:
            raise UsageError("mode whole resizes every picture to the model's input: leave out --short-side")
        return job.options
    side = data.short_side if job.short_side is None else job.short_side or None
    ratio = data.max_ratio if side else None
    return replace(job.options, protocol=replace(job.options.protocol, short_side=side, max_ratio=ratio))


def _thresholds(job: EvaluationJob, card: ModelCard) -> tuple[float | None, ...]:
    if card.merge is None:
        return (None,)
    return job.thresholds or (card.merge.threshold,)


def _run(
    model: str,
    name: str,
    engine: Engine,
    data: EvaluationSet,
    options: EvaluationOptions,
    on_labels: Callable[[int, Labels], None] | None,
    drift: Drift | None,
) -> Run:
    pipeline = options.pipeline
    threshold, batch_size = pipeline.threshold, pipeline.batch_size
    stride = (pipeline.stride or engine.card.stride) if pipeline.mode == "slide" else None
    evaluation = evaluate(engine, data, options, on_labels, model_title(name, threshold))
    return Run(model, name, engine.description, threshold, stride, batch_size, evaluation, drift)


def _short_names(models: Sequence[str]) -> list[str]:
    """File names of the models, where those differ; otherwise the models as they were given."""
    names = [Path(model).name for model in models]
    return names if len(set(names)) == len(names) else list(models)
