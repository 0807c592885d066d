"""One job of algm-eval: several models and thresholds on the same pictures, one after the other."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from algm_trt.plugins.errors import AlgmError, UsageError
from algm_trt.plugins.stopping import stop_behind
from algm_trt.runtime.card import ModelCard
from algm_trt.runtime.engine import Engine
from algm_trt.runtime.evaluation.bootstrap import Interval, paired_interval
from algm_trt.runtime.evaluation.drift import Drift, LabelStore
from algm_trt.runtime.evaluation.drift_folder import write_drift
from algm_trt.runtime.evaluation.evaluate import WINDOWS_COUPLED, EvaluationOptions, evaluate
from algm_trt.runtime.evaluation.figures import Evaluation
from algm_trt.runtime.evaluation.report import EvaluationJob, FailedRun, Report, Run, Variant
from algm_trt.runtime.evaluation.sets import EvaluationSet, open_set, spread
from algm_trt.runtime.files import check_writable
from algm_trt.runtime.model_argument import ModelArgument, short_names
from algm_trt.runtime.window_runner import lanes_of, usual_batch


def run_evaluation(
    job: EvaluationJob, drift_folder: Path | None = None, on_change: Callable[[Report], None] = lambda report: None
) -> Report:
    """Evaluate every model at every threshold, one run after the other.

    What goes wrong after the first run ends neither the job nor what was found: a model that fails is named in the
    report, and after Ctrl-C or SIGTERM the report holds the runs that were complete.

    Args:
        job: what to evaluate.
        drift_folder: where the pictures that drifted most are drawn; None draws none.
        on_change: gets the report when all models and the data set have been opened, and after every run.

    Raises:
        AlgmError: a model or the data set cannot be opened, or the first run failed.
        KeyboardInterrupt: before the first run was complete.
    """
    report = _planned(job)
    if drift_folder is not None:
        if len(report.planned) < 2:
            raise UsageError("--drift compares runs with the first one: give a second model or threshold")
        check_writable(drift_folder / "drift.json")
    on_change(report)
    with TemporaryDirectory(prefix="algm-eval-") as folder:
        runs = _Runs(report, LabelStore(Path(folder)), drift_folder, on_change)
        try:
            runs.measure()
        except KeyboardInterrupt as stop:
            if not runs.report.runs:
                raise
            return replace(runs.report, stopped_by=stop.with_traceback(None))  # which would keep the model in memory
        return runs.report


class _Runs:
    """The runs of a job.

    Attributes:
        report: what they have found so far.
    """

    def __init__(
        self, report: Report, store: LabelStore, drift_folder: Path | None, on_change: Callable[[Report], None]
    ):
        self.report = report
        self._store = store
        self._drift_folder = drift_folder
        self._on_change = on_change

    def measure(self) -> None:
        """Run everything that is planned.

        Raises:
            AlgmError: the first run failed.
            KeyboardInterrupt: Ctrl-C came.
        """
        for _, group in groupby(self.report.planned, key=lambda variant: id(variant.argument)):
            variants = list(group)
            try:
                engine = _open(self.report.job, variants[0].argument)
            except AlgmError as error:
                self._note(variants[0].name, error)
                continue
            with closing(engine):
                for variant in variants:
                    self._run(variant, engine)

    def _run(self, variant: Variant, engine: Engine) -> None:
        options, runs = self.report.options, self.report.runs
        batch_size = options.pipeline.batch_size
        if self.report.job.usual_batches:
            batch_size = WINDOWS_COUPLED if variant.window_batch_coupled else usual_batch(engine)
        pipeline = replace(options.pipeline, threshold=variant.threshold, batch_size=batch_size)
        options = replace(options, pipeline=pipeline, window_batch_coupled=variant.window_batch_coupled)
        drift = Drift(self._store) if runs else None
        on_labels = drift.compare if drift else self._store.put if len(self.report.planned) > 1 else None
        try:
            evaluation = evaluate(engine, self.report.data, options, on_labels, variant.title)
        except AlgmError as error:
            self._note(variant.title, error)
            return
        sha256 = _sha256(variant.argument)
        interval = _interval(runs[0].evaluation, evaluation) if runs else None
        run = Run(variant, engine.description, lanes_of(engine), batch_size, sha256, evaluation, drift, interval)
        self.report = replace(self.report, runs=(*runs, run))
        self._on_change(self.report)
        if self._drift_folder is not None and drift is not None:
            try:
                write_drift(self.report, self._drift_folder)
            except (AlgmError, OSError) as error:
                self._note(f"{variant.title}, drawing its drift", error)

    def _note(self, title: str, error: AlgmError | OSError) -> None:
        """Name what failed, unless nothing has been found yet.

        Raises:
            AlgmError: no run is complete; or an OSError.
            KeyboardInterrupt: it was no failure.
        """
        stop = stop_behind(error)
        if stop is not None:
            raise stop
        if not self.report.runs:
            raise error
        failed = FailedRun(title, " ".join(str(error).split()))
        self.report = replace(self.report, failed=(*self.report.failed, failed))
        self._on_change(self.report)


def _planned(job: EvaluationJob) -> Report:
    """What is to run; all models have been opened, so that a wrong one is met before the others have run for hours."""
    arguments = [ModelArgument.parse(text, job.engine) for text in job.models]
    cards = [_checked_card(job, argument) for argument in arguments]
    counts = {len(card.classes) for card in cards}
    if len(counts) > 1:
        raise UsageError(f"the models have different numbers of classes: {sorted(counts)}")
    data = open_set(job.dataset, job.root, cards[0], job.places)
    total = len(data.samples)
    if job.limit is not None:
        data = replace(data, samples=tuple(spread(data.samples, job.limit)))
    options = _official(job, data)
    pipeline = options.pipeline
    planned = [
        Variant(
            argument=argument,
            name=name,
            card=card,
            threshold=threshold,
            stride=(pipeline.stride or card.stride) if pipeline.mode == "slide" else None,
            window_batch_coupled=_is_coupled(job, argument),
        )
        for argument, name, card in zip(arguments, short_names(arguments), cards, strict=True)
        for threshold in card.thresholds(job.thresholds)
    ]
    return Report(job, data, total, options, tuple(planned))


def _checked_card(job: EvaluationJob, argument: ModelArgument) -> ModelCard:
    with closing(_open(job, argument)) as engine:
        job.options.pipeline.check_against(engine.card)
        return engine.card


def _open(job: EvaluationJob, argument: ModelArgument) -> Engine:
    return argument.open(window_batch_coupled=_is_coupled(job, argument))


def _is_coupled(job: EvaluationJob, argument: ModelArgument) -> bool:
    return job.options.window_batch_coupled or argument.is_coupled


def _interval(first: Evaluation, other: Evaluation) -> Interval | None:
    """Of the change of the mean IoU, from the pictures that both have scored."""
    areas = [{picture.index: picture.areas for picture in run.scored} for run in (first, other)]
    both = [index for index in areas[0] if index in areas[1]]
    pairs = [(areas[0][index], areas[1][index]) for index in both]
    known = [(before, after) for before, after in pairs if before is not None and after is not None]
    if not known:
        return None
    return paired_interval(np.stack([before for before, _ in known]), np.stack([after for _, after in known]))


def _sha256(argument: ModelArgument) -> str | None:
    try:
        return argument.sha256
    except OSError:
        return None


def _official(job: EvaluationJob, data: EvaluationSet) -> EvaluationOptions:
    """The options with the short side that is asked for, or else the data set's."""
    if job.options.pipeline.mode == "whole":
        if job.short_side:
            raise UsageError("mode whole resizes every picture to the model's input: leave out --short-side")
        return job.options
    side, ratio = data.shown_at(job.short_side)
    return replace(job.options, protocol=replace(job.options.protocol, short_side=side, max_ratio=ratio))
