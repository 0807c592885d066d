"""One run of algm-bench: models, thresholds and batch sizes against each other on the same pictures.

All variants take turns in one process (see `timing`). A variant has two kinds of turns, which take part in the same
rounds: the model alone, on windows that lie in memory, and the whole job of algm-infer, from files to files.

    report = run_bench(BenchOptions(("dense.onnx", "merged.onnx"), batches=(1, 8), thresholds=(0.8, 0.9)))
    report.results[0].model.images_per_second.median
    report.to_dict()  # every figure and raw time
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from algm_trt.plugins.errors import AlgmError
from algm_trt.runtime.bench.models import Contender, open_contenders
from algm_trt.runtime.bench.pictures import Pictures, drawn_pictures, folder_pictures, listed_pictures
from algm_trt.runtime.bench.report import BenchOptions, BenchReport, BenchResult
from algm_trt.runtime.bench.turns import JobTurn, ModelTurn, Variant
from algm_trt.runtime.card import ModelCard
from algm_trt.runtime.evaluation.evaluate import Evaluation, EvaluationOptions, evaluate
from algm_trt.runtime.evaluation.multiscale import Protocol
from algm_trt.runtime.evaluation.sets import EvaluationSet, open_set
from algm_trt.runtime.machine import environment, load_average, peak_memory_mib
from algm_trt.runtime.paths import printable
from algm_trt.runtime.sources import Source
from algm_trt.runtime.timing import Call, take_turns
from algm_trt.runtime.titles import model_title


def run_bench(options: BenchOptions) -> BenchReport:
    """Measure all variants.

    After Ctrl-C the report holds what was measured by then, if every variant that it holds had a turn.

    Raises:
        AlgmError: a model or the pictures cannot be opened, or no variant could be measured.
        KeyboardInterrupt: before anything was measured.
    """
    known = environment() | {"load_average": {"before": load_average()}}
    with ExitStack() as stack:
        contenders = open_contenders(options.models, options.engine, stack, whole_job=options.whole_job)
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="algm-bench-")))
        run = _Run(options, contenders, folder)
        stopped_by = run.measure()
        known["load_average"]["after"] = load_average()
        known["peak_memory_mib"] = peak_memory_mib()
        return BenchReport(
            options=options,
            contenders=tuple(contender.to_dict() for contender in contenders),
            pictures=run.pictures,
            results=tuple(run.results()),
            baseline=_baseline(contenders, options.thresholds),
            left_out=tuple(run.left_out),
            notes=tuple(run.notes),
            stopped_by=stopped_by,
            environment=known,
        )


class _Run:
    """The state of one run."""

    def __init__(self, options: BenchOptions, contenders: Sequence[Contender], folder: Path):
        for contender in contenders:
            options.job.pipeline.check_against(contender.card)
        self.options = options
        self.contenders = {contender.name: contender for contender in contenders}
        self.folder = folder
        self.sets = {contender.name: self._labelled(contender) for contender in contenders}
        self.pictures = self._pictures(contenders[0])
        self.notes = self._notes()
        self.left_out: list[str] = []
        self.quality: dict[tuple[str, float | None], Evaluation] = {}
        self.models: dict[Variant, ModelTurn] = {}
        self.jobs: dict[Variant, JobTurn] = {}
        self._inputs: dict[tuple[tuple[int, int], int], tuple[list[Source], NDArray[np.uint8]]] = {}

    def measure(self) -> KeyboardInterrupt | None:
        """Quality, warm-up, rounds; returns what ended it before its last round, if something did.

        Raises:
            AlgmError: no variant could be measured.
            KeyboardInterrupt: before any variant had a turn.
        """
        self._score()
        variants = list(self._variants())
        kinds = 2 if self.options.whole_job else 1
        total = len(variants) * kinds * (self.options.rounds + self.options.warmup)
        with tqdm(total=total, desc="warm-up", unit="turn", disable=self.options.quiet or None) as bar:
            for variant in variants:
                self._prepare(variant)
                bar.update(kinds * self.options.warmup)
            if not self.models:
                raise AlgmError(f"nothing could be measured: {self.left_out[0]}")
            bar.set_description("measuring")
            try:
                for _ in self._turns():
                    bar.update()
            except KeyboardInterrupt as stop:
                if not any(turn.figures() for turn in self.models.values()):
                    raise
                return stop.with_traceback(None)  # which would keep the models in memory
        return None

    def results(self) -> Iterator[BenchResult]:
        """Of the variants that had a turn."""
        for variant, turn in self.models.items():
            figures, tokens = turn.figures(), turn.tokens
            if figures is None or tokens is None:
                continue
            job = self.jobs[variant].figures() if variant in self.jobs else None
            quality = self.quality.get((variant.model, variant.threshold))
            yield BenchResult(variant, tokens, figures, job, quality)

    def _variants(self) -> Iterator[Variant]:
        for contender in self.contenders.values():
            for threshold in contender.thresholds(self.options.thresholds):
                for batch in self.options.batches:
                    yield Variant(contender.name, threshold, batch)

    def _prepare(self, variant: Variant) -> None:
        """Warm a variant up; one that cannot run is left out by name."""
        options, contender = self.options, self.contenders[variant.model]
        sources, windows = self._inputs_of(contender.card)
        turn = ModelTurn(contender, variant, windows)
        job = JobTurn(contender, variant, sources, self.folder, options.job) if options.whole_job else None
        try:
            for _ in range(options.warmup):
                turn.probe()
                if job is not None:
                    job.probe()
        except AlgmError as error:
            self.left_out.append(f"{variant.title}, batch {variant.batch}: {error}")
            return
        self.models[variant] = turn
        if job is not None:
            self.jobs[variant] = job

    def _inputs_of(self, card: ModelCard) -> tuple[list[Source], NDArray[np.uint8]]:
        """Files for the whole job and windows for the model alone, shared by all models that take the same."""
        key = (card.size, card.stride)
        if key not in self._inputs:
            sources = self.pictures.sources(card, self.folder)
            pipeline = self.options.job.pipeline
            self._inputs[key] = sources, self.pictures.windows(sources, card, pipeline, max(self.options.batches))
        return self._inputs[key]

    def _turns(self) -> Iterator[Variant]:
        """All rounds, turn by turn."""
        calls: dict[tuple[Variant, bool], Call | Sequence[Call]] = {}
        for variant, turn in self.models.items():
            calls[variant, False] = turn.calls
            if variant in self.jobs:
                calls[variant, True] = self.jobs[variant]
        for (variant, is_job), seconds in take_turns(calls, self.options.rounds, self.options.seed):
            if is_job:
                self.jobs[variant].add()
            else:
                self.models[variant].add(seconds)
            yield variant

    def _labelled(self, contender: Contender) -> EvaluationSet | None:
        if self.options.dataset is None or self.options.data is None:
            return None
        data = open_set(self.options.dataset, self.options.data, contender.card, self.options.places)
        return replace(data, samples=data.samples[: self.options.limit])

    def _pictures(self, contender: Contender) -> Pictures:
        count, repeated = self.options.picture_count, self.options.repeat_one
        limit = self.options.job.max_pixels
        if self.options.data is None:
            return drawn_pictures(count, repeated=repeated)
        data = self.sets[contender.name]
        if data is None:
            return folder_pictures(self.options.data, count, repeated=repeated, max_pixels=limit)
        place = data.dataset if data.dataset != "folder" else printable(self.options.data.resolve().name)
        paths = [sample.image for sample in data.samples]
        return listed_pictures(paths, count, place, repeated=repeated, max_pixels=limit)

    def _score(self) -> None:
        """Mean IoU of every model at every threshold, as algm-eval finds it."""
        for contender in self.contenders.values():
            data = self.sets[contender.name]
            if data is None:
                continue
            for threshold in contender.thresholds(self.options.thresholds):
                self.quality[contender.name, threshold] = self._evaluate(contender, data, threshold)

    def _evaluate(self, contender: Contender, data: EvaluationSet, threshold: float | None) -> Evaluation:
        pipeline = replace(self.options.job.pipeline, threshold=threshold, batch_size=1)
        slides = pipeline.mode == "slide"
        protocol = Protocol(short_side=data.short_side, max_ratio=data.max_ratio) if slides else Protocol()
        options = EvaluationOptions(
            protocol, pipeline, max_pixels=self.options.job.max_pixels, quiet=self.options.quiet
        )
        return evaluate(contender.job_engine, data, options, title=model_title(contender.name, threshold))

    def _notes(self) -> list[str]:
        dense = [contender.name for contender in self.contenders.values() if contender.is_dense]
        asked = self.options.thresholds
        return [f"{name} does not merge: --thresholds do not apply to it" for name in dense if asked]


def _baseline(contenders: Sequence[Contender], thresholds: Sequence[float]) -> str:
    """The first dense model, or else the first variant."""
    first = next((contender for contender in contenders if contender.is_dense), contenders[0])
    return Variant(first.name, first.thresholds(thresholds)[0], 1).title
